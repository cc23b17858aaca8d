"""Kubernetes: projected service account tokens.

The agent is the service account, ``<issuer>/<namespace>/<name>``; pods come and go. Only tokens made for one audience
are taken: the default token of a pod is for the API server, and one that is good there and here could be passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from broker.authenticators.claim_sheet import ClaimSheet, attribute
from broker.authenticators.preset import Preset
from broker.core.identity import Agent, Attribute, federated_id
from broker.core.issuer import TrustedIssuer
from broker.core.jwt import PLATFORM_TOKEN, Audience, InvalidToken

_CLAIM: Final = "kubernetes.io"
_BOUND: Final = ("serviceaccount", "pod", "node", "secret")
_SUBJECT: Final = ("system", "serviceaccount")
_PARTS: Final = 4


def _identify(claims: Mapping[str, Any], issuer: TrustedIssuer) -> Agent:
    """Make the agent. ``sub`` and the nested claim must name the same service account."""
    namespace, name = _service_account(claims["sub"])
    nested = claims.get(_CLAIM)
    if not isinstance(nested, Mapping):
        raise InvalidToken("claims")
    attributes = _attributes(nested)
    if attributes.get("namespace") != namespace or attributes.get("serviceaccount") != name:
        raise InvalidToken("subject")
    return Agent(federated_id(issuer.name, namespace, name), issuer.name, claims["sub"], attributes)


def _service_account(subject: str) -> tuple[str, str]:
    parts = subject.split(":")
    if len(parts) != _PARTS or tuple(parts[:2]) != _SUBJECT or not (parts[2] and parts[3]):
        raise InvalidToken("subject")
    return parts[2], parts[3]


def _attributes(nested: Mapping[str, Any]) -> dict[str, Attribute]:
    found: dict[str, object] = {"namespace": nested.get("namespace")}
    for kind in _BOUND:
        bound = nested.get(kind)
        if isinstance(bound, Mapping):
            found[kind] = bound.get("name")
            found[f"{kind}_uid"] = bound.get("uid")
    values = ((key, attribute(value)) for key, value in found.items() if isinstance(value, str))
    return {key: value for key, value in values if value is not None}


KUBERNETES: Final = Preset(
    row=replace(PLATFORM_TOKEN, audience=Audience.SOLE),
    sheet=ClaimSheet(read=frozenset({_CLAIM})),
    identify=_identify,
)
