"""A small broker that leases one secret, as the real one does, in time that a test moves."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import jwt
from aiohttp import web

from broker.core.lifetime import parse_duration
from broker.core.secret import Secret
from broker.signing.delivery import encrypted
from tests.support.fake_broker import FakeBroker

LEASES = "/v1/leases"
DATA = {"username": "v-agent-7", "password": "s3cr3t-of-the-lease"}


class LeasingBroker(FakeBroker):
    """Leases to whoever has a token for it. ``lives`` is how long one lasts at most, renewals included, in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(now)
        self.lives = 900
        self.data: dict[str, Any] = dict(DATA)
        self.renewable = True
        self.live: dict[str, float] = {}
        self.ended: list[str] = []
        self.taken: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.renewed: list[dict[str, Any]] = []
        self.tokens: list[dict[str, Any]] = []
        self._until: dict[str, float] = {}
        self._known: dict[str, str] = {}

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post(LEASES, self._take)
        app.router.add_post(LEASES + "/{id}/renew", self._renew)
        app.router.add_delete(LEASES + "/{id}", self._give_back)

    async def _take(self, request: web.Request) -> web.Response:
        self._admit(request)
        body = await request.json()
        key = request.headers["Idempotency-Key"]
        self.taken.append(body)
        self.keys.append(key)
        if key in self._known:
            return web.json_response({**self._described(self._known[key]), "data": None})
        lease = f"lease_{len(self._known) + 1}"
        self._known[key] = lease
        self._until[lease] = self.now() + self.lives
        self.live[lease] = self.now() + min(_seconds(body.get("ttl")) or self.lives, self.lives)
        told = self._described(lease)
        if "encrypt_to" in body:
            sealed = encrypted(Secret(json.dumps(self.data)), body["encrypt_to"])
            return web.json_response({**told, "jwe": sealed}, status=201)
        return web.json_response({**told, "data": self.data}, status=201)

    async def _renew(self, request: web.Request) -> web.Response:
        self._admit(request)
        lease, body = request.match_info["id"], await request.json()
        self.renewed.append(body)
        left = self._until[lease] - self.now()
        if self.live.get(lease, 0) <= self.now() or left < 1:
            return problem(409, "lease_ended")
        self.live[lease] = self.now() + min(_seconds(body.get("ttl")) or self.lives, left)
        return web.json_response(self._described(lease))

    async def _give_back(self, request: web.Request) -> web.Response:
        self._admit(request)
        lease = request.match_info["id"]
        self.live.pop(lease, None)
        self.ended.append(lease)
        return web.json_response({"lease_id": lease, "state": "retrying"})

    def _admit(self, request: web.Request) -> None:
        token = request.headers["Authorization"].partition(" ")[2]
        options = {"verify_exp": False, "verify_iat": False, "verify_nbf": False}
        claims = jwt.decode(
            token,
            self.key.private.public_key(),
            algorithms=["ES256"],
            audience=f"{self.url}/v1",
            options=options,  # type: ignore[arg-type]
        )
        assert claims["scope"] == "leases:take"
        self.tokens.append(claims)

    def _described(self, lease: str) -> dict[str, Any]:
        until = self.live.get(lease, self.now())
        moment = datetime.fromtimestamp(int(until), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "lease_id": lease,
            "secret": "orders-db",
            "task": "task_1",
            "state": "live",
            "lease_duration": int(until - self.now()),
            "expires_at": moment,
            "renewable": self.renewable,
            "revocable": True,
        }


def problem(status: int, code: str, **members: Any) -> web.Response:  # noqa: ANN401 - JSON
    """Return problem details (RFC 9457)."""
    return web.json_response({"code": code, "title": code, "detail": f"told: {code}", **members}, status=status)


def _seconds(ttl: str | None) -> int | None:
    return None if ttl is None else parse_duration(ttl)
