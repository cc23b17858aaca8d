"""Reserving and settling, as a resource server sees it: whatever the broker answers, and when it does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from broker.client import TokenRefused
from broker.core.errors import BrokerError, Code, Pending, Unavailable
from broker.verifier import Actions, answer
from tests.support.fake_broker import FakeBroker

RESERVE = "/v1/actions"
SETTLE = "/v1/actions/act_1/settle"
CHALLENGE = {"WWW-Authenticate": 'Bearer scope="actions:reserve", error="insufficient_scope"'}


class Desk:
    """The broker's end: answers as it is told, and keeps what it was asked."""

    def __init__(self, broker: FakeBroker) -> None:
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.replies: list[web.Response] = []
        self.settling: web.Response | None = None
        broker.faults = {RESERVE: self._reserve, SETTLE: self._settle}

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """Return the bodies that came to a path."""
        return [body for asked, _, body in self.asked if asked == path]

    def headers(self, name: str) -> list[str | None]:
        """Return what a header was in each reservation."""
        return [headers.get(name) for asked, headers, _ in self.asked if asked == RESERVE]

    async def _reserve(self, request: web.Request) -> web.StreamResponse:
        await self._keep(request)
        if self.replies:
            return self.replies.pop(0)
        return web.json_response({"action_id": "act_1", "made_up_later": True}, status=201)

    async def _settle(self, request: web.Request) -> web.StreamResponse:
        await self._keep(request)
        return self.settling or web.json_response({"outcome": "done"})

    async def _keep(self, request: web.Request) -> None:
        self.asked.append((request.path, dict(request.headers), json.loads(await request.read())))


class OwnTokens:
    """This server's credentials: a new token each time the last one was thrown away."""

    def __init__(self) -> None:
        self.number = 1
        self.failure: Exception | None = None

    async def authorize(self, method: str, url: str, audience: str, scopes: tuple[str, ...]) -> dict[str, str]:
        """Return a header."""
        assert (method, scopes) == ("POST", ("actions:reserve",))
        assert url.startswith(audience)
        if self.failure is not None:
            raise self.failure
        return {"Authorization": f"Bearer own-{self.number}"}

    def invalidate(self, token: str) -> None:
        """Make the next one another one."""
        assert token == f"own-{self.number}"
        self.number += 1


@pytest.fixture
def desk(broker: FakeBroker) -> Desk:
    """The broker's end."""
    return Desk(broker)


@pytest.fixture
def own() -> OwnTokens:
    """This server's credentials."""
    return OwnTokens()


@pytest.fixture
async def actions(broker: FakeBroker, own: OwnTokens) -> AsyncIterator[Actions]:
    """This server's end."""
    async with Actions(broker.url, credentials=own) as made:
        yield made


def problem(status: int, code: str, headers: dict[str, str] | None = None, **more: object) -> web.Response:
    """Return problem details."""
    return web.json_response({"code": code, "detail": "why", **more}, status=status, headers=headers)


async def refused(actions: Actions) -> BrokerError:
    """Reserve what is refused; the body must not run."""
    with pytest.raises(BrokerError) as told:
        async with actions.acting("agents-token", "refund"):
            pytest.fail("nothing was reserved")
    return told.value


