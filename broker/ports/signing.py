"""Signing what is issued."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from broker.core.claims import AccessClaims
from broker.core.identity_token import IdentityClaims


@dataclass(frozen=True, slots=True)
class Minted:
    """A signed token that was not recorded yet and must not be released. ``kid`` is the signing key's thumbprint."""

    token: str = field(repr=False)
    kid: str


class Signer(Protocol):
    """Signs access tokens with the key that is active now."""

    def kid(self) -> str:
        """The id (RFC 7638 thumbprint) of the key that the next token is signed with."""
        ...

    async def mint_checked(self, claims: AccessClaims, now: float) -> Minted:
        """Sign the claims as an RFC 9068 access token, verify that through the public path, and compare every claim.

        Raises ``Unavailable`` (``INTERNAL``) if it is not exactly what was meant; nothing is released then. Raises
        ``Refused`` (``TOO_LARGE``) if it is more than a token can say.
        """
        ...


class IdentitySigner(Protocol):
    """Signs identity tokens, by which agents prove to others who they are, with the key that is active now."""

    def mint_checked(self, claims: IdentityClaims, now: float) -> Minted:
        """Sign the claims as a JWT of type ``JWT``, verify that, and compare every claim.

        Raises ``Unavailable`` (``INTERNAL``) if it is not exactly what was meant; nothing is released then. Raises
        ``Refused`` (``TOO_LARGE``) if it is more than a token can say.
        """
        ...
