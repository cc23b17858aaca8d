"""What a client sends to exchange a token, what it believes of the answer, and what is never shown or renewed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker.client import Client, KeyIdentity, PlatformIdentity, TokenUnavailable
from broker.client.token import Details, SubjectTokenType, subject_of, want
from broker.core.errors import Code, Malformed
from tests.support.fake_broker import TOKEN, FakeBroker, answering
from tests.support.virtual_time import VirtualTime

AUDIENCE = "https://tickets.internal"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
SUBJECT = "canary.subject.token"
ANSWER = {"access_token": "t", "token_type": "Bearer", "expires_in": 300, "scope": "a"}
EXCHANGED = {**ANSWER, "issued_token_type": ACCESS_TOKEN}


@pytest.fixture
def time() -> VirtualTime:
    """Time that the test moves."""
    return VirtualTime()


@pytest.fixture
async def broker(time: VirtualTime) -> AsyncIterator[FakeBroker]:
    """A running broker that exchanges tokens."""
    fake = FakeBroker(lambda: time.wall)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def client(broker: FakeBroker, time: VirtualTime) -> AsyncIterator[Client]:
    """A client of that broker."""
    identity = KeyIdentity("worker", ec.generate_private_key(ec.SECP256R1()))
    async with Client(broker.url, identity=identity, patience=1, timing=time.timing()) as made:
        yield made


async def test_an_agent_with_a_key_acts_as_the_client(client: Client, broker: FakeBroker) -> None:
    """Its assertion authenticates it (RFC 8693, 2.1); everything that was asked for is there, once."""
    details: Details = [{"type": "ticket", "ids": ["T-1"]}]
    token = await client.exchange(SUBJECT, AUDIENCE, ["a"], "task_1", details=details, may_act="helper")
    (form,) = broker.forms
    assert form.pop("client_assertion")
    assert form == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "subject_token": SUBJECT,
        "subject_token_type": ACCESS_TOKEN,
        "resource": AUDIENCE,
        "scope": "a",
        "task": "task_1",
        "authorization_details": '[{"ids":["T-1"],"type":"ticket"}]',
        "may_act": "helper",
    }
    assert SUBJECT not in f"{token!r}{token.want!r}"
    with pytest.raises(TypeError):
        dataclasses.asdict(token.want)


async def test_a_federated_agent_acts_by_its_platforms_word(
    broker: FakeBroker, time: VirtualTime, tmp_path: Path
) -> None:
    """It has no client assertion: its platform's token is the actor token."""
    path = tmp_path / "token"
    path.write_text("platform.made.token")
    async with Client(broker.url, identity=PlatformIdentity(path), timing=time.timing()) as client:
        await client.exchange(SUBJECT, AUDIENCE)
    (form,) = broker.forms
    assert form["actor_token"] == "platform.made.token"
    assert form["actor_token_type"] == "urn:ietf:params:oauth:token-type:jwt"
    assert not {"assertion", "client_assertion", "client_assertion_type"} & form.keys()


@pytest.mark.parametrize("named", [None, "urn:ietf:params:oauth:token-type:id_token", [ACCESS_TOKEN], "N_A"])
async def test_only_an_access_token_is_taken(client: Client, broker: FakeBroker, named: object) -> None:
    """An answer that does not say so (RFC 8693, 2.2.1) is not used."""
    broker.faults[TOKEN] = answering(200, {**ANSWER, "issued_token_type": named})
    with pytest.raises(TokenUnavailable, match="issued_token_type"):
        await client.exchange(SUBJECT, AUDIENCE)


@pytest.mark.parametrize("details", ["x", {"type": "a"}, ["a"], [["a"]], 7])
async def test_granted_details_are_objects_or_the_answer_is_broken(
    client: Client, broker: FakeBroker, details: object
) -> None:
    """A token whose details cannot be read is not used: nobody would know what it may do."""
    broker.faults[TOKEN] = answering(200, {**ANSWER, "authorization_details": details})
    with pytest.raises(TokenUnavailable, match="authorization_details"):
        await client.token(AUDIENCE)


