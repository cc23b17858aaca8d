"""An identity provider on loopback: it publishes discovery, keys and a SPIFFE bundle, and vouches like real ones do."""

from __future__ import annotations

import base64
import json
import ssl
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt import PyJWS

from broker.core.issuer import TrustedIssuer
from broker.core.jwk import public_jwk

DISCOVERY = "/.well-known/openid-configuration"
JWKS = "/keys"
BUNDLE = "/bundle"
TRUST_DOMAIN = "corp.example"

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]

_CURVES: Mapping[str, ec.EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
_RSA_KEYS: dict[str, rsa.RSAPrivateKey] = {}


def private_key(alg: str, name: str = "") -> PrivateKey:
    """Make a key for an algorithm. RSA keys are slow to make, so each ``name`` gets one for the whole run."""
    if alg in _CURVES:
        return ec.generate_private_key(_CURVES[alg])
    if alg == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return _RSA_KEYS.setdefault(name, rsa.generate_private_key(public_exponent=65537, key_size=2048))


@dataclass
class SigningKey:
    """A key of the provider, with the JWK it publishes."""

    kid: str = field(default_factory=lambda: uuid.uuid4().hex)
    alg: str = "ES256"
    use: str | None = "sig"
    private: PrivateKey = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.private = private_key(self.alg, self.kid)

    def published(self) -> dict[str, Any]:
        """Return the member of a JWKS for this key."""
        marked = {} if self.use is None else {"use": self.use}
        return {**public_jwk(self.private.public_key()), "kid": self.kid, "alg": self.alg, **marked}

    def sign(self, claims: Mapping[str, Any], **headers: object) -> str:
        """Return a JWT. A header of None is left out."""
        named = {"kid": self.kid, **headers}
        given = {name: value for name, value in named.items() if value is not None or name == "typ"}
        return PyJWS().encode(json.dumps(claims).encode(), self.private, algorithm=self.alg, headers=given)


class IdentityProvider:
    """A provider with its keys; use it as a context to publish them over HTTP.

    ``now`` is the time of the tokens it makes. ``faults`` answer in place of a path; ``asked`` counts requests by path.
    """

    def __init__(
        self, now: Callable[[], float], *, alg: str = "ES256", audience: str = "https://broker.example"
    ) -> None:
        self.now = now
        self.alg = alg
        self.audience = audience
        self.key = SigningKey(alg=alg)
        self.svid_key = SigningKey(alg=alg, use="jwt-svid")
        self.published = [self.key]
        self.faults: dict[str, Fault] = {}
        self.asked: Counter[str] = Counter()
        self.cache_control: str | None = None
        self.discovery: dict[str, Any] = {}
        self.url = ""
        self._tls: ssl.SSLContext | None = None
        self._runner: web.AppRunner | None = None

    # --- life -------------------------------------------------------------------------------------------------------

    def with_tls(self, context: ssl.SSLContext) -> Self:
        """Serve with TLS."""
        self._tls = context
        return self

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_route("GET", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"https://localhost:{port}" if self._tls else f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def rotate(self) -> SigningKey:
        """Sign with a new key from now on; the old one is published no more."""
        self.key = SigningKey(alg=self.alg)
        self.published = [self.key]
        return self.key

    # --- what it publishes ------------------------------------------------------------------------------------------

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.path] += 1
        fault = self.faults.get(request.path)
        if fault is not None:
            return await fault(request)
        documents: dict[str, Any] = {
            DISCOVERY: {"issuer": self.url, "jwks_uri": self.url + JWKS, **self.discovery},
            JWKS: {"keys": [key.published() for key in self.published]},
            BUNDLE: {"keys": [self.svid_key.published(), {**self.key.published(), "use": "x509-svid"}]},
        }
        if request.path not in documents:
            raise web.HTTPNotFound
        headers = {} if self.cache_control is None else {"Cache-Control": self.cache_control}
        return web.json_response(documents[request.path], headers=headers)

    # --- whom it vouches for ----------------------------------------------------------------------------------------

    def claims(self, subject: str, lifetime: int = 3600, **more: object) -> dict[str, Any]:
        """Return the claims that all its tokens have; a claim of None is left out."""
        now = int(self.now())
        claims: dict[str, object] = {
            "iss": self.url,
            "aud": self.audience,
            "sub": subject,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "jti": uuid.uuid4().hex,
            **more,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def oidc(self, subject: str = "user-1", **more: object) -> str:
        """Vouch like any OpenID provider."""
        claims: dict[str, Any] = more
        return self.key.sign(self.claims(subject, **claims))

    def kubernetes(self, namespace: str = "support", name: str = "triage", **more: object) -> str:
        """Vouch for a service account as a projected token does."""
        bound = {
            "namespace": namespace,
            "node": {"name": "node-1", "uid": "b0000000-0000-4000-8000-000000000001"},
            "pod": {"name": f"{name}-0", "uid": "b0000000-0000-4000-8000-000000000002"},
            "serviceaccount": {"name": name, "uid": "b0000000-0000-4000-8000-000000000003"},
            "warnafter": int(self.now()) + 3607,
        }
        claims: dict[str, Any] = {"aud": [self.audience], "kubernetes.io": bound, **more}
        return self.key.sign(self.claims(f"system:serviceaccount:{namespace}:{name}", **claims))

    def github(self, **more: object) -> str:
        """Vouch for a job as GitHub Actions does; by default a push to main, outside any environment."""
        claims: dict[str, Any] = {
            "actor": "octocat",
            "actor_id": "583231",
            "base_ref": "",
            "event_name": "push",
            "head_ref": "",
            "job_workflow_ref": "octo-org/octo-repo/.github/workflows/deploy.yml@refs/heads/main",
            "job_workflow_sha": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "ref": "refs/heads/main",
            "ref_protected": "true",
            "ref_type": "branch",
            "repository": "octo-org/octo-repo",
            "repository_id": "74",
            "repository_owner": "octo-org",
            "repository_owner_id": "65",
            "repository_visibility": "private",
            "run_attempt": "2",
            "run_id": "1658821493",
            "run_number": "10",
            "runner_environment": "github-hosted",
            "sha": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "workflow": "deploy",
            "workflow_ref": "octo-org/octo-repo/.github/workflows/deploy.yml@refs/heads/main",
            "workflow_sha": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            **more,
        }
        return self.key.sign(self.claims("repo:octo-org/octo-repo:ref:refs/heads/main", 300, **claims))

    def svid(self, path: str = "/agent/reviewer", *, trust_domain: str = TRUST_DOMAIN, **more: object) -> str:
        """Vouch for a workload as a SPIFFE server does: no ``iss``, no ``jti``."""
        claims: dict[str, Any] = {"iss": None, "nbf": None, "jti": None, **more}
        return self.svid_key.sign(self.claims(f"spiffe://{trust_domain}{path}", 300, **claims))

    # --- how a broker trusts it -------------------------------------------------------------------------------------

    def trusted(self, name: str = "idp", preset: str = "oidc", **more: object) -> TrustedIssuer:
        """Return the definition of this provider as a trusted issuer, on loopback and without TLS."""
        given: dict[str, Any] = {
            "name": name,
            "preset": preset,
            "issuer": self.url,
            "audiences": (self.audience,),
            "algorithms": ("ES256", "RS256"),
            "max_lifetime": 86_400,
            "allow_private": True,
            "allow_http": True,
        }
        if preset == "spiffe":
            given |= {"issuer": None, "trust_domain": TRUST_DOMAIN, "bundle_url": self.url + BUNDLE}
        return TrustedIssuer(**{**given, **more})


def forge(header: object, payload: object, signature: bytes = b"forged") -> str:
    """Put a token together from parts that no library would sign; texts are taken as they are."""
    parts = [part if isinstance(part, str) else json.dumps(part) for part in (header, payload)]
    return ".".join(_base64url(part) for part in (*(text.encode() for text in parts), signature))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
