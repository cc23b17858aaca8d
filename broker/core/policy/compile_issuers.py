"""Compiling trusted issuers: the presets' defaults, and the checks on where keys come from and whom tokens are for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from broker.core.identity import REGISTERED
from broker.core.issuer import TrustedIssuer
from broker.core.policy.document import Node

GITHUB_ISSUER: Final = "https://token.actions.githubusercontent.com"

_HOUR: Final = 3600
_DAY: Final = 24 * _HOUR
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_EC: Final = ("ES256", "ES384", "ES512")
ALGORITHMS: Final = (*_RSA, *_EC, "EdDSA")
"""The JWS algorithms that an issuer may sign with."""

_API_SERVER: Final = frozenset(
    {"https://kubernetes.default.svc", "https://kubernetes.default.svc.cluster.local", "https://kubernetes.default"}
)
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,253}[a-z0-9])?")
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_SHARED: Final = ("audience", "algorithms", "max_lifetime", "allow_private", "allow_http", "ca_file")
_OF_SOME_PRESET: Final = ("issuer", "trust_domain", "bundle_url", "jwks_url", "jwks", "require_unique_jti")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Preset:
    """What a preset asks for and defaults to. ``sources`` are the members that say where keys come from."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    sources: tuple[str, ...] = ("jwks_url", "jwks")
    algorithms: tuple[str, ...]
    max_lifetime: int = _DAY
    issuer: str | None = None


PRESETS: Final[Mapping[str, _Preset]] = {
    "kubernetes": _Preset(required=("issuer",), optional=("require_unique_jti",), algorithms=("RS256", *_EC)),
    "github-actions": _Preset(
        optional=("issuer", "require_unique_jti"), algorithms=("RS256",), max_lifetime=_HOUR, issuer=GITHUB_ISSUER
    ),
    "spiffe": _Preset(required=("trust_domain",), sources=("bundle_url", "jwks"), algorithms=(*_RSA, *_EC)),
    "oidc": _Preset(
        required=("issuer",), optional=("require_unique_jti",), algorithms=("RS256", "PS256", "ES256", "ES384", "EdDSA")
    ),
}


def compile_issuers(node: Node, broker_issuer: str) -> dict[str, TrustedIssuer]:
    """Compile ``issuers``; what is wrong is reported on the node. ``broker_issuer`` is the default audience."""
    issuers: dict[str, TrustedIssuer] = {}
    taken: dict[str, str] = {}
    for name, entry in node.names("an issuer"):
        issuer = _issuer(name, entry, broker_issuer)
        if name == REGISTERED:
            entry.fail(f"{REGISTERED} is the name of agents that are registered by their own key: choose another")
        if issuer is None:
            continue
        issuers[name] = issuer
        identity = issuer.issuer or issuer.trust_domain or ""
        first = taken.setdefault(identity, name)
        if first != name and identity:
            entry.fail(f"is the same issuer as {first}: a token could be of either")
    return issuers


def _issuer(name: str, node: Node, broker_issuer: str) -> TrustedIssuer | None:
    preset_name = node.value.get("preset") if isinstance(node.value, Mapping) else None
    preset = PRESETS.get(preset_name) if isinstance(preset_name, str) else None
    if preset is None or not isinstance(preset_name, str):
        found = node.members(*_SHARED, *_OF_SOME_PRESET, required=("preset",))
        if "preset" in found:
            found["preset"].choice(PRESETS)
        return None
    found = node.members(*preset.optional, *preset.sources, *_SHARED, required=("preset", *preset.required))
    plain_http = "allow_http" in found and found["allow_http"].flag() is True
    issuer = _url(found["issuer"], plain_http=plain_http) if "issuer" in found else preset.issuer
    _check_issuer(node, found, preset_name, issuer, broker_issuer)
    _check_sources(node, found, preset)
    urls = {key: _url(found[key], plain_http=plain_http) for key in ("jwks_url", "bundle_url") if key in found}
    return TrustedIssuer(
        name=name,
        preset=preset_name,
        issuer=issuer,
        audiences=_audiences(found["audience"], preset_name, issuer) if "audience" in found else (broker_issuer,),
        trust_domain=_trust_domain(found["trust_domain"]) if "trust_domain" in found else None,
        bundle_url=urls.get("bundle_url"),
        jwks_url=urls.get("jwks_url"),
        jwks=_jwks(found["jwks"]) if "jwks" in found else None,
        algorithms=_algorithms(found["algorithms"]) if "algorithms" in found else preset.algorithms,
        max_lifetime=(found["max_lifetime"].duration() if "max_lifetime" in found else None) or preset.max_lifetime,
        allow_private="allow_private" in found and found["allow_private"].flag() is True,
        allow_http=plain_http,
        ca_file=found["ca_file"].text(4096) if "ca_file" in found else None,
        require_unique_jti="require_unique_jti" in found and found["require_unique_jti"].flag() is True,
    )


