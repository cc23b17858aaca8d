"""What a resource server uses to check the broker's access tokens offline, with revocation."""

from broker.verifier.actions import Actions, Reservation
from broker.verifier.challenge import Answer, answer, metadata_path, metadata_url
from broker.verifier.introspecting import IntrospectingVerifier
from broker.verifier.source import Credentials, TokenSource
from broker.verifier.token_verifier import TokenVerifier, Verified
from broker.verifier.verifier import Following, Verifier
from broker.verifier.watching import Watch

__all__ = [
    "Actions",
    "Answer",
    "Credentials",
    "Following",
    "IntrospectingVerifier",
    "Reservation",
    "TokenSource",
    "TokenVerifier",
    "Verified",
    "Verifier",
    "Watch",
    "answer",
    "metadata_path",
    "metadata_url",
]