async def test_what_is_reserved_is_what_was_asked(actions: Actions, desk: Desk) -> None:
    """Arguments go as their digest only; what was not named is left out; the outcome follows."""
    async with actions.acting("agents-token", "refund", target="T-1", arguments=b"{}", count=2) as reservation:
        assert desk.bodies(SETTLE) == []
        reservation.result = "refund 99"
    assert desk.bodies(RESERVE) == [
        {
            "token": "agents-token",
            "action": "refund",
            "count": 2,
            "target": "T-1",
            "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        }
    ]
    assert desk.bodies(SETTLE) == [{"outcome": "done", "result": "refund 99"}]


async def test_what_is_left_is_known_while_it_is_done(actions: Actions, desk: Desk) -> None:
    """How many more there may be; nothing if that is not limited, or if the broker does not say."""
    told: list[int | None] = []
    for body in ({"left": 3}, {"left": None}, {}):
        desk.replies = [web.json_response({"action_id": "act_1", **body}, status=201)]
        async with actions.acting("agents-token", "refund") as reservation:
            told.append(reservation.left)
    assert told == [3, None, None]


async def test_a_lost_answer_is_asked_for_again_under_the_same_key(
    actions: Actions, desk: Desk, broker: FakeBroker
) -> None:
    """When the connection breaks, the reservation may have been made: the key finds it again."""
    reserve = broker.faults[RESERVE]

    async def lost(request: web.Request) -> web.StreamResponse | None:
        told = await reserve(request)
        if len(desk.asked) == 1:
            assert request.transport is not None
            request.transport.abort()
        return told

    broker.faults[RESERVE] = lost
    async with actions.acting("agents-token", "refund"):
        pass
    keys = desk.headers("Idempotency-Key")
    assert len(keys) == 2
    assert len(set(keys)) == 1
    async with actions.acting("agents-token", "refund"):
        pass
    assert desk.headers("Idempotency-Key")[-1] != keys[0]


async def test_a_token_of_ones_own_that_is_dead_is_replaced(actions: Actions, desk: Desk, own: OwnTokens) -> None:
    """Once; when the broker does not take the new one either, the agent's token is not to blame."""
    desk.replies = [problem(401, "token_revoked")]
    async with actions.acting("agents-token", "refund"):
        pass
    assert desk.headers("Authorization") == ["Bearer own-1", "Bearer own-2"]
    desk.replies = [problem(401, "token_revoked", CHALLENGE), problem(401, "token_revoked", CHALLENGE)]
    assert answer(await refused(actions)).status == 503
    assert own.number == 3


async def test_what_this_server_may_not_do_is_no_fault_of_the_agents(
    actions: Actions, desk: Desk, own: OwnTokens
) -> None:
    """A missing scope of our own looks like the agent's but for the challenge: the agent must not step up for it."""
    desk.replies = [problem(403, "insufficient_scope", CHALLENGE)]
    assert isinstance(await refused(actions), Unavailable)
    desk.replies = [problem(403, "insufficient_scope")]
    told = await refused(actions)
    assert (told.code, answer(told, ("refund",)).status) == (Code.INSUFFICIENT_SCOPE, 403)
    own.failure = TokenRefused("access_denied", Code.BUDGET_USED_UP, "this server's own task is used up")
    told = await refused(actions)
    assert (told.code, answer(told).status) == (Code.ISSUER_UNAVAILABLE, 503)


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        ((409, "budget_used_up"), 409, "budget_used_up"),
        ((409, "task_not_open"), 409, "task_not_open"),
        ((400, "subject_token_invalid"), 401, "subject_token_invalid"),
        ((403, "approval_denied"), 403, "approval_denied"),
        ((403, "approval_expired"), 403, "approval_expired"),
        ((403, "approval_invalid"), 403, "approval_invalid"),
        ((429, "rate_limited"), 429, "rate_limited"),
        ((503, "overloaded"), 503, "issuer_unavailable"),
        ((503, "ledger_unavailable"), 503, "issuer_unavailable"),
        ((500, "internal"), 503, "issuer_unavailable"),
        ((409, "a_code_of_the_future"), 503, "issuer_unavailable"),
        ((422, "idempotency_key_reused"), 500, "internal"),
    ],
)
async def test_each_refusal_has_its_answer(
    actions: Actions, desk: Desk, reply: tuple[int, str], status: int, code: str
) -> None:
    """What the agent can do something about is told; whatever else is a fault here or at the broker."""
    desk.replies = [problem(*reply, {"Retry-After": "7"})]
    told = answer(await refused(actions), ("refund",))
    assert (told.status, told.code) == (status, code)
    if status in (429, 503):
        assert ("Retry-After", "7") in told.headers
    challenged = any(name == "WWW-Authenticate" for name, _ in told.headers)
    assert challenged is (status == 401), "only what a new token helps against is a challenge"


