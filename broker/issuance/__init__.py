"""Issuing tokens: who applies, what is decided, what is recorded, and only then released."""

from broker.issuance.applicants import Applicants, Exchange, TokenRequest
from broker.issuance.conductor import MAX_ATTEMPTS, Issuance, Issued
from broker.issuance.identities import IdentityTokens, IssuedIdentity
from broker.issuance.intake import RECORDED_REFUSALS, Intake
from broker.issuance.token_ids import TokenIds

__all__ = [
    "MAX_ATTEMPTS",
    "RECORDED_REFUSALS",
    "Applicants",
    "Exchange",
    "IdentityTokens",
    "Intake",
    "Issuance",
    "Issued",
    "IssuedIdentity",
    "TokenIds",
    "TokenRequest",
]