async def test_granted_details_are_seen(client: Client, broker: FakeBroker) -> None:
    """They may be less than what was asked for."""
    broker.faults[TOKEN] = answering(200, {**ANSWER, "authorization_details": [{"type": "ticket"}]})
    token = await client.token(AUDIENCE, details=[{"type": "ticket"}, {"type": "other"}])
    assert token.details == ({"type": "ticket"},)


async def test_each_subject_has_a_token_of_its_own(client: Client, broker: FakeBroker, time: VirtualTime) -> None:
    """Tokens of different lines are never mixed up, and one is not got ahead of its end: it ends with its parent."""
    broker.faults[TOKEN] = answering(200, EXCHANGED, times=2)
    await client.exchange(SUBJECT, AUDIENCE)
    await client.exchange("another.subject.token", AUDIENCE)
    time.advance(290)
    await client.exchange(SUBJECT, AUDIENCE)
    assert broker.asked[TOKEN] == 2


async def test_a_token_can_be_handed_over_as_it_came(client: Client, broker: FakeBroker) -> None:
    """A token that the same process got needs not be revealed to be exchanged."""
    token = await client.token(AUDIENCE)
    broker.faults[TOKEN] = answering(200, EXCHANGED)
    assert (await client.exchange(token, AUDIENCE)).access_token == "t"


async def test_break_glass_is_not_repeated_in_the_background(
    client: Client, broker: FakeBroker, time: VirtualTime
) -> None:
    """Going ahead without people is loud each time: it is done when somebody needs it, not ahead of time."""
    await client.token(AUDIENCE, break_glass="no time")
    assert broker.forms[0]["break_glass"] == "no time"
    time.advance(290)
    await client.token(AUDIENCE, break_glass="no time")
    assert len(broker.forms) == 1
    await client.token(AUDIENCE)
    assert len(broker.forms) == 2


@pytest.mark.parametrize("subject", ["", "a b", "tök", "a\x1b", "\udcff"])
def test_what_is_no_token_is_not_exchanged(subject: str) -> None:
    """It is refused before anything is sent, and not repeated."""
    with pytest.raises(Malformed) as caught:
        subject_of(subject)
    assert caught.value.code is Code.SUBJECT_TOKEN_INVALID


@pytest.mark.parametrize("kind", ["access_token", "id_token", "jwt"])
async def test_a_token_of_a_trusted_issuer_is_called_what_it_is(
    client: Client, broker: FakeBroker, kind: SubjectTokenType
) -> None:
    """Its type is sent by its full name, and the same text as another type is another wish."""
    await client.exchange(SUBJECT, AUDIENCE, subject_token_type=kind)
    await client.exchange(SUBJECT, AUDIENCE, subject_token_type=kind)
    await client.exchange(SUBJECT, AUDIENCE, subject_token_type="jwt" if kind != "jwt" else "id_token")
    assert broker.forms[0]["subject_token_type"] == f"urn:ietf:params:oauth:token-type:{kind}"
    assert len(broker.forms) == 2


async def test_no_other_types_are_exchanged(client: Client, broker: FakeBroker) -> None:
    """What is not known is refused before anything is sent."""
    with pytest.raises(Malformed) as caught:
        await client.exchange(SUBJECT, AUDIENCE, subject_token_type="saml2")  # type: ignore[arg-type]
    assert caught.value.code is Code.SUBJECT_TOKEN_INVALID
    assert broker.forms == []


@pytest.mark.parametrize("details", [[{"a": {1}}], [{"a": float("nan")}], [{"a": object()}]])
def test_what_is_no_json_is_not_asked_for(details: Details) -> None:
    """Values are those of JSON."""
    with pytest.raises(Malformed):
        want(AUDIENCE, (), None, details=details)


def test_equal_requests_are_one() -> None:
    """However their details are written down."""
    first, second = ([{"type": "t", "a": 1}], [{"a": 1, "type": "t"}])
    assert want(AUDIENCE, "b a", None, details=first) == want(AUDIENCE, ["a", "b", "a"], None, details=second)
    assert json.loads(want(AUDIENCE, (), None, details=first).details or "") == first


def test_lone_surrogates_are_told_of() -> None:
    """What cannot be encoded cannot be sent."""
    with pytest.raises(Malformed):
        want(AUDIENCE, (), None, break_glass="\ud800")
