"""SPIFFE: JWT-SVIDs of one trust domain.

The agent is the SPIFFE ID, ``<issuer>/<path segments>``. An SVID needs no ``iss`` and no ``jti``: its subject names
the trust domain, whose bundle holds the keys, marked ``jwt-svid``
(https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from broker.authenticators.claim_sheet import ClaimSheet
from broker.authenticators.preset import Preset
from broker.core.identity import Agent, federated_id
from broker.core.issuer import TrustedIssuer
from broker.core.jwt import SPIFFE_SVID, InvalidToken

SCHEME: Final = "spiffe://"
KEY_USE: Final = "jwt-svid"

_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+")


def trust_domain_of(subject: str | None) -> str | None:
    """Return the trust domain that a SPIFFE ID names, or None if the text is none."""
    if subject is None or not subject.startswith(SCHEME):
        return None
    domain = subject.removeprefix(SCHEME).partition("/")[0]
    return domain if _TRUST_DOMAIN.fullmatch(domain) else None


def _identify(claims: Mapping[str, Any], issuer: TrustedIssuer) -> Agent:
    """Make the agent. The SPIFFE ID must be one of a workload in the issuer's trust domain."""
    subject = claims["sub"]
    domain = trust_domain_of(subject)
    if domain is None or domain != issuer.trust_domain:
        raise InvalidToken("subject")
    segments = subject.removeprefix(f"{SCHEME}{domain}/").split("/")
    if any(_SEGMENT.fullmatch(segment) is None or segment in (".", "..") for segment in segments):
        raise InvalidToken("subject")
    return Agent(federated_id(issuer.name, *segments), issuer.name, subject, {"trust_domain": domain})


SPIFFE: Final = Preset(
    row=SPIFFE_SVID,
    sheet=ClaimSheet(),
    identify=_identify,
    method="spiffe",
    key_use=KEY_USE,
)
