"""Which tokens a resource server accepts, and when it accepts none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from broker.client import Client, KeyIdentity
from broker.core.errors import BrokerError, Code, Malformed, Unavailable
from broker.verifier import Verifier
from tests.support.fake_broker import JWKS, SNAPSHOT, FakeBroker, SigningKey, answering
from tests.support.running_broker import free_port
from tests.support.until import until
from tests.support.virtual_time import VirtualTime

AUDIENCE = "https://tickets.internal"
OwnToken = Callable[[], Awaitable[str]]


async def refusal(verifier: Verifier, token: str, **arguments: str) -> Code:
    """The code with which a token is refused."""
    with pytest.raises(BrokerError) as caught:
        await verifier.verify(token, **arguments)
    return caught.value.code


async def refused_poll(verifier: Verifier) -> str:
    """Why a poll is refused."""
    with pytest.raises(BrokerError) as caught:
        await verifier.poll()
    return caught.value.public


# --- tokens


async def test_a_good_token_is_accepted(verifier: Verifier, broker: FakeBroker) -> None:
    """What it says can be used."""
    token = broker.mint(scopes=("tickets:comment", "tickets:read"))
    verified = await verifier.verify(token, scopes=("tickets:read",))
    assert verified.claims.client_id == "triage"
    assert verified.kid == broker.key.kid


async def test_scopes_may_be_one_text(verifier: Verifier, broker: FakeBroker) -> None:
    """As OAuth writes them; all of them are needed."""
    token = broker.mint(scopes=("a", "b"))
    await verifier.verify(token, scopes="a b")
    assert await refusal(verifier, token, scopes="a c") is Code.INSUFFICIENT_SCOPE


async def test_no_request_is_made_per_token(verifier: Verifier, broker: FakeBroker) -> None:
    """Checking is offline: the broker sees nothing of it."""
    before = broker.asked.total()
    for _ in range(50):
        await verifier.verify(broker.mint())
    assert broker.asked.total() == before


async def test_a_token_is_refused_when_anything_is_wrong(
    verifier: Verifier, broker: FakeBroker, time: VirtualTime
) -> None:
    """Audience, issuer, expiry, scope, kind and signature."""
    assert await refusal(verifier, broker.mint(aud="https://payments.internal")) is Code.TOKEN_AUDIENCE
    assert await refusal(verifier, broker.mint(aud=AUDIENCE + "/")) is Code.TOKEN_AUDIENCE
    assert await refusal(verifier, broker.mint(iss="https://evil.example")) is Code.TOKEN_INVALID
    assert await refusal(verifier, broker.snapshot()) is Code.TOKEN_INVALID
    assert await refusal(verifier, broker.key.sign(broker.claims().to_payload(), "JWT")) is Code.TOKEN_INVALID
    token = broker.mint()
    assert await refusal(verifier, token[:-8] + "AAAAAAAA") is Code.TOKEN_INVALID
    assert await refusal(verifier, "x") is Code.TOKEN_INVALID
    assert await refusal(verifier, "") is Code.TOKEN_INVALID
    assert await refusal(verifier, token, scopes="tickets:comment") is Code.INSUFFICIENT_SCOPE
    time.advance(300)
    await verifier.poll()
    assert await refusal(verifier, token) is Code.TOKEN_EXPIRED
    assert await refusal(verifier, broker.mint(exp=int(time.wall))) is Code.TOKEN_EXPIRED


async def test_a_remembered_token_is_judged_anew_each_time(
    verifier: Verifier, broker: FakeBroker, time: VirtualTime
) -> None:
    """Remembering saves the signature only, not expiry and revocation."""
    token = broker.mint()
    await verifier.verify(token)
    broker.revoke(task="task_1")
    await verifier.poll()
    assert await refusal(verifier, token) is Code.TOKEN_REVOKED


# --- revocation


@pytest.mark.parametrize(
    "selector",
    [
        {"token": "tok_1"},
        {"agent": "triage"},
        {"role": "support-triage"},
        {"scope": "tickets:read"},
        {"audience": AUDIENCE},
        {"issuer": "registered"},
        {"tier": "read", "role": "support-triage"},
        {"everything": True},
    ],
)
async def test_a_revoked_token_is_refused_after_one_poll(
    broker: FakeBroker, time: VirtualTime, selector: dict[str, object]
) -> None:
    """Whatever it was selected by; a token that was issued afterwards lives."""
    token = broker.mint()

    async def own_token() -> str:
        return broker.mint(aud=f"{broker.url}/v1", scopes=("revocations:read",))

    verifier = Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing())
    await verifier.poll()
    await verifier.verify(token)
    broker.revoke(**selector)
    await verifier.poll()
    assert await refusal(verifier, token) is Code.TOKEN_REVOKED
    await verifier.verify(broker.mint())
    await verifier.close()


async def test_a_rule_that_selects_others_does_no_harm(verifier: Verifier, broker: FakeBroker) -> None:
    """Fields are ANDed."""
    token = broker.mint()
    broker.revoke(agent="somebody-else")
    broker.revoke(agent="triage", tier="sensitive")
    await verifier.poll()
    await verifier.verify(token)


async def test_a_token_newer_than_the_view_is_accepted(verifier: Verifier, broker: FakeBroker) -> None:
    """It was issued after rules that are not known here; they do not concern it."""
    broker.revoke(everything=True)
    assert verifier.epoch == 0
    await verifier.verify(broker.mint())


async def test_a_revocation_is_seen_within_one_poll_of_the_running_loop(
    broker: FakeBroker, time: VirtualTime, own_token: OwnToken
) -> None:
    """With nobody asking for it: the loop polls at its pace."""
    async with Verifier(broker.url, AUDIENCE, credentials=own_token, poll=1.0, timing=time.timing()) as verifier:
        token = broker.mint()
        await verifier.verify(token)
        broker.revoke(token=(await verifier.verify(token)).claims.jti)
        await until(lambda: time.sleepers == 4)
        time.advance(1.0)
        await until(lambda: verifier.epoch == 1)
        assert await refusal(verifier, token) is Code.TOKEN_REVOKED


# --- staleness


async def test_without_a_view_everything_is_refused(broker: FakeBroker, time: VirtualTime, own_token: OwnToken) -> None:
    """A verifier that was never told which tokens are dead accepts none, and says that it is not the token's fault."""
    verifier = Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing())
    assert await refusal(verifier, broker.mint()) is Code.VIEW_STALE
    await verifier.close()


