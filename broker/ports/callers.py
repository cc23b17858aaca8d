"""Who is calling: from an assertion that nobody has verified to an agent that was admitted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from broker.core.change import Guard
from broker.core.claims import AccessClaims
from broker.core.errors import BrokerError, Code
from broker.core.identity import Agent


@dataclass(frozen=True, slots=True)
class UnverifiedAssertion:
    """An assertion as it was presented; nothing about it is known to be true.

    ``spiffe`` says that it was presented as ``client-assertion-type:jwt-spiffe``. ``as_grant`` says that it is the
    ``assertion`` of a ``jwt-bearer`` grant, not a client authentication.
    """

    token: str = field(repr=False)
    spiffe: bool = False
    as_grant: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated:
    """An agent, and how it was authenticated.

    ``method`` is ``private_key_jwt``, ``platform`` or ``spiffe``. ``guards`` must hold in the commit that acts on this
    authentication (single use of an assertion); they are empty for reusable platform tokens. ``digest`` is the SHA-256
    of the assertion (hex), ``assertion_id`` its ``jti``, ``key`` the id of the key that verified it.
    """

    agent: Agent
    method: str
    digest: str
    guards: tuple[Guard, ...] = ()
    assertion_id: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """Who is calling.

    A caller that came by assertion has only what is its own: ``scopes`` are empty, and there are no ``claims``, which
    are those of the access token that another one came with; ``kid`` is the key that signed that.
    """

    agent: Agent
    scopes: frozenset[str] = frozenset()
    claims: AccessClaims | None = None
    kid: str = ""

    def require(self, scope: str) -> None:
        """Raise ``BrokerError`` (``INSUFFICIENT_SCOPE``) unless the caller's token has this scope."""
        if scope not in self.scopes:
            raise BrokerError(Code.INSUFFICIENT_SCOPE, f"this needs the scope {scope}")


class Authenticator(Protocol):
    """Turns an outside identity into an agent."""

    async def authenticate(self, assertion: UnverifiedAssertion, now: float) -> Authenticated:
        """Verify an assertion completely (protocol sheet B.3, every step but revocation and replay).

        Raises ``Refused`` with ``ASSERTION_INVALID`` (the text does not say which issuers or agents exist), or
        ``Unavailable`` with ``ISSUER_UNAVAILABLE`` when the issuer's keys cannot be had.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Where a request came from, for the record: the client's address, the request id, the W3C trace id.

    ``token`` is the id of the token that it came with, ``key`` the thumbprint of the key that this is bound to.
    """

    address: str
    request_id: str
    trace_id: str
    token: str | None = None
    key: str | None = None

    def members(self) -> dict[str, str]:
        """Return what every ledger entry about this request says of where it came from."""
        shown = {"caller_token": self.token, "caller_key": self.key}
        told = {"address": self.address, "request": self.request_id, "trace": self.trace_id}
        return told | {name: value for name, value in shown.items() if value is not None}
