"""What a resource server uses to check the broker's access tokens offline, with revocation."""

from broker.verifier.actions import Actions, Reservation
from broker.verifier.challenge import Answer, answer, metadata_path, metadata_url
from broker.verifier.source import Credentials, TokenSource
from broker.verifier.verifier import Verified, Verifier

__all__ = [
    "Actions",
    "Answer",
    "Credentials",
    "Reservation",
    "TokenSource",
    "Verified",
    "Verifier",
    "answer",
    "metadata_path",
    "metadata_url",
]