async def test_a_stale_view_refuses_good_tokens_only_with_503(
    verifier: Verifier, broker: FakeBroker, time: VirtualTime
) -> None:
    """Closed, not open; a token that is bad anyway is told so."""
    good, dead = broker.mint(), broker.mint()
    broker.revoke(token="tok_3")
    await verifier.poll()
    time.advance(10.5)
    assert await refusal(verifier, good) is Code.VIEW_STALE
    assert await refusal(verifier, dead) is Code.TOKEN_REVOKED
    assert await refusal(verifier, "x.y.z") is Code.TOKEN_INVALID
    await verifier.poll()
    await verifier.verify(good)


async def test_a_clock_that_is_set_back_hides_nothing(
    verifier: Verifier, broker: FakeBroker, time: VirtualTime
) -> None:
    """The age of the view does not come from the wall clock alone."""
    token = broker.mint(exp=int(time.wall) + 900)
    time.advance(11)
    time.wall -= 20
    assert await refusal(verifier, token) is Code.VIEW_STALE


async def test_a_copy_that_is_too_old_is_not_fresh(verifier: Verifier, broker: FakeBroker, time: VirtualTime) -> None:
    """A cache that serves the last snapshot for ever makes the verifier refuse, not trust."""
    kept = broker.snapshot()
    broker.faults[SNAPSHOT] = answering(200, kept)
    time.advance(9)
    await verifier.poll()
    await verifier.verify(broker.mint())
    time.advance(7)
    assert "too old" in await refused_poll(verifier)
    assert await refusal(verifier, broker.mint()) is Code.VIEW_STALE


# --- what may be believed of a snapshot


async def test_a_snapshot_that_goes_back_is_refused(verifier: Verifier, broker: FakeBroker, time: VirtualTime) -> None:
    """An old snapshot, properly signed, does not bring revoked tokens back to life."""
    token, old = broker.mint(), broker.snapshot(iat=int(time.wall) + 1)
    broker.revoke(agent="triage")
    await verifier.poll()
    broker.faults[SNAPSHOT] = answering(200, old)
    assert "older than one that was seen before" in await refused_poll(verifier)
    assert await refusal(verifier, token) is Code.TOKEN_REVOKED
    assert verifier.epoch == 1


