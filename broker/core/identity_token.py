"""Identity tokens: short JWTs by which an agent proves to others who it is, and to nobody who takes access tokens.

Clouds, Vault and Kubernetes accept them as they accept the tokens of any OpenID provider. They cannot be revoked there;
a short life is the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from broker.core.aws_session import AWS_AUDIENCE, session_claims
from broker.core.claims import nested_act
from broker.core.jwt import Audience, Row

OWN_SUBJECT: Final = "broker"
"""The subject of the broker's own identity tokens. No agent of this name gets any."""

OWN_SECONDS: Final = 300
"""Seconds that an identity token of the broker itself lives."""

RESERVED_CLAIMS: Final = frozenset(
    {
        *("iss", "sub", "aud", "exp", "nbf", "iat", "jti", "typ", "cnf", "act", "may_act", "azp", "client_id"),
        *("scope", "scp", "authorization_details", "nonce", "auth_time", "acr", "amr", "at_hash", "c_hash", "sid"),
        *("events", "txn", "status", "entitlements", "roles", "email", "email_verified"),
        *("agent", "task", "role", "groups", "broker"),
    }
)
"""Claims (in lower case) that a policy cannot add: the broker, a standard, or their readers give them a meaning."""

IDENTITY_TOKEN: Final = Row(
    name="identity token",
    types=frozenset({"jwt"}),
    typ_required=True,
    algorithms=frozenset({"ES256", "RS256", "EdDSA"}),
    audience=Audience.SOLE,
    required=("iat", "nbf", "sub", "jti"),
    max_lifetime=3600,
)
"""Our own identity tokens, as others verify them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityClaims:
    """What an identity token says. Times are Unix seconds.

    ``sub`` is the agent on whose behalf it is, ``agent`` the one that acts; ``actors`` are all that do, that one first,
    and empty if the token names none. ``more`` and ``groups`` are what the policy adds.
    """

    iss: str
    sub: str
    aud: str
    iat: int
    exp: int
    jti: str
    agent: str
    task: str
    role: str
    actors: tuple[str, ...] = ()
    more: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()

    def to_payload(self) -> dict[str, Any]:
        """Return the JWT payload (``nbf`` equals ``iat``); for AWS with the tags of the session to be."""
        payload: dict[str, Any] = {
            **self.more,
            "iss": self.iss,
            "sub": self.sub,
            "aud": self.aud,
            "iat": self.iat,
            "nbf": self.iat,
            "exp": self.exp,
            "jti": self.jti,
            "agent": self.agent,
            "task": self.task,
            "role": self.role,
        }
        if self.actors:
            payload["act"] = nested_act(self.actors)
        if self.groups:
            payload["groups"] = list(self.groups)
        if self.aud == AWS_AUDIENCE:
            payload |= session_claims(agent=self.agent, task=self.task)
        return payload


def own_payload(*, issuer: str, audience: str, jti: str, now: float) -> dict[str, Any]:
    """Return the payload of an identity token of the broker itself, for ``audience``, at ``now`` (Unix seconds)."""
    iat = int(now)
    return {
        "iss": issuer,
        "sub": OWN_SUBJECT,
        "aud": audience,
        "iat": iat,
        "nbf": iat,
        "exp": iat + OWN_SECONDS,
        "jti": jti,
    }
