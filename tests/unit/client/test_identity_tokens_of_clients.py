"""How a client gets identity tokens: of a token for the broker's own API, kept while they are good, and never shown."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from broker.client import Client, KeyIdentity, TokenRefused, TokenUnavailable
from broker.core.errors import Code, Malformed
from tests.support.fake_broker import TOKEN, FakeBroker, answering
from tests.support.virtual_time import VirtualTime

JWT = "urn:ietf:params:oauth:token-type:jwt"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
SUBJECT = "canary.subject.token"
IDENTITY = {"access_token": "i.d.t", "issued_token_type": JWT, "token_type": "N_A", "expires_in": 300}
REVOKED = {"error": "invalid_request", "code": "subject_token_invalid", "error_description": "it has been revoked"}


class IdentityBroker(FakeBroker):
    """Answers exchanges with ``identity``, after as many refusals as ``refusals`` says; the rest as always."""

    identity: dict[str, object] = IDENTITY
    refusals = 0

    async def exchange(self, request: web.Request) -> web.StreamResponse | None:
        """Answer an exchange."""
        form = {name: str(value) for name, value in (await request.post()).items()}
        if "requested_token_type" not in form:
            return None
        self.forms.append(form)
        if self.refusals > 0:
            self.refusals -= 1
            return web.json_response(REVOKED, status=400)
        return web.json_response(self.identity)


@pytest.fixture
def time() -> VirtualTime:
    """Time that the test moves."""
    return VirtualTime()


@pytest.fixture
async def broker(time: VirtualTime) -> AsyncIterator[IdentityBroker]:
    """A running broker that gives identity tokens."""
    fake = IdentityBroker(lambda: time.wall)
    await fake.start()
    fake.faults[TOKEN] = fake.exchange
    yield fake
    await fake.stop()


@pytest.fixture
async def client(broker: IdentityBroker, time: VirtualTime) -> AsyncIterator[Client]:
    """A client of that broker."""
    identity = KeyIdentity("worker", ec.generate_private_key(ec.SECP256R1()))
    async with Client(broker.url, identity=identity, patience=1, timing=time.timing()) as made:
        yield made


async def test_it_comes_of_a_token_of_ones_own(client: Client, broker: IdentityBroker) -> None:
    """First a token for the broker's API with the one scope that it takes, then the exchange; both are kept."""
    token = await client.identity_token("vault", "task_1")
    assert await client.identity_token("vault", "task_1") is token
    own, exchange = broker.forms
    assert (own["resource"], own["scope"], own["task"]) == (f"{broker.url}/v1", "identity:issue", "task_1")
    assert exchange.pop("client_assertion")
    assert exchange.pop("subject_token").count(".") == 2
    assert exchange == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "subject_token_type": ACCESS_TOKEN,
        "requested_token_type": JWT,
        "audience": "vault",
        "task": "task_1",
    }
    assert (token.access_token, token.token_type, token.expires_in) == ("i.d.t", "N_A", 300)
    assert "i.d.t" not in repr(token)


async def test_it_comes_of_what_one_was_handed(client: Client, broker: IdentityBroker) -> None:
    """Then no token of one's own is got."""
    await client.identity_token("vault", subject_token=SUBJECT)
    (form,) = broker.forms
    assert form["subject_token"] == SUBJECT


async def test_each_audience_has_one(client: Client, broker: IdentityBroker) -> None:
    """They all come of one token, and an access token for the same name is another thing."""
    await client.identity_token("vault")
    await client.identity_token("https://tickets.internal")
    await client.token("https://tickets.internal")
    assert [form.get("audience") for form in broker.forms] == [None, "vault", "https://tickets.internal", None]


async def test_it_is_not_got_ahead_of_its_end(client: Client, broker: IdentityBroker, time: VirtualTime) -> None:
    """Nobody may need it any more, and it could not be revoked; who does, asks."""
    await client.identity_token("vault", subject_token=SUBJECT)
    time.advance(280)
    await client.identity_token("vault", subject_token=SUBJECT)
    assert len(broker.forms) == 1
    time.advance(16)
    await client.identity_token("vault", subject_token=SUBJECT)
    assert len(broker.forms) == 2


async def test_a_token_that_was_revoked_meanwhile_is_got_anew(client: Client, broker: IdentityBroker) -> None:
    """The one at hand is dropped and asked for again, once."""
    await client.identity_token("vault")
    broker.refusals = 1
    assert (await client.identity_token("aws")).access_token == "i.d.t"
    assert [form.get("audience") for form in broker.forms] == [None, "vault", "aws", None, "aws"]
    broker.refusals = 2
    with pytest.raises(TokenRefused) as refused:
        await client.identity_token("kubernetes")
    assert refused.value.code is Code.SUBJECT_TOKEN_INVALID


async def test_what_one_was_handed_is_not_got_anew(client: Client, broker: IdentityBroker) -> None:
    """Only who handed it on could."""
    broker.refusals = 1
    with pytest.raises(TokenRefused):
        await client.identity_token("vault", subject_token=SUBJECT)
    assert len(broker.forms) == 1


async def test_a_key_is_proved_though_the_token_is_not_bound(broker: IdentityBroker, time: VirtualTime) -> None:
    """A client with a key proves it for both requests, and takes the unbound answer."""
    identity = KeyIdentity("worker", ec.generate_private_key(ec.SECP256R1()))
    async with Client(broker.url, identity=identity, dpop=True, patience=1, timing=time.timing()) as bound:
        assert (await bound.identity_token("vault", subject_token=SUBJECT)).token_type == "N_A"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"token_type": "Bearer"}, "N_A"),
        ({"issued_token_type": ACCESS_TOKEN}, "issued_token_type"),
        ({"issued_token_type": None}, "issued_token_type"),
        ({"expires_in": 0}, "expires_in"),
        ({"access_token": "a b"}, "access_token"),
    ],
)
async def test_only_an_identity_token_is_taken(
    client: Client, broker: IdentityBroker, change: dict[str, object], name: str
) -> None:
    """An answer that says anything else (RFC 8693, 2.2.1) is not used."""
    broker.identity = {**IDENTITY, **change}
    with pytest.raises(TokenUnavailable, match=name):
        await client.identity_token("vault", subject_token=SUBJECT)


async def test_an_identity_token_is_no_access_token(client: Client, broker: IdentityBroker) -> None:
    """An answer with one is not used where a token for a resource was asked for."""
    broker.faults[TOKEN] = answering(200, IDENTITY)
    with pytest.raises(TokenUnavailable):
        await client.token("https://tickets.internal")


async def test_an_audience_must_be_named(client: Client, broker: IdentityBroker) -> None:
    """Nothing is asked without."""
    with pytest.raises(Malformed):
        await client.identity_token("", subject_token=SUBJECT)
    assert not broker.forms