async def test_forged_snapshots_are_refused(verifier: Verifier, broker: FakeBroker, time: VirtualTime) -> None:
    """Another key, another kind of token, another issuer, an end that has passed, an hour to come, a rule unknown."""
    time.advance(5)
    now = int(time.wall)
    stranger = SigningKey()
    claiming = SigningKey()
    claiming.kid = broker.key.kid
    unknown_rule = {"n": 1, "selector": {"planet": "mars"}, "ends": None}
    forged = [
        broker.snapshot(key=stranger, epoch=9),
        broker.snapshot(key=claiming, epoch=9),
        broker.mint(),
        broker.snapshot(typ="at+jwt", epoch=9),
        broker.snapshot(typ="JWT", epoch=9),
        broker.snapshot(iss="https://evil.example", epoch=9),
        broker.snapshot(iat=now - 400, exp=now - 100, epoch=9),
        broker.snapshot(iat=now + 3600, exp=now + 3900, epoch=9),
        broker.snapshot(epoch=1, rules=[unknown_rule]),
        broker.snapshot(epoch=-1),
        broker.snapshot(epoch=9)[:-10] + "AAAAAAAAAA",
        "",
        "not a token",
        "{}",
    ]
    for snapshot in forged:
        broker.faults[SNAPSHOT] = answering(200, snapshot)
        assert "refused" in await refused_poll(verifier)
        assert verifier.epoch == 0
    assert verifier.view_age() >= 5


@pytest.mark.parametrize(
    "fault",
    [
        answering(500),
        answering(302, headers={"Location": "/elsewhere"}),
        answering(200, b"\xff\xfe"),
        answering(200, b"x" * (8 * 1024 * 1024 + 1)),
        answering(403),
        answering(401),
    ],
)
async def test_a_broken_answer_is_no_snapshot(verifier: Verifier, broker: FakeBroker, fault: object) -> None:
    """The view stays what it was, and ages."""
    broker.faults[SNAPSHOT] = fault  # type: ignore[assignment]
    with pytest.raises(Unavailable):
        await verifier.poll()
    await verifier.verify(broker.mint())


async def test_a_large_snapshot_is_read(verifier: Verifier, broker: FakeBroker) -> None:
    """Thousands of live rules are no obstacle."""
    token = broker.mint()
    for number in range(3_000):
        broker.revoke(token=f"tok_other_{number}")
    broker.revoke(agent="triage")
    await verifier.poll()
    assert await refusal(verifier, token) is Code.TOKEN_REVOKED


async def test_a_busy_broker_says_when_to_come_back(verifier: Verifier, broker: FakeBroker) -> None:
    """The loop is told, and honours it."""
    broker.faults[SNAPSHOT] = answering(503, headers={"Retry-After": "4"})
    with pytest.raises(Unavailable) as caught:
        await verifier.poll()
    assert caught.value.retry_after == 4


# --- its own token


async def test_its_own_revoked_token_is_replaced(broker: FakeBroker, time: VirtualTime) -> None:
    """A rule that kills everything kills the verifier's own token: it gets a new one, and sees the rule."""
    key = ec.generate_private_key(ec.SECP256R1())
    async with Client(broker.url, identity=KeyIdentity("tickets", key), timing=time.timing()) as client:
        verifier = Verifier(broker.url, AUDIENCE, credentials=client, timing=time.timing())
        await verifier.poll()
        broker.revoke(everything=True)
        broker.faults[SNAPSHOT] = answering(401, times=1)
        await verifier.poll()
        assert verifier.epoch == 1
        assert len(broker.forms) == 2
        assert {form["scope"] for form in broker.forms} == {"revocations:read"}
        assert {form["resource"] for form in broker.forms} == {f"{broker.url}/v1"}
        await verifier.close()


# --- keys


async def test_a_new_key_is_fetched_when_a_token_names_it(verifier: Verifier, broker: FakeBroker) -> None:
    """A rotation is no outage."""
    new = SigningKey()
    broker.published.append(new)
    await verifier.verify(broker.mint(key=new))
    assert broker.asked[JWKS] == 2


async def test_strangers_cannot_make_it_ask_more_than_once_a_minute(
    verifier: Verifier, broker: FakeBroker, time: VirtualTime
) -> None:
    """However many unknown keys their tokens name."""
    before = broker.asked[JWKS]
    for _ in range(5):
        assert await refusal(verifier, broker.mint(key=SigningKey())) is Code.TOKEN_INVALID
    assert broker.asked[JWKS] == before + 1
    time.advance(60)
    await verifier.poll()
    assert await refusal(verifier, broker.mint(key=SigningKey())) is Code.TOKEN_INVALID
    assert broker.asked[JWKS] == before + 2


