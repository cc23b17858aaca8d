"""A small broker with a stream of rules, in which a test says what is told, when, and what is left out or forged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from aiohttp import web

from broker.core.errors import BrokerError
from broker.core.feed import HEARTBEAT_TYP, RULE_TYP, heartbeat_payload, rule_payload
from broker.core.jwk import parse_jwks
from broker.core.marks import mark_of
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.core.token_check import TokenCheck
from tests.support.fake_broker import MARKS_KEY, FakeBroker, SigningKey

STREAM = "/v1/revocations/stream"
ACKS = "/v1/revocations/acks"
INTROSPECT = "/oauth2/introspect"


class FeedingBroker(FakeBroker):
    """Tells its subscribers what the test says; greets them with a heartbeat, and whoever is behind with a snapshot."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(now)
        self.resumed: list[str | None] = []
        self.acks: list[dict[str, Any]] = []
        self.greets = True
        self.subscribers: list[web.StreamResponse] = []
        self._connections: set[asyncio.BaseTransport] = set()
        self._over = asyncio.Event()

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get(STREAM, self._stream)
        app.router.add_post(ACKS, self._ack)
        app.router.add_post(INTROSPECT, self._introspect)

    async def stop(self) -> None:
        await self.hang_up()
        await super().stop()

    # --- statements

    def heartbeat_token(self, key: SigningKey | None = None, typ: str = HEARTBEAT_TYP, **changes: Any) -> str:  # noqa: ANN401 - members of the payload
        pending = [rule.id for rule in self.rules.live() if rule.number is None]
        mark = mark_of(MARKS_KEY, self.rules.epoch)
        payload = heartbeat_payload(self.rules.epoch, pending, mark=mark, issuer=self.url, now=self.now())
        return (key or self.key).sign(payload | changes, typ)

    def rule_token(self, rule: Rule, key: SigningKey | None = None, typ: str = RULE_TYP, **changes: Any) -> str:  # noqa: ANN401 - members of the payload
        previous = self.rules.epoch if rule.number is None else rule.number - 1
        mark = mark_of(MARKS_KEY, self.rules.epoch if rule.number is None else rule.number)
        payload = rule_payload(rule, previous=previous, mark=mark, issuer=self.url, now=self.now())
        return (key or self.key).sign(payload | changes, typ)

    def make(self, *, pending: str | None = None, **selector: Any) -> Rule:  # noqa: ANN401 - members of the selector
        """Make a rule, of which nobody is told yet; with ``pending`` as its id it has no number."""
        number = None if pending is not None else self.rules.epoch + 1
        rule = Rule(pending or f"rule_{number}", Selector(**selector), number, self.now(), "operator", "test")
        self.rules.add(rule)
        return rule

    # --- telling

    async def tell(self, name: str, token: str) -> None:
        await self.write(f"event: {name}\ndata: {token}\n\n".encode())

    async def write(self, data: bytes) -> None:
        for response in tuple(self.subscribers):
            try:
                await response.write(data)
            except ConnectionError:
                self.subscribers.remove(response)

    async def heartbeat(self, **changes: Any) -> None:  # noqa: ANN401 - members of the payload
        await self.tell("heartbeat", self.heartbeat_token(**changes))

    async def tell_rules(self, rules: Iterable[Rule]) -> None:
        for rule in rules:
            await self.tell("rule", self.rule_token(rule))

    async def hang_up(self) -> None:
        """End all streams."""
        self._over.set()
        self._over = asyncio.Event()

    async def die(self) -> None:
        """Reset all streams, as a process that is killed does."""
        for connection in self._connections:
            assert isinstance(connection, asyncio.Transport)
            connection.abort()
        await self.hang_up()

    # --- what it serves

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        resumed = request.headers.get("Last-Event-ID")
        self.resumed.append(resumed)
        over = self._over
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        if self.greets:
            if resumed != str(self.rules.epoch):
                await response.write(f"event: snapshot\ndata: {self.snapshot()}\n\n".encode())
            await response.write(f"event: heartbeat\ndata: {self.heartbeat_token()}\n\n".encode())
        self.subscribers.append(response)
        connection = request.transport
        assert connection is not None
        self._connections.add(connection)
        try:
            await over.wait()
        finally:
            self._connections.discard(connection)
            if response in self.subscribers:
                self.subscribers.remove(response)
        return response

    async def _ack(self, request: web.Request) -> web.Response:
        self.acks.append(await request.json())
        return web.Response(status=204)

    async def _introspect(self, request: web.Request) -> web.Response:
        token = (await request.post())["token"]
        keys = parse_jwks(msgspec.json.encode({"keys": [key.published() for key in self.published]}))
        check = TokenCheck(issuer=self.url, keys=lambda: keys, rules=lambda: self.rules)
        try:
            claims = check.check(str(token), self.now(), None).claims
        except BrokerError:
            return web.json_response({"active": False})
        return web.json_response({"active": True, **claims.to_payload()})