async def test_a_pause_says_how_to_go_on(actions: Actions, desk: Desk) -> None:
    """The request for approval, how long it lasts, and when to ask again."""
    desk.replies = [problem(409, "authorization_pending", auth_req_id="apr_1", expires_in=600, interval=5)]
    told = await refused(actions)
    assert isinstance(told, Pending)
    assert (told.auth_req_id, told.expires_in, told.interval) == ("apr_1", 600, 5)
    async with actions.acting("agents-token", "refund", auth_req_id="apr_1"):
        pass
    assert desk.bodies(RESERVE)[-1]["auth_req_id"] == "apr_1"


@pytest.mark.parametrize(
    ("status", "text"),
    [(201, "<html>"), (201, '{"action_id": 7}'), (302, ""), (409, "[]"), (201, "x" * 100_000)],
    ids=["no JSON", "no id", "redirect", "no reason", "endless"],
)
async def test_nothing_is_done_on_an_answer_that_is_none(actions: Actions, desk: Desk, status: int, text: str) -> None:
    """Whatever stands between, the body only runs for a reservation."""
    desk.replies = [web.Response(status=status, text=text, headers={"Location": "/"}) for _ in range(2)]
    assert (await refused(actions)).code is Code.ISSUER_UNAVAILABLE


async def test_a_broker_that_is_gone_reserves_nothing(broker: FakeBroker, own: OwnTokens) -> None:
    """Nobody knows what is left: nothing is done."""
    await broker.stop()
    async with Actions(broker.url, credentials=own) as actions:
        assert answer(await refused(actions)).status == 503


async def test_an_exception_counts_unless_the_body_said_otherwise(actions: Actions, desk: Desk) -> None:
    """It may have come after the deed; only the body knows that nothing happened."""
    with pytest.raises(KeyError):
        async with actions.acting("agents-token", "refund"):
            raise KeyError("secret")

    async def find() -> None:
        async with actions.acting("agents-token", "refund") as reservation:
            reservation.not_done("no such order")
            raise ValueError("found nothing")

    with pytest.raises(ValueError, match="found nothing"):
        await find()
    assert desk.bodies(SETTLE) == [
        {"outcome": "done", "result": "failed: KeyError"},
        {"outcome": "not_done", "result": "no such order"},
    ]


async def test_a_body_that_is_cancelled_is_settled_too(actions: Actions, desk: Desk) -> None:
    """Whoever gave up waiting, the deed may be done."""
    began = asyncio.Event()

    async def work() -> None:
        async with actions.acting("agents-token", "refund"):
            began.set()
            await asyncio.Event().wait()

    working = asyncio.ensure_future(work())
    await began.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert desk.bodies(SETTLE) == [{"outcome": "done", "result": "failed: CancelledError"}]


@pytest.mark.parametrize(
    ("said", "told"),
    [("a\nb\u202ec", "a?b?c"), ("x" * 600, "x" * 512), ("", None), ("ü 😀", "ü 😀"), ("\udcff", "?")],
)
async def test_what_a_body_says_never_costs_the_settlement(
    actions: Actions, desk: Desk, said: str, told: str | None
) -> None:
    """Texts are made such that the broker takes them."""
    async with actions.acting("agents-token", "refund", target=said) as reservation:
        reservation.not_done(said)
    assert desk.bodies(RESERVE)[0].get("target") == told
    assert desk.bodies(SETTLE)[0].get("result") == told


@pytest.mark.parametrize("failure", ["refused", "gone", "no token", "broken credentials"])
async def test_what_was_done_is_answered_though_it_cannot_be_settled(
    actions: Actions,
    desk: Desk,
    broker: FakeBroker,
    own: OwnTokens,
    failure: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The body is over: its caller gets what it said, and the log says what the ledger does not know."""
    async with actions.acting("agents-token", "refund") as reservation:
        match failure:
            case "refused":
                desk.settling = problem(409, "conflict")
            case "gone":
                await broker.stop()
            case "no token":
                own.failure = Unavailable(Code.ISSUER_UNAVAILABLE, "the broker is down")
            case _:
                own.failure = RuntimeError("a secret")
        assert reservation.id == "act_1"
    lines = [record.getMessage() for record in caplog.records]
    assert any("settling the action act_1 failed" in line for line in lines)
    assert not any("secret" in line or "agents-token" in line for line in lines)