async def test_an_emergency_rotation_arrives_with_the_snapshot(verifier: Verifier, broker: FakeBroker) -> None:
    """Even if strangers used up what they may cause: the old key's tokens die and the new one's live in one poll."""
    stolen, old = broker.key, broker.mint()
    await refusal(verifier, broker.mint(key=SigningKey()))
    broker.key = SigningKey()
    broker.published = [broker.key]
    broker.revoke(key=stolen.kid)
    await verifier.poll()
    await verifier.verify(broker.mint())
    assert await refusal(verifier, old) is Code.TOKEN_INVALID
    forged = broker.mint(key=stolen, epoch=9)
    assert await refusal(verifier, forged) is Code.TOKEN_INVALID


async def test_an_unknown_key_is_not_called_bad_while_nobody_can_be_asked(
    broker: FakeBroker, time: VirtualTime, own_token: OwnToken
) -> None:
    """Without the broker, a key may as well be new: 503, so that the client keeps its token."""
    verifier = Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing())
    token = broker.mint()
    await broker.stop()
    assert await refusal(verifier, token) is Code.VIEW_STALE
    await verifier.close()


@pytest.mark.parametrize("body", [b"", b"[]", {}, {"keys": []}, {"keys": [{"kty": "oct", "k": "AA", "kid": "1"}]}])
async def test_an_unusable_key_set_does_not_replace_a_good_one(
    verifier: Verifier, broker: FakeBroker, body: object
) -> None:
    """A broken deployment of the JWKS does not take the keys away."""
    broker.faults[JWKS] = answering(200, body)
    assert await refusal(verifier, broker.mint(key=SigningKey())) is Code.TOKEN_INVALID
    await verifier.verify(broker.mint())


# --- life


async def test_a_broker_that_is_down_at_the_start_is_waited_for(time: VirtualTime) -> None:
    """The resource server starts, refuses with 503, and serves as soon as the broker is there."""
    port = free_port()
    broker = FakeBroker(lambda: time.wall)
    broker.url = f"http://127.0.0.1:{port}"

    async def own_token() -> str:
        return broker.mint(aud=f"{broker.url}/v1", scopes=("revocations:read",))

    verifier = Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing())
    await verifier.start(wait=0.01)
    assert await refusal(verifier, broker.mint()) is Code.VIEW_STALE
    await broker.start(port)
    await until(lambda: time.sleepers == 4)
    time.advance(1.0)
    await until(lambda: verifier.epoch == 0)
    await verifier.verify(broker.mint())
    await verifier.close()
    await broker.stop()


async def test_starting_twice_follows_once(broker: FakeBroker, time: VirtualTime, own_token: OwnToken) -> None:
    """The broker is not asked by two loops."""
    verifier = Verifier(broker.url, AUDIENCE, credentials=own_token, timing=time.timing())
    await verifier.start()
    await verifier.start()
    await until(lambda: time.sleepers == 4)
    await verifier.close()
    await verifier.close()


async def test_a_slow_broker_does_not_slow_requests(verifier: Verifier, broker: FakeBroker) -> None:
    """While a poll hangs, tokens are checked by the view at hand."""
    release = asyncio.Event()

    async def hang(_request: web.Request) -> None:
        await release.wait()

    broker.faults[SNAPSHOT] = hang
    polling = asyncio.ensure_future(verifier.poll())
    await until(lambda: broker.asked[SNAPSHOT] == 2)
    await asyncio.wait_for(verifier.verify(broker.mint()), 1)
    release.set()
    await polling


@pytest.mark.parametrize(
    "settings",
    [{"poll": 0}, {"poll": 10, "max_staleness": 10}, {"max_staleness": 301}, {"leeway": -1}],
)
async def test_settings_that_cannot_work_are_refused(
    broker: FakeBroker, own_token: OwnToken, settings: dict[str, float]
) -> None:
    """A bound below the poll interval would refuse for ever; one above a snapshot's own life is none."""
    with pytest.raises(Malformed):
        Verifier(broker.url, AUDIENCE, credentials=own_token, **settings)  # type: ignore[arg-type]
