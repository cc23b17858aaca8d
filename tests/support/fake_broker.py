"""A small broker on loopback: real keys, real signatures, real revocation rules, and faults on demand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from broker.core.claims import AccessClaims
from broker.core.dpop import check_proof
from broker.core.errors import BrokerError
from broker.core.jwk import public_jwk, thumbprint
from broker.core.marks import mark_of
from broker.core.rules import Rule, RuleIndex
from broker.core.selector import Selector
from broker.core.snapshot import snapshot_payload

METADATA = "/.well-known/oauth-authorization-server"
JWKS = "/oauth2/jwks.json"
TOKEN = "/oauth2/token"
SNAPSHOT = "/v1/revocations/snapshot"
MARKS_KEY = bytes(32)

Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
"""Answers in place of the broker, or returns None to let it answer."""


class SigningKey:
    """An ES256 key of the broker."""

    def __init__(self) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.jwk = public_jwk(self.private.public_key())
        self.kid = thumbprint(self.jwk)

    def published(self) -> dict[str, Any]:
        return {**self.jwk, "kid": self.kid, "use": "sig", "alg": "ES256"}

    def sign(self, payload: dict[str, Any], typ: str) -> str:
        return jwt.encode(payload, self.private, algorithm="ES256", headers={"typ": typ, "kid": self.kid})


class FakeBroker:
    """Issues tokens to whoever asks, and publishes its keys and rules. ``faults`` act by path."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.key = SigningKey()
        self.published = [self.key]
        self.rules = RuleIndex()
        self.faults: dict[str, Fault] = {}
        self.asked: Counter[str] = Counter()
        self.forms: list[dict[str, str]] = []
        self.lifetime = 300
        self.url = ""
        self._minted = 0
        self._runner: web.AppRunner | None = None

    # --- life

    async def start(self, port: int = 0) -> None:
        app = web.Application(middlewares=[self._faulty])
        app.router.add_get(METADATA, self._metadata)
        app.router.add_get(JWKS, self._jwks)
        app.router.add_post(TOKEN, self._token)
        app.router.add_get(SNAPSHOT, self._snapshot)
        self.add_routes(app)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def add_routes(self, app: web.Application) -> None:
        """More that a broker of a test has."""

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # --- what it can do

    def claims(self, **changes: Any) -> AccessClaims:  # noqa: ANN401 - members of the payload
        self._minted += 1
        now = int(self.now())
        members: dict[str, Any] = {
            "iss": self.url,
            "sub": "triage",
            "aud": "https://tickets.internal",
            "client_id": "triage",
            "iat": now,
            "exp": now + self.lifetime,
            "jti": f"tok_{self._minted}",
            "scopes": ("tickets:read",),
            "epoch": self.rules.epoch,
            "task": "task_1",
            "role": "support-triage",
            "tier": "read",
            "issuer": "registered",
        }
        return AccessClaims(**(members | changes))

    def mint(self, key: SigningKey | None = None, **changes: Any) -> str:  # noqa: ANN401 - members of the payload
        return (key or self.key).sign(self.claims(**changes).to_payload(), "at+jwt")

    def revoke(self, **selector: Any) -> None:  # noqa: ANN401 - members of the payload
        number = self.rules.epoch + 1
        self.rules.add(Rule(f"rule_{number}", Selector(**selector), number, self.now(), "operator", "test"))

    def snapshot(self, key: SigningKey | None = None, typ: str = "broker-rules+jwt", **changes: Any) -> str:  # noqa: ANN401 - members of the payload
        mark = mark_of(MARKS_KEY, self.rules.epoch)
        payload = snapshot_payload(self.rules, mark=mark, issuer=self.url, now=self.now()) | changes
        return (key or self.key).sign(payload, typ)

    # --- what it serves

    @web.middleware
    async def _faulty(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.asked[request.path] += 1
        fault = self.faults.get(request.path)
        told = None if fault is None else await fault(request)
        return told if told is not None else await handler(request)

    async def _metadata(self, _request: web.Request) -> web.Response:
        return web.json_response({"issuer": self.url, "token_endpoint": self.url + TOKEN})

    async def _jwks(self, _request: web.Request) -> web.Response:
        return web.json_response({"keys": [key.published() for key in self.published]})

    async def _token(self, request: web.Request) -> web.Response:
        form = dict(parse_qsl(await request.text(), strict_parsing=True))
        self.forms.append(form)
        jkt = None
        if "DPoP" in request.headers:
            try:
                proof = check_proof(request.headers["DPoP"], method="POST", url=self.url + TOKEN, now=self.now())
            except BrokerError:
                return web.json_response({"error": "invalid_dpop_proof"}, status=400)
            jkt = proof.jkt
        scopes = tuple(form.get("scope", "tickets:read").split())
        token = self.mint(aud=form["resource"], scopes=scopes, jkt=jkt)
        answer = {
            "access_token": token,
            "token_type": "Bearer" if jkt is None else "DPoP",
            "expires_in": self.lifetime,
            "scope": " ".join(scopes),
        }
        if "subject_token" in form:
            answer["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    async def _snapshot(self, request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        try:
            claims = jwt.decode(
                token,
                self.key.private.public_key(),
                algorithms=["ES256"],
                audience=f"{self.url}/v1",
                options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except jwt.InvalidTokenError:
            return web.json_response({"code": "token_invalid"}, status=401)
        if "revocations:read" not in claims["scope"].split():
            return web.json_response({"code": "insufficient_scope"}, status=403)
        return web.Response(text=self.snapshot(), content_type="application/jwt")


def answering(
    status: int, body: object = None, headers: dict[str, str] | None = None, times: int | None = None
) -> Fault:
    """Return a fault: this answer, for the first ``times`` requests (None: for all)."""
    left = [times]

    async def fault(_request: web.Request) -> web.Response | None:
        if left[0] is not None:
            if left[0] <= 0:
                return None
            left[0] -= 1
        if isinstance(body, str | bytes):
            return web.Response(body=body if isinstance(body, bytes) else body.encode(), status=status, headers=headers)
        return web.json_response({} if body is None else body, status=status, headers=headers)

    return fault
