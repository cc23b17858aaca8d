"""A stand-in for a cluster: it vouches for its workloads the way Kubernetes does, as a process of its own.

It publishes discovery and its public keys over HTTP, and keeps a projected service-account token in a file per
workload, renewed well before it expires, as the kubelet does.
Run: ``python -m broker.demo.cluster FOLDER PORT AUDIENCE``.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from pathlib import Path
from typing import Final

import jwt
import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

WORKLOADS: Final = ("triage", "summarizer", "refunds")
NAMESPACE: Final = "support"
TOKEN_SECONDS: Final = 3600
_KEY_BITS: Final = 2048


def token_file(folder: Path, workload: str) -> Path:
    """Return where a workload finds its own token."""
    return folder / NAMESPACE / workload / "token"


class Cluster:
    """Signs service-account tokens."""

    def __init__(self, issuer: str, audience: str) -> None:
        """``audience`` is whom the tokens are meant for: the broker."""
        self._issuer = issuer
        self._audience = audience
        self._kid = uuid.uuid4().hex
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)

    def token(self, workload: str) -> str:
        """Return a fresh token with the claims of a bound Kubernetes service-account token."""
        now = int(time.time())
        claims = {
            "iss": self._issuer,
            "aud": [self._audience],
            "sub": f"system:serviceaccount:{NAMESPACE}:{workload}",
            "iat": now,
            "nbf": now,
            "exp": now + TOKEN_SECONDS,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": {
                "namespace": NAMESPACE,
                "serviceaccount": {"name": workload, "uid": str(uuid.uuid5(uuid.NAMESPACE_DNS, workload))},
                "pod": {"name": f"{workload}-0", "uid": str(uuid.uuid4())},
            },
        }
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self._kid})

    def app(self) -> web.Application:
        """Return the discovery document and the key set as a web application."""
        public = msgspec.json.decode(jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key()))
        jwks = msgspec.json.encode({"keys": [{**public, "kid": self._kid, "use": "sig", "alg": "RS256"}]})
        discovery = msgspec.json.encode(
            {
                "issuer": self._issuer,
                "jwks_uri": f"{self._issuer}/openid/v1/jwks",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

        def document(body: bytes) -> web.Response:
            return web.Response(body=body, content_type="application/json")

        async def serve_discovery(_request: web.Request) -> web.Response:
            return document(discovery)

        async def serve_jwks(_request: web.Request) -> web.Response:
            return document(jwks)

        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", serve_discovery)
        app.router.add_get("/openid/v1/jwks", serve_jwks)
        return app


async def _main(folder: Path, port: int, audience: str) -> None:
    cluster = Cluster(f"http://127.0.0.1:{port}", audience)
    runner = web.AppRunner(cluster.app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    while True:
        for workload in WORKLOADS:
            path = token_file(folder, workload)
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            fresh.write_text(cluster.token(workload))
            fresh.replace(path)
        await asyncio.sleep(TOKEN_SECONDS * 0.8)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
