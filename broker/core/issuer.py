"""Trusted issuers: whose platform tokens the operator accepts, and under which rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedIssuer:
    """One entry of the policy's ``issuers``; a plain value, compared by all its members.

    ``name`` is the operator's name for it, the first segment of its agents' ids. ``preset`` is ``kubernetes``,
    ``github-actions``, ``spiffe`` or ``oidc`` and says how claims become an agent. ``issuer`` is the exact ``iss`` of
    its tokens (for ``spiffe``, whose tokens need none, ``trust_domain`` is given instead). A token must be meant for
    one of ``audiences``, be signed with one of ``algorithms`` and live no longer than ``max_lifetime`` seconds.

    Keys come from one source: ``jwks`` (given inline), ``jwks_url``, ``bundle_url`` (a SPIFFE bundle), or else OpenID
    Connect discovery under ``issuer``. ``allow_private`` and ``allow_http`` let fetches go to private addresses and
    without TLS; ``ca_file`` is a PEM file with the roots to trust there. ``require_unique_jti`` makes each token usable
    once.
    """

    name: str
    preset: str
    issuer: str | None = None
    audiences: tuple[str, ...]
    trust_domain: str | None = None
    bundle_url: str | None = None
    jwks_url: str | None = None
    jwks: Mapping[str, Any] | None = field(default=None, hash=False)
    algorithms: tuple[str, ...]
    max_lifetime: int
    allow_private: bool = False
    allow_http: bool = False
    ca_file: str | None = None
    require_unique_jti: bool = False
