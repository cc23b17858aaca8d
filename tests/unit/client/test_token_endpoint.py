"""Asking a broker for tokens over HTTP: what is sent, what is believed, and when it is tried again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from broker.client import Client, KeyIdentity, PlatformIdentity, TokenRefused, TokenUnavailable
from broker.core.errors import Code
from tests.support.fake_broker import METADATA, TOKEN, FakeBroker, answering
from tests.support.running_broker import free_port
from tests.support.virtual_time import VirtualTime

AUDIENCE = "https://tickets.internal"
SCOPES = ("tickets:read",)
KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def time() -> VirtualTime:
    """Time that the test moves."""
    return VirtualTime()


@pytest.fixture
async def broker(time: VirtualTime) -> AsyncIterator[FakeBroker]:
    """A running broker."""
    fake = FakeBroker(lambda: time.wall)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def client(broker: FakeBroker, time: VirtualTime) -> AsyncIterator[Client]:
    """A client of that broker."""
    async with Client(broker.url, identity=KeyIdentity("triage", KEY), timing=time.timing()) as made:
        yield made


async def test_a_token_comes_back(client: Client, broker: FakeBroker) -> None:
    """The request names resource, scopes and task, and the answer is read."""
    token = await client.token(AUDIENCE, ["b", "a"], task="T-8812")
    assert (token.token_type, token.scopes, token.expires_in) == ("Bearer", ("a", "b"), 300)
    form = broker.forms[0]
    assert (form["resource"], form["scope"], form["task"]) == (AUDIENCE, "a b", "T-8812")
    assert await client.authorize("GET", AUDIENCE, AUDIENCE, "a b", "T-8812") == {
        "Authorization": f"Bearer {token.access_token}"
    }
    assert len(broker.forms) == 1


async def test_no_scopes_means_the_default(client: Client, broker: FakeBroker) -> None:
    """An empty parameter is not sent."""
    await client.token(AUDIENCE)
    assert "scope" not in broker.forms[0]
    assert "task" not in broker.forms[0]


async def test_a_platform_token_is_the_grant(broker: FakeBroker, time: VirtualTime, tmp_path: Path) -> None:
    """A workload needs no key of its own."""
    path = tmp_path / "token"
    path.write_text("platform.made.token")
    async with Client(broker.url, identity=PlatformIdentity(path), timing=time.timing()) as client:
        await client.token(AUDIENCE, SCOPES)
    assert broker.forms[0]["assertion"] == "platform.made.token"


async def test_with_dpop_the_token_is_bound_and_each_request_proved(broker: FakeBroker, time: VirtualTime) -> None:
    """Two requests carry the same token with two proofs."""
    async with Client(broker.url, identity=KeyIdentity("triage", KEY), dpop=True, timing=time.timing()) as client:
        first, second = [await client.authorize("GET", AUDIENCE, AUDIENCE, SCOPES) for _ in range(2)]
    assert first["Authorization"].startswith("DPoP ")
    assert first["Authorization"] == second["Authorization"]
    assert first["DPoP"] != second["DPoP"]


async def test_a_bearer_token_in_answer_to_a_proof_is_not_used(broker: FakeBroker, time: VirtualTime) -> None:
    """Whoever wants tokens bound must not be given others (RFC 9449, 5)."""
    broker.faults[TOKEN] = answering(200, {"access_token": "a", "token_type": "Bearer", "expires_in": 300})
    async with Client(broker.url, identity=KeyIdentity("triage", KEY), dpop=True, timing=time.timing()) as client:
        with pytest.raises(TokenUnavailable, match="DPoP"):
            await client.token(AUDIENCE, SCOPES)


async def test_the_brokers_nonce_is_put_into_the_proof(broker: FakeBroker, time: VirtualTime) -> None:
    """A broker that wants its nonce gets it at once, and from then on."""
    seen: list[Any] = []

    async def demand(request: web.Request) -> web.Response | None:
        proof = jwt.decode(request.headers["DPoP"], options={"verify_signature": False})
        seen.append(proof.get("nonce"))
        if proof.get("nonce") != "n-1":
            return web.json_response({"error": "use_dpop_nonce"}, status=400, headers={"DPoP-Nonce": "n-1"})
        return None

    broker.faults[TOKEN] = demand
    async with Client(broker.url, identity=KeyIdentity("triage", KEY), dpop=True, timing=time.timing()) as client:
        await client.token(AUDIENCE, SCOPES)
        await client.token(AUDIENCE, SCOPES, task="T-2")
    assert seen == [None, "n-1", "n-1"]
    assert time.slept == []


async def test_a_refusal_is_final_and_says_why(client: Client, broker: FakeBroker, time: VirtualTime) -> None:
    """It is not tried again; error, code, text and reference are there."""
    body = {
        "error": "invalid_scope",
        "error_description": "the role does not allow refunds:create\x1b[2J",
        "code": "scope_not_allowed",
        "refusal": "ref_01K",
    }
    broker.faults[TOKEN] = answering(400, body)
    with pytest.raises(TokenRefused) as caught:
        await client.token(AUDIENCE, SCOPES)
    refused = caught.value
    assert (refused.error, refused.code, refused.refusal) == ("invalid_scope", Code.SCOPE_NOT_ALLOWED, "ref_01K")
    assert refused.description == "the role does not allow refunds:create?[2J"
    assert str(refused) == "scope_not_allowed: the role does not allow refunds:create?[2J (refusal ref_01K)"
    assert broker.asked[TOKEN] == 1
    assert time.slept == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"error": "invalid_client"}, Code.CLIENT_AUTHENTICATION_FAILED),
        ({"error": "invalid_target", "code": "a_code_of_tomorrow"}, Code.AUDIENCE_NOT_ALLOWED),
        ({"error": "something_else", "code": 7}, Code.MALFORMED_REQUEST),
    ],
)
async def test_a_refusal_without_a_known_code_is_still_understood(
    client: Client, broker: FakeBroker, body: dict[str, Any], code: Code
) -> None:
    """A newer broker, or another one, speaks OAuth at least."""
    broker.faults[TOKEN] = answering(401, body)
    with pytest.raises(TokenRefused) as caught:
        await client.token(AUDIENCE, SCOPES)
    assert caught.value.code is code


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_what_may_pass_is_tried_again(client: Client, broker: FakeBroker, time: VirtualTime, status: int) -> None:
    """With growing pauses, and a fresh assertion each time: an assertion is used once."""
    broker.faults[TOKEN] = answering(status, times=3)
    await client.token(AUDIENCE, SCOPES)
    assert broker.asked[TOKEN] == 4
    assert time.slept == [0.1875, 0.375, 0.75]


async def test_assertions_are_never_sent_twice(client: Client, broker: FakeBroker) -> None:
    """A broker that took the first one and whose answer was lost would refuse it."""
    sent: list[str] = []

    async def lose(request: web.Request) -> web.Response | None:
        sent.append(dict(parse_qsl(await request.text()))["client_assertion"])
        return web.Response(status=502) if len(sent) < 3 else None

    broker.faults[TOKEN] = lose
    await client.token(AUDIENCE, SCOPES)
    assert len(set(sent)) == len(sent) == 3


async def test_retry_after_is_honoured(client: Client, broker: FakeBroker, time: VirtualTime) -> None:
    """The broker knows when its limit is over; jitter on top keeps clients from coming back all at once."""
    broker.faults[TOKEN] = answering(429, headers={"Retry-After": "7"}, times=1)
    await client.token(AUDIENCE, SCOPES)
    assert time.slept == [pytest.approx(7 * 1.05)]


async def test_a_long_retry_after_is_told_to_the_caller(client: Client, broker: FakeBroker, time: VirtualTime) -> None:
    """It is not waited for; and until then the broker is left alone, also by other calls."""
    broker.faults[TOKEN] = answering(429, headers={"Retry-After": "300"}, times=1)
    with pytest.raises(TokenUnavailable) as caught:
        await client.token(AUDIENCE, SCOPES)
    assert caught.value.retry_after == 316
    with pytest.raises(TokenUnavailable):
        await client.token(AUDIENCE, SCOPES, task="T-2")
    assert broker.asked[TOKEN] == 1
    time.advance(316)
    await client.token(AUDIENCE, SCOPES)


async def test_a_slip_of_the_broker_does_not_silence_an_agent_for_good(
    client: Client, broker: FakeBroker, time: VirtualTime
) -> None:
    """A ``Retry-After`` of years is taken for ten minutes."""
    broker.faults[TOKEN] = answering(503, headers={"Retry-After": "999999999"}, times=1)
    with pytest.raises(TokenUnavailable):
        await client.token(AUDIENCE, SCOPES)
    time.advance(660)
    await client.token(AUDIENCE, SCOPES)


async def test_patience_ends(client: Client, broker: FakeBroker, time: VirtualTime) -> None:
    """A broker that stays away is given up on after the time that was set."""
    broker.faults[TOKEN] = answering(503)
    with pytest.raises(TokenUnavailable, match="503"):
        await client.token(AUDIENCE, SCOPES)
    assert sum(time.slept) <= 30


async def test_a_broker_that_is_down_is_waited_for(time: VirtualTime) -> None:
    """Agents may start before the broker does."""
    port = free_port()
    fake = FakeBroker(lambda: time.wall)
    timing = time.timing()
    async with Client(f"http://127.0.0.1:{port}", identity=KeyIdentity("triage", KEY), timing=timing) as client:
        with pytest.raises(TokenUnavailable):
            await client.token(AUDIENCE, SCOPES)
        await fake.start(port)
        await client.token(AUDIENCE, SCOPES)
    await fake.stop()


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example", "token_endpoint": "{url}/oauth2/token"},
        {"issuer": "{url}/", "token_endpoint": "{url}/oauth2/token"},
        {"issuer": "{url}", "token_endpoint": "https://evil.example/oauth2/token"},
        {"issuer": "{url}", "token_endpoint": "{url}.evil.example/oauth2/token"},
        {"issuer": "{url}", "token_endpoint": ["{url}"]},
        {"issuer": "{url}"},
        {},
    ],
)
async def test_metadata_of_somebody_else_is_not_followed(
    client: Client, broker: FakeBroker, metadata: dict[str, Any]
) -> None:
    """No assertion leaves for a place that the configured issuer does not stand for."""
    told = {
        name: value.replace("{url}", broker.url) if isinstance(value, str) else value
        for name, value in metadata.items()
    }
    broker.faults[METADATA] = answering(200, told)
    with pytest.raises(TokenUnavailable):
        await client.token(AUDIENCE, SCOPES)
    assert broker.asked[TOKEN] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"not json",
        b"\xff",
        {"token_type": "Bearer", "expires_in": 300},
        {"access_token": "a\nb", "token_type": "Bearer", "expires_in": 300},
        {"access_token": "a b", "token_type": "Bearer", "expires_in": 300},
        {"access_token": "", "token_type": "Bearer", "expires_in": 300},
        {"access_token": "a", "token_type": "Bearer"},
        {"access_token": "a", "token_type": "Bearer", "expires_in": "300"},
        {"access_token": "a", "token_type": "Bearer", "expires_in": True},
        {"access_token": "a", "token_type": "Bearer", "expires_in": 0},
        {"access_token": "a", "token_type": "mac", "expires_in": 300},
        {"access_token": "a", "expires_in": 300},
        {"access_token": "a", "token_type": "Bearer", "expires_in": 300, "scope": ["a"]},
        b'{"access_token": "' + b"x" * 70_000 + b'"}',
    ],
)
async def test_a_broken_answer_is_no_token(client: Client, broker: FakeBroker, body: object) -> None:
    """What is not a token answer, exactly, is not used; nothing crashes on it."""
    broker.faults[TOKEN] = answering(200, body)
    with pytest.raises(TokenUnavailable):
        await client.token(AUDIENCE, SCOPES)


async def test_a_redirect_is_not_followed(client: Client, broker: FakeBroker) -> None:
    """An assertion is not carried on to where an answer points."""
    broker.faults[TOKEN] = answering(307, headers={"Location": f"{broker.url}/elsewhere"})
    with pytest.raises(TokenUnavailable):
        await client.token(AUDIENCE, SCOPES)
    assert broker.asked["/elsewhere"] == 0


async def test_an_error_page_of_something_in_between_is_no_refusal(client: Client, broker: FakeBroker) -> None:
    """Only the broker refuses, in its own words."""
    broker.faults[TOKEN] = answering(403, b"<html>captive portal</html>")
    with pytest.raises(TokenUnavailable):
        await client.token(AUDIENCE, SCOPES)


async def test_a_narrowed_scope_is_seen(client: Client, broker: FakeBroker) -> None:
    """The token says what was granted, not what was asked for."""
    answer = {"access_token": "a", "token_type": "bearer", "expires_in": 300, "scope": "tickets:read"}
    broker.faults[TOKEN] = answering(200, answer)
    assert (await client.token(AUDIENCE, ["tickets:read", "tickets:comment"])).scopes == ("tickets:read",)


async def test_plain_http_is_for_this_machine_only(time: VirtualTime) -> None:
    """Assertions and tokens do not cross a network in the clear."""
    async with Client("http://broker.example", identity=KeyIdentity("t", KEY), timing=time.timing()) as client:
        with pytest.raises(TokenUnavailable):
            await client.token(AUDIENCE, SCOPES)


async def test_a_client_shows_nothing(broker: FakeBroker, client: Client) -> None:
    """Neither keys nor tokens are in its representation."""
    await client.token(AUDIENCE, SCOPES)
    assert repr(client) == f"Client('{broker.url}')"
