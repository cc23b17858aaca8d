"""Any OpenID provider: the agent is the subject, ``<issuer>/<sub>``, and every claim of a usable shape is exposed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from broker.authenticators.claim_sheet import attributes
from broker.authenticators.preset import Preset
from broker.core.identity import Agent, federated_id
from broker.core.issuer import TrustedIssuer
from broker.core.jwt import PLATFORM_TOKEN

MAX_ATTRIBUTES: Final = 128
MAX_NAME: Final = 256

_NOT_EXPOSED: Final = frozenset({"iss", "aud", "exp", "nbf", "iat", "jti", "nonce", "at_hash", "c_hash", "s_hash"})


def _identify(claims: Mapping[str, Any], issuer: TrustedIssuer) -> Agent:
    """Make the agent."""
    subject = claims["sub"]
    names = [name for name in claims if name not in _NOT_EXPOSED and len(name) <= MAX_NAME and name.isprintable()]
    exposed = attributes(claims, names[:MAX_ATTRIBUTES])
    return Agent(federated_id(issuer.name, subject), issuer.name, subject, exposed)


OIDC: Final = Preset(row=PLATFORM_TOKEN, sheet=None, identify=_identify)
