"""Finding the access token in a request (RFC 6750, 2.1; RFC 9449, 7.1): in the Authorization header, nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from broker.core.errors import BrokerError, Code, Malformed

BEARER: Final = "bearer"
DPOP: Final = "dpop"

_TOKEN68: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")

Headers = Mapping[str, str] | Iterable[tuple[str, str]]
"""A request's headers as (name, value) pairs; repeated ones repeated, as in ``request.headers.items()``."""


@dataclass(frozen=True, slots=True)
class Presented:
    """A token as it was presented: nothing about it is known to be true. ``scheme`` is ``bearer`` or ``dpop``."""

    scheme: str
    token: str = field(repr=False)
    proof: str | None = field(default=None, repr=False)


def presented(headers: Headers) -> Presented:
    """Return the token of a request.

    Raises ``Malformed`` when there are two, ``BrokerError`` with ``TOKEN_MISSING`` when there is none,
    ``TOKEN_INVALID`` when it cannot be one, ``PROOF_REQUIRED`` or ``PROOF_INVALID`` when the scheme is DPoP and there
    is not exactly one proof.
    """
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    authorizations = _values(pairs, "authorization")
    if len(authorizations) > 1:
        raise Malformed("Authorization: send the header once")
    scheme, _, token = (authorizations[0] if authorizations else "").strip().partition(" ")
    scheme = scheme.lower()
    if scheme not in (BEARER, DPOP):
        raise BrokerError(Code.TOKEN_MISSING, "send an access token in the Authorization header")
    token = token.strip(" ")
    if _TOKEN68.fullmatch(token) is None:
        raise BrokerError(Code.TOKEN_INVALID, "the token is not a valid access token")
    return Presented(scheme, token, _proof(pairs) if scheme == DPOP else None)


def _proof(pairs: Iterable[tuple[str, str]]) -> str:
    proofs = _values(pairs, "dpop")
    if not proofs:
        raise BrokerError(Code.PROOF_REQUIRED, "the scheme is DPoP: send a DPoP proof")
    if len(proofs) > 1:
        raise BrokerError(Code.PROOF_INVALID, "DPoP: send the header once")
    return proofs[0].strip()


def _values(pairs: Iterable[tuple[str, str]], name: str) -> list[str]:
    return [value for key, value in pairs if key.lower() == name]
