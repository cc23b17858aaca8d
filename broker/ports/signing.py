"""Signing what is issued."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from broker.core.claims import AccessClaims
from broker.core.identity_token import IdentityClaims
from broker.core.rules import Rule


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


class Statements(Protocol):
    """Signs what verifiers are told of the rules in force in this process; times are Unix seconds.

    The same statement is signed once, however often it is asked for within a second.
    """

    def snapshot(self, now: float) -> str:
        """Return all rules as a JWT. Raises ``Unavailable`` if there is no key, or if they are too many to be read."""
        ...

    def heartbeat(self, now: float) -> str:
        """Return the epoch and the ids of the pending rules as a JWT. Raises ``Unavailable`` like :meth:`snapshot`."""
        ...

    def rule(self, rule: Rule, previous: int, now: float) -> str:
        """Return one rule, and the epoch before it, as a JWT. Raises ``Unavailable`` if there is no key."""
        ...