def _check_issuer(node: Node, found: Mapping[str, Node], preset: str, issuer: str | None, broker_issuer: str) -> None:
    at = found.get("issuer", node)
    if issuer == broker_issuer:
        at.fail("is the broker itself: its own tokens are no platform identities")
    if issuer == GITHUB_ISSUER and preset == "oidc":
        at.fail("use the preset github-actions for this issuer: it vouches for anybody's repositories")


def _check_sources(node: Node, found: Mapping[str, Node], preset: _Preset) -> None:
    given = [name for name in preset.sources if name in found]
    if len(given) > 1:
        found[given[1]].fail(f"keys come from one source only: leave this or {given[0]} out")
    if not given and "bundle_url" in preset.sources:
        node.fail(f"one of {', '.join(preset.sources)} is missing: a trust domain has no discovery")


def _url(node: Node, *, plain_http: bool) -> str | None:
    text = node.text()
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        odd = parts.username is not None or bool(parts.query) or "#" in text or " " in text or not text.isascii()
        host, _ = parts.hostname, parts.port
    except ValueError:
        node.fail("is not a valid URL")
        return None
    if parts.scheme == "http" and not plain_http:
        node.fail("must begin with https:// (or say allow_http: true for this issuer)")
    elif parts.scheme not in {"http", "https"} or not host or odd:
        node.fail("must be an https URL without user info, query or fragment")
    return text


def _audiences(node: Node, preset: str, issuer: str | None) -> tuple[str, ...]:
    items = node.items() if isinstance(node.value, list | tuple) else [node]
    audiences: list[str] = []
    for item in items:
        text = item.text()
        if text is None:
            continue
        if text in audiences:
            item.fail("is in this list twice")
        if preset == "kubernetes" and (text in _API_SERVER or text == issuer):
            item.fail("is the API server's own audience, which the default token of every pod has")
        audiences.append(text)
    return tuple(audiences)


def _trust_domain(node: Node) -> str | None:
    text = node.text()
    if text is not None and _TRUST_DOMAIN.fullmatch(text) is None:
        node.fail("must be a SPIFFE trust domain: lower-case letters, digits and . _ - (no spiffe://)")
    return text


def _algorithms(node: Node) -> tuple[str, ...]:
    return tuple(name for item in node.items() if (name := item.choice(ALGORITHMS)) is not None)


def _jwks(node: Node) -> Mapping[str, Any] | None:
    """Check the outline of an inline key set and that it holds no private keys; the keys are judged when used."""
    if not isinstance(node.value, Mapping) or not isinstance(node.value.get("keys"), list | tuple):
        node.fail("must be a JWK set: a mapping with a list of keys")
        return None
    for key in node.child("keys", node.value["keys"]).items():
        if not isinstance(key.value, Mapping) or not isinstance(key.value.get("kty"), str):
            key.fail("must be a JWK: a mapping with kty")
        elif not _PRIVATE.isdisjoint(key.value):
            key.fail("is a private or shared key: only public keys belong here, and this one is known to others now")
    return node.value
