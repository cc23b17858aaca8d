"""Leased secrets in an agent: taken once, renewed in time, given back however the work ends, and never shown."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from broker.client import (
    Client,
    KeyIdentity,
    LeaseRefused,
    LeaseUnavailable,
    TokenPending,
    TokenRefused,
)
from broker.core.errors import Code
from tests.support.fake_broker import TOKEN, answering
from tests.support.fake_leases import DATA, LEASES, LeasingBroker, problem
from tests.support.virtual_time import VirtualTime

KEY = ec.generate_private_key(ec.SECP256R1())
APPROVAL = "apr_01KAG8M2Z1YQ4T7R9W3X5V6B8P"
RENEWAL = f"{LEASES}/lease_1/renew"


@pytest.fixture
def time() -> VirtualTime:
    """Time that the test moves."""
    return VirtualTime(flows=False)


@pytest.fixture
async def broker(time: VirtualTime) -> AsyncIterator[LeasingBroker]:
    """A running broker."""
    fake = LeasingBroker(lambda: time.wall)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def client(broker: LeasingBroker, time: VirtualTime) -> AsyncIterator[Client]:
    """An agent's client."""
    async with Client(broker.url, identity=KeyIdentity("planner", KEY), timing=time.timing()) as made:
        yield made


async def until(condition: Callable[[], bool]) -> None:
    """Let the others go on until something is so."""
    for _ in range(2_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came to that")


async def reached(things: Sequence[object], count: int) -> None:
    """Wait until there are so many."""
    await until(lambda: len(things) == count)


async def pass_time(time: VirtualTime, seconds: float) -> None:
    """Let so many seconds pass once somebody waits for them."""
    await until(lambda: time.sleepers > 0)
    time.advance(seconds)


def losing(broker: LeasingBroker, times: int) -> Callable[[web.Request], Awaitable[web.Response | None]]:
    """Return a fault: the broker does it, and the first ``times`` answers get lost."""
    left = [times]

    async def fault(request: web.Request) -> web.Response | None:
        if left[0] <= 0:
            return None
        left[0] -= 1
        await broker._take(request)
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    return fault


# --- a lease's life


async def test_a_secret_for_one_block(broker: LeasingBroker, client: Client, time: VirtualTime) -> None:
    """It is there within the block, and nowhere before or after; the token is for taking leases only."""
    leased = client.lease("orders-db", ttl="5m")
    with pytest.raises(RuntimeError):
        _ = leased.data
    async with leased as same:
        assert same is leased
        assert leased.data == DATA
        assert (leased.id, leased.secret, leased.task) == ("lease_1", "orders-db", "task_1")
        assert leased.expires_at == datetime.fromtimestamp(int(time.wall) + 300, UTC)
        assert (leased.renewable, leased.revocable, leased.is_over) == (True, True, False)
        assert list(broker.live) == ["lease_1"]
    assert leased.is_over
    assert broker.ended == ["lease_1"]
    with pytest.raises(RuntimeError):
        _ = leased.data
    assert broker.taken == [{"secret": "orders-db", "ttl": "5m"}]


async def test_what_is_asked(broker: LeasingBroker, client: Client) -> None:
    """Seconds are a duration; the token is of the task, as the lease is."""
    async with client.lease("orders-db", task="task_9", ttl=90, break_glass="the house burns"):
        pass
    assert broker.taken == [{"secret": "orders-db", "task": "task_9", "ttl": "1m30s", "break_glass": "the house burns"}]
    assert [form["task"] for form in broker.forms] == ["task_9"]


async def test_nothing_shows_it(broker: LeasingBroker, client: Client) -> None:
    """Neither its text forms, nor a pickle."""
    async with client.lease("orders-db") as leased:
        for shown in (repr(leased), str(leased), f"{leased}", repr(vars(leased))):
            assert DATA["password"] not in shown
        assert "lease_1" in repr(leased)
        with pytest.raises(TypeError):
            pickle.dumps(leased._taken)


async def test_encrypted_delivery(broker: LeasingBroker, client: Client) -> None:
    """Each delivery has a key of its own, whose private half is not sent."""
    for _ in range(2):
        async with client.lease("orders-db", encrypted=True) as leased:
            assert leased.data == DATA
    first, second = (body["encrypt_to"] for body in broker.taken)
    assert first["x"] != second["x"]
    assert set(first) == {"kty", "crv", "x", "y"}


@pytest.mark.parametrize("how", ["error", "cancelled"])
async def test_it_is_given_back_however_the_block_ends(broker: LeasingBroker, client: Client, how: str) -> None:
    """By an error or by being cancelled; what ended the block goes on."""

    async def work() -> None:
        async with client.lease("orders-db"):
            begun.set()
            if how == "error":
                raise ZeroDivisionError
            await asyncio.Event().wait()

    begun = asyncio.Event()
    working = asyncio.ensure_future(work())
    await begun.wait()
    if how == "error":
        await asyncio.wait([working])
    working.cancel()
    with pytest.raises(ZeroDivisionError if how == "error" else asyncio.CancelledError):
        await working
    assert broker.ended == ["lease_1"]


async def test_being_cancelled_while_it_is_given_back(broker: LeasingBroker, client: Client) -> None:
    """That waits for the broker's answer, and is cancelled all the same."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(_request: web.Request) -> None:
        asked.set()
        await answer.wait()

    broker.faults[f"{LEASES}/lease_1"] = slow

    async def work() -> None:
        async with client.lease("orders-db"):
            pass

    working = asyncio.ensure_future(work())
    await asked.wait()
    working.cancel()
    await asyncio.sleep(0.01)
    assert not working.done()
    answer.set()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert broker.ended == ["lease_1"]


async def test_being_cancelled_while_it_is_taken(broker: LeasingBroker, client: Client) -> None:
    """The lease that the broker makes all the same is given back, though nobody has seen its secret."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow(_request: web.Request) -> None:
        asked.set()
        await answer.wait()

    broker.faults[LEASES] = slow
    taking = asyncio.ensure_future(client.lease("orders-db").take())
    await asked.wait()
    taking.cancel()
    await asyncio.sleep(0.01)
    answer.set()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert broker.ended == ["lease_1"]


async def test_without_a_block(broker: LeasingBroker, client: Client, time: VirtualTime) -> None:
    """Taken, renewed and given back by hand; nothing happens in between."""
    leased = client.lease("orders-db", ttl="1m")
    with pytest.raises(RuntimeError):
        _ = leased.id
    await leased.take()
    assert time.sleepers == 0
    time.advance(30)
    await leased.renew()
    assert leased.expires_at == datetime.fromtimestamp(int(time.wall) + 60, UTC)
    await leased.give_back()
    await leased.give_back()
    assert broker.ended == ["lease_1"]


# --- renewing


async def test_it_is_renewed_at_two_thirds_of_its_life(
    broker: LeasingBroker, client: Client, time: VirtualTime
) -> None:
    """Again and again, for as long as at first, until the block ends."""
    async with client.lease("orders-db", ttl="60s") as leased:
        for count in (1, 2, 3):
            await pass_time(time, 39.9)
            await asyncio.sleep(0.01)
            assert len(broker.renewed) == count - 1
            time.advance(0.2)
            await reached(broker.renewed, count)
            await until(lambda: time.sleepers == 1)
        assert leased.expires_at is not None
        assert leased.expires_at.timestamp() == int(time.wall) + 60
    assert broker.renewed == [{"ttl": "60s"}] * 3
    await asyncio.sleep(0.01)
    time.advance(100)
    await asyncio.sleep(0.01)
    assert len(broker.renewed) == 3, "no more once it is over"


async def test_the_end_of_its_longest_life_is_told_once(
    broker: LeasingBroker, client: Client, time: VirtualTime
) -> None:
    """When a renewal gains nothing, there are no more; the secret is used until it ends."""
    told: list[str] = []
    broker.lives = 90
    async with client.lease("orders-db", ttl="60s", on_warning=told.append) as leased:
        await pass_time(time, 40)
        await until(lambda: len(broker.renewed) == 1)
        await pass_time(time, 34)
        await until(lambda: len(broker.renewed) == 2 and len(told) == 1)
        assert leased.data == DATA
    assert "lease_1 of orders-db has reached its longest life; it ends at 20" in told[0]
    assert len(broker.renewed) == 2


@pytest.mark.parametrize(("renewable", "lives"), [(False, 60), (True, None)])
async def test_what_cannot_be_renewed_is_not(
    broker: LeasingBroker, client: Client, time: VirtualTime, renewable: bool, lives: int | None
) -> None:
    """Nor what does not end by itself."""
    broker.renewable = renewable

    async def endless(request: web.Request) -> web.Response | None:
        body = {**broker._described("lease_1"), "lease_duration": None, "expires_at": None, "data": DATA}
        return web.json_response(body, status=201) if lives is None else None

    broker.faults[LEASES] = endless
    async with client.lease("orders-db", ttl="60s") as leased:
        await asyncio.sleep(0.01)
        assert time.sleepers == 0
        assert (leased.expires_at is None) == (lives is None)


async def test_a_renewal_that_is_refused_is_told_and_not_tried_again(
    broker: LeasingBroker, client: Client, time: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """The secret stays in use until it ends; without a function to tell, it is logged."""
    broker.faults[RENEWAL] = answering(403, {"code": "blocked", "detail": "blocked by an operator: blk_1"})
    async with client.lease("orders-db", ttl="60s") as leased:
        await pass_time(time, 40)
        await until(lambda: bool(caplog.records))
        await asyncio.sleep(0.01)
        assert time.sleepers == 0
        assert leased.data == DATA
    (record,) = caplog.records
    assert "cannot be renewed (blocked: blocked by an operator: blk_1)" in record.getMessage()
    assert DATA["password"] not in caplog.text


@pytest.mark.parametrize("status", [503, 500])
async def test_a_renewal_that_fails_is_tried_again_while_there_is_time(
    broker: LeasingBroker, client: Client, time: VirtualTime, status: int
) -> None:
    """It is told the first time only."""
    told: list[str] = []
    code = "backend_unavailable" if status == 503 else "internal"
    broker.faults[RENEWAL] = answering(status, {"code": code, "detail": "the backend is away"}, times=2)
    async with client.lease("orders-db", ttl="600s", on_warning=told.append):
        await pass_time(time, 400)
        for _ in range(60):
            await asyncio.sleep(0.005)
            if len(broker.renewed) == 1:
                break
            time.advance(1)
        assert len(broker.renewed) == 1
        assert len(told) == (1 if status == 503 else 0), "the API repeats what may pass on its own"
    assert all("could not be renewed yet" in text for text in told)


async def test_a_broker_that_is_away_until_the_end(broker: LeasingBroker, client: Client, time: VirtualTime) -> None:
    """Renewing ends with the lease, and the block goes on."""
    told: list[str] = []
    async with client.lease("orders-db", ttl="60s", on_warning=told.append):
        await broker.stop()
        for _ in range(120):
            await asyncio.sleep(0.002)
            time.advance(1)
        await until(lambda: time.sleepers == 0)
        assert len(told) == 1
        returning = asyncio.ensure_future(_advance(time))
    returning.cancel()
    assert "could not be given back" in told[-1]


async def _advance(time: VirtualTime) -> None:
    while True:
        await asyncio.sleep(0.002)
        time.advance(1)


async def test_a_mistake_in_on_warning_ends_nothing(
    broker: LeasingBroker, client: Client, time: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """Only its type is logged."""

    def broken(_text: str) -> None:
        raise ValueError(DATA["password"])

    broker.faults[RENEWAL] = answering(409, {"code": "lease_not_renewable"})
    async with client.lease("orders-db", ttl="60s", on_warning=broken) as leased:
        await pass_time(time, 40)
        await until(lambda: "ValueError" in caplog.text)
        assert leased.data == DATA
    assert DATA["password"] not in caplog.text


# --- what gets lost


async def test_a_lost_answer_costs_one_lease(broker: LeasingBroker, client: Client, time: VirtualTime) -> None:
    """The same request says which lease it was; that is given back, and another one is taken."""
    broker.faults[LEASES] = losing(broker, 1)
    advancing = asyncio.ensure_future(_advance(time))
    async with client.lease("orders-db") as leased:
        assert (leased.id, leased.data) == ("lease_2", DATA)
        assert broker.ended == ["lease_1"]
    advancing.cancel()
    first, again, other = broker.keys
    assert first == again != other
    assert broker.live == {}


async def test_answers_that_always_get_lost(broker: LeasingBroker, client: Client) -> None:
    """It is not tried for ever, and nothing is left."""

    async def forgetful(request: web.Request) -> web.Response:
        told = await broker._take(request)
        return web.json_response({**json.loads(told.text or ""), "data": None})

    broker.faults[LEASES] = forgetful
    with pytest.raises(LeaseUnavailable, match="was lost"):
        await client.lease("orders-db").take()
    assert broker.ended == ["lease_1", "lease_2", "lease_3"]
    assert len(set(broker.keys)) == 3


async def test_a_lease_that_is_still_being_taken(broker: LeasingBroker, client: Client, time: VirtualTime) -> None:
    """It is given back once the broker has it: when the first answer was lost before its time."""
    path = f"{LEASES}/lease_1"
    broker.faults[path] = answering(409, {"code": "conflict"}, {"Retry-After": "1"}, times=2)
    leased = client.lease("orders-db")
    await leased.take()
    returning = asyncio.ensure_future(leased.give_back())
    for _ in range(2):
        await pass_time(time, 1)
    await returning
    assert broker.ended == ["lease_1"]
    broker.faults[path] = answering(409, {"code": "conflict"}, {"Retry-After": "60"})
    other = client.lease("orders-db")
    await other.take()
    broker.faults[f"{LEASES}/{other.id}"] = broker.faults[path]
    with pytest.raises(LeaseRefused):
        await other.give_back()
    assert not other.is_over


@pytest.mark.parametrize(
    ("change", "encrypted"),
    [
        ({"secret": "other"}, False),
        ({"data": "text"}, False),
        ({"data": ["list"]}, False),
        ({"lease_duration": -1}, False),
        ({"lease_duration": "60"}, False),
        ({"lease_duration": True}, False),
        ({"expires_at": "soon"}, False),
        ({"expires_at": 5}, False),
        ({"expires_at": "2026-01-01T00:00:00"}, False),
        ({"data": DATA}, True),
        ({"data": None, "jwe": "a.b.c.d.e"}, True),
        ({"data": None, "jwe": 5}, True),
    ],
)
async def test_an_answer_that_is_no_good(
    broker: LeasingBroker, client: Client, change: dict[str, Any], encrypted: bool
) -> None:
    """Its lease is given back, its secret not used, and not shown: also one that came in the clear unasked."""

    async def odd(request: web.Request) -> web.Response:
        told = json.loads((await broker._take(request)).text or "")
        told.pop("jwe", None)
        return web.json_response({**told, **change}, status=201)

    broker.faults[LEASES] = odd
    with pytest.raises(LeaseUnavailable) as refused:
        await client.lease("orders-db", encrypted=encrypted).take()
    assert broker.ended == ["lease_1"]
    assert DATA["password"] not in f"{refused.value!r} {refused.value} {refused.value.__cause__!r}"


@pytest.mark.parametrize("lease", [None, "", "..", "a/b", 5, "x" * 200])
async def test_an_answer_that_names_no_lease(broker: LeasingBroker, client: Client, lease: object) -> None:
    """What cannot be an id never becomes another path of the API."""
    broker.faults[LEASES] = answering(201, {"lease_id": lease, "secret": "orders-db", "data": DATA})
    with pytest.raises(LeaseUnavailable, match="lease_id"):
        await client.lease("orders-db").take()
    assert set(broker.asked) <= {LEASES, TOKEN, "/.well-known/oauth-authorization-server"}


# --- refusals, failures, people


@pytest.mark.parametrize(
    ("status", "code"), [(403, "secret_not_allowed"), (409, "lease_limit"), (502, "backend_refused")]
)
async def test_a_refusal_is_final(broker: LeasingBroker, client: Client, status: int, code: str) -> None:
    """It says why, and which record to look at."""
    broker.faults[LEASES] = answering(status, {"code": code, "detail": "no such path", "refusal": "ref_1"})
    with pytest.raises(LeaseRefused) as refused:
        await client.lease("orders-db").take()
    assert (refused.value.code, refused.value.status, refused.value.refusal) == (Code(code), status, "ref_1")
    assert str(refused.value) == f"{code}: no such path"
    assert broker.asked[LEASES] == 1


async def test_no_token_for_leases(broker: LeasingBroker, client: Client) -> None:
    """Then there is no lease either."""
    broker.faults[TOKEN] = answering(400, {"error": "invalid_scope", "error_description": "not allowed"})
    with pytest.raises(TokenRefused):
        await client.lease("orders-db").take()
    assert broker.asked[LEASES] == 0


async def test_a_backend_that_is_away(broker: LeasingBroker, client: Client, time: VirtualTime) -> None:
    """It is asked again, as a new request, when the broker says; and not for ever."""
    broker.faults[LEASES] = answering(503, {"code": "backend_unavailable"}, {"Retry-After": "7"}, times=1)
    taking = asyncio.ensure_future(client.lease("orders-db").take())
    await until(lambda: time.sleepers == 1)
    assert time.slept == [7]
    time.advance(7)
    await taking
    broker.faults[LEASES] = answering(503, {"code": "backend_unavailable"}, {"Retry-After": "60"})
    with pytest.raises(LeaseRefused) as refused:
        await client.lease("orders-db").take()
    assert (refused.value.code, refused.value.retry_after) == (Code.BACKEND_UNAVAILABLE, 60)


def pending(request: web.Request) -> web.Response:
    """An answer that says that a person has to decide."""
    return problem(409, "authorization_pending", auth_req_id=APPROVAL, expires_in=600, interval=5)


class Deciders:
    """People who agree after some time."""

    def __init__(self, broker: LeasingBroker) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.agree = False
        broker.faults[LEASES] = self._answer

    async def _answer(self, request: web.Request) -> web.Response | None:
        self.asked.append(await request.json())
        self.keys.append(request.headers["Idempotency-Key"])
        return None if self.agree else pending(request)


async def test_people_are_waited_for(broker: LeasingBroker, time: VirtualTime) -> None:
    """At the broker's pace, with the same request, which goes on; whoever asked is told once."""
    told: list[tuple[str, int]] = []
    deciders = Deciders(broker)
    identity = KeyIdentity("planner", KEY)
    async with Client(
        broker.url, identity=identity, timing=time.timing(), on_pending=lambda *args: told.append(args)
    ) as client:
        taking = asyncio.ensure_future(client.lease("orders-db").take())
        for count in (1, 2):
            await reached(deciders.asked, count)
            await until(lambda: time.sleepers == 1)
            time.advance(5)
        await until(lambda: len(deciders.asked) == 3 and time.sleepers == 1)
        deciders.agree = True
        time.advance(5)
        await taking
    assert told == [(APPROVAL, 600)]
    assert [body.get("auth_req_id") for body in deciders.asked] == [None, APPROVAL, APPROVAL, APPROVAL]
    assert len(set(deciders.keys)) == 1


async def test_people_agree_to_one_key(broker: LeasingBroker, client: Client, time: VirtualTime) -> None:
    """As long as they have not decided, the secret is to be encrypted to the same one; then to another."""
    deciders = Deciders(broker)
    taking = asyncio.ensure_future(client.lease("orders-db", encrypted=True).take())
    await reached(deciders.asked, 1)
    await until(lambda: time.sleepers == 1)
    deciders.agree = True
    time.advance(5)
    await taking
    await client.lease("orders-db", encrypted=True).take()
    first, again, other = (body["encrypt_to"]["x"] for body in deciders.asked)
    assert first == again != other


async def test_people_who_do_not_decide(broker: LeasingBroker, time: VirtualTime) -> None:
    """The caller gets the id; asking again, or another process that has it, goes on with the same request."""
    deciders = Deciders(broker)
    identity = KeyIdentity("planner", KEY)
    for known in (None, APPROVAL):
        deciders.asked.clear()
        async with Client(broker.url, identity=identity, timing=time.timing(), approval_seconds=0) as client:
            with pytest.raises(TokenPending) as waiting:
                await client.lease("orders-db", auth_req_id=known).take()
            assert waiting.value.auth_req_id == APPROVAL
            with pytest.raises(TokenPending):
                await client.lease("orders-db").take()
        assert [body.get("auth_req_id") for body in deciders.asked] == [known, APPROVAL]


@pytest.mark.parametrize("how", ["lost", "away", "break_glass"])
async def test_what_people_agreed_to_is_not_asked_for_twice(broker: LeasingBroker, client: Client, how: str) -> None:
    """A failure is final when asking anew would cost somebody's word once more."""

    async def answer(request: web.Request) -> web.Response:
        if how == "away":
            return problem(503, "backend_unavailable")
        told = await broker._take(request)
        return web.json_response({**json.loads(told.text or ""), "data": None})

    broker.faults[LEASES] = answer
    reason, agreed = ("it burns", None) if how == "break_glass" else (None, APPROVAL)
    with pytest.raises(LeaseRefused if how == "away" else LeaseUnavailable):
        await client.lease("orders-db", break_glass=reason, auth_req_id=agreed).take()
    assert broker.asked[LEASES] == 1


async def test_a_lease_ends_with_its_task(
    broker: LeasingBroker, client: Client, time: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """When the task was closed before, there is nothing to give back, and nothing to complain of."""
    async with client.lease("orders-db", task="task_1") as leased:
        client.invalidate((await client.token(f"{broker.url}/v1", ["leases:take"], "task_1")).access_token)
        broker.faults[TOKEN] = answering(400, {"error": "invalid_request", "code": "task_not_open"})
    assert leased.is_over
    assert caplog.records == []


async def test_a_closed_client_leaves_nothing_running(broker: LeasingBroker, time: VirtualTime) -> None:
    """Whatever was under way."""
    stuck = asyncio.Event()

    async def hang(_request: web.Request) -> None:
        await stuck.wait()

    broker.faults[LEASES] = hang
    client = Client(broker.url, identity=KeyIdentity("planner", KEY), timing=time.timing())
    taking = asyncio.ensure_future(client.lease("orders-db").take())
    await until(lambda: broker.asked[LEASES] == 1)
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await taking
    stuck.set()
    assert not [task for task in asyncio.all_tasks() if "send" in repr(task.get_coro())]
