"""Introspection (RFC 7662): telling those who may know whether a token is good, and nobody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from broker.core.access_token import VerifiedToken
from broker.core.errors import BrokerError
from broker.core.identity import Agent
from broker.core.policy import Policy
from broker.core.token_check import TokenCheck
from broker.ports import Clock

SEES_ALL: Final = "operator:read"


class Introspection:
    """Answers introspection requests. It reads memory only, so it works while the ledger does not."""

    def __init__(self, *, check: TokenCheck, policy: Callable[[], Policy], clock: Clock) -> None:
        """``check`` judges tokens by the rules in force now."""
        self._check = check
        self._policy = policy
        self._clock = clock

    def introspect(self, token: str, asker: Agent, scopes: frozenset[str]) -> dict[str, Any]:
        """Return the RFC 7662 answer for ``asker``.

        A token that is bad in any way, or that the asker has no business with, is ``{"active": false}``. The asker may
        know about its own tokens, about tokens for the audiences it serves by the policy, and about all of them with
        the scope ``operator:read``.
        """
        try:
            verified = self._check.check(token, self._clock.now(), None)
        except BrokerError:
            return _inactive()
        claims = verified.claims
        entitled = (
            SEES_ALL in scopes or claims.client_id == asker.id or self._policy().serves(asker, audience=claims.aud)
        )
        return _described(verified) if entitled else _inactive()


def _inactive() -> dict[str, Any]:
    return {"active": False}


def _described(verified: VerifiedToken) -> dict[str, Any]:
    token_type = "Bearer" if verified.claims.jkt is None else "DPoP"
    return {"active": True, "token_type": token_type, **verified.claims.to_payload()}
