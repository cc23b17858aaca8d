"""Issuing tokens: who applies, what is decided, what is recorded, and only then released."""

from broker.issuance.conductor import Issuance, Issued, TokenRequest

__all__ = ["Issuance", "Issued", "TokenRequest"]
