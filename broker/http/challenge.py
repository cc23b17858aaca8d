"""The ``WWW-Authenticate`` challenges that tell a caller how to come in (RFC 6750, RFC 9449, RFC 9728)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

from broker.core.errors import Code
from broker.core.jwt import DPOP_PROOF
from broker.http.problem import status_of
from broker.http.surface import Site

BASIC: Final = 'Basic realm="broker"'

_ALGORITHMS: Final = " ".join(sorted(DPOP_PROOF.algorithms))
_TOKEN_CODES: Final = frozenset({Code.TOKEN_INVALID, Code.TOKEN_EXPIRED, Code.TOKEN_REVOKED, Code.TOKEN_AUDIENCE})
_PROOF_ERRORS: Final[Mapping[Code, str]] = MappingProxyType(
    {
        Code.PROOF_REQUIRED: "invalid_dpop_proof",
        Code.PROOF_INVALID: "invalid_dpop_proof",
        Code.PROOF_REPLAYED: "invalid_dpop_proof",
        Code.PROOF_NONCE_REQUIRED: "use_dpop_nonce",
    }
)


def challenges(site: Site, code: Code, scope: str | None) -> tuple[str, ...]:
    """Return the challenges that go with a refusal at a protected resource; ``scope`` is what the route needs.

    There are some for every 401, and for a token that lacks the scope (403). No ``error`` is named when no token was
    sent.
    """
    if status_of(code) is not HTTPStatus.UNAUTHORIZED and code is not Code.INSUFFICIENT_SCOPE:
        return ()
    error = _bearer_error(code)
    bearer = [f'resource_metadata="{site.resource_metadata}"']
    if scope is not None:
        bearer.append(f'scope="{scope}"')
    if error is not None:
        bearer.append(f'error="{error}"')
    proof_error = _PROOF_ERRORS.get(code, error)
    dpop = [f'algs="{_ALGORITHMS}"']
    if proof_error is not None:
        dpop.append(f'error="{proof_error}"')
    return f"Bearer {', '.join(bearer)}", f"DPoP {', '.join(dpop)}"


def _bearer_error(code: Code) -> str | None:
    if code in _TOKEN_CODES:
        return "invalid_token"
    return "insufficient_scope" if code is Code.INSUFFICIENT_SCOPE else None
