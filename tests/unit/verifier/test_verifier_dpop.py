"""A token that is bound to a key is useless without that key, in every way a thief may try."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from broker.client import DpopKey
from broker.core.errors import BrokerError, Code
from broker.verifier import Verifier
from tests.support.fake_broker import FakeBroker
from tests.support.virtual_time import VirtualTime

AUDIENCE = "https://tickets.internal"
PATH = "/tickets/8812"
URL = AUDIENCE + PATH


@pytest.fixture
def key() -> DpopKey:
    """The agent's key."""
    return DpopKey.generate()


@pytest.fixture
def token(broker: FakeBroker, key: DpopKey) -> str:
    """A token that is bound to the agent's key."""
    return broker.mint(jkt=key.thumbprint)


async def refusal(verifier: Verifier, headers: list[tuple[str, str]], method: str = "GET", path: str = PATH) -> Code:
    """The code with which a token is refused."""
    with pytest.raises(BrokerError) as caught:
        await verifier.verify_request(headers, method, path)
    return caught.value.code


def with_proof(token: str, proof: str) -> list[tuple[str, str]]:
    """The headers of a request with a proof."""
    return [("Authorization", f"DPoP {token}"), ("DPoP", proof)]


async def test_the_holder_of_the_key_is_let_in(verifier: Verifier, time: VirtualTime, key: DpopKey, token: str) -> None:
    """With a proof for this request, whatever its query."""
    proof = key.proof("GET", URL + "?full=1", now=time.wall, access_token=token)
    assert (await verifier.verify_request(with_proof(token, proof), "GET", PATH)).claims.jkt == key.thumbprint


async def test_the_token_alone_is_useless(verifier: Verifier, token: str) -> None:
    """As Bearer, or as DPoP without a proof."""
    assert await refusal(verifier, [("Authorization", f"Bearer {token}")]) is Code.TOKEN_INVALID
    assert await refusal(verifier, [("Authorization", f"DPoP {token}")]) is Code.PROOF_REQUIRED
    with pytest.raises(BrokerError) as caught:
        await verifier.verify(token)
    assert caught.value.code is Code.TOKEN_INVALID


async def test_a_proof_beside_a_bearer_token_does_not_help(
    verifier: Verifier, time: VirtualTime, key: DpopKey, token: str
) -> None:
    """The scheme says how the token is to be checked (RFC 9449, 7.2)."""
    proof = key.proof("GET", URL, now=time.wall, access_token=token)
    assert await refusal(verifier, [("Authorization", f"Bearer {token}"), ("DPoP", proof)]) is Code.TOKEN_INVALID


async def test_another_key_does_not_fit(verifier: Verifier, time: VirtualTime, token: str) -> None:
    """A thief can make proofs, but not with the key that the token names."""
    proof = DpopKey.generate().proof("GET", URL, now=time.wall, access_token=token)
    assert await refusal(verifier, with_proof(token, proof)) is Code.PROOF_INVALID


async def test_a_proof_is_used_once(verifier: Verifier, time: VirtualTime, key: DpopKey, token: str) -> None:
    """A captured request cannot be sent again, also not at the edge of the proof's time."""
    headers = with_proof(token, key.proof("GET", URL, now=time.wall, access_token=token))
    await verifier.verify_request(headers, "GET", PATH)
    assert await refusal(verifier, headers) is Code.PROOF_REPLAYED
    time.advance(59)
    await verifier.poll()
    assert await refusal(verifier, headers) is Code.PROOF_REPLAYED
    time.advance(3)
    await verifier.poll()
    assert await refusal(verifier, headers) is Code.PROOF_INVALID


async def test_a_proof_for_another_request_is_refused(
    verifier: Verifier, broker: FakeBroker, time: VirtualTime, key: DpopKey, token: str
) -> None:
    """Another method, URL, token, time, or no token at all."""
    other = broker.mint(jkt=key.thumbprint)
    now = time.wall
    wrong = [
        key.proof("POST", URL, now=now, access_token=token),
        key.proof("GET", URL + "/comments", now=now, access_token=token),
        key.proof("GET", "https://evil.example" + PATH, now=now, access_token=token),
        key.proof("GET", "http://tickets.internal" + PATH, now=now, access_token=token),
        key.proof("GET", "https://tickets.internal:8443" + PATH, now=now, access_token=token),
        key.proof("GET", URL, now=now, access_token=other),
        key.proof("GET", URL, now=now),
        key.proof("GET", URL, now=now - 120, access_token=token),
        key.proof("GET", URL, now=now + 120, access_token=token),
        token,
        "nonsense",
    ]
    for proof in wrong:
        assert await refusal(verifier, with_proof(token, proof)) is Code.PROOF_INVALID


async def test_the_host_header_does_not_decide_the_url(
    verifier: Verifier, time: VirtualTime, key: DpopKey, token: str
) -> None:
    """A proof made for an attacker's site does not become good by claiming to be that site."""
    proof = key.proof("GET", "https://evil.example" + PATH, now=time.wall, access_token=token)
    headers = [
        *with_proof(token, proof),
        ("Host", "evil.example"),
        ("X-Forwarded-Host", "evil.example"),
        ("Forwarded", "host=evil.example;proto=https"),
    ]
    assert await refusal(verifier, headers) is Code.PROOF_INVALID


async def test_a_token_that_is_not_bound_is_no_dpop_token(
    verifier: Verifier, broker: FakeBroker, time: VirtualTime, key: DpopKey
) -> None:
    """The scheme promises a binding that is not there."""
    bearer = broker.mint()
    proof = key.proof("GET", URL, now=time.wall, access_token=bearer)
    assert await refusal(verifier, with_proof(bearer, proof)) is Code.TOKEN_INVALID


async def test_a_refused_request_does_not_use_the_proof_up(
    verifier: Verifier, time: VirtualTime, key: DpopKey, token: str
) -> None:
    """A stale view is not the client's fault: the same request may come again."""
    headers = with_proof(token, key.proof("GET", URL, now=time.wall, access_token=token))
    time.advance(11)
    assert await refusal(verifier, headers) is Code.VIEW_STALE
    await verifier.poll()
    await verifier.verify_request(headers, "GET", PATH)


async def test_one_agent_cannot_lock_the_others_out(
    broker: FakeBroker, time: VirtualTime, own_token: Callable[[], Awaitable[str]], key: DpopKey
) -> None:
    """Used proofs are remembered in a bounded room, of which an agent may fill only its share."""
    verifier = Verifier(broker.url, AUDIENCE, credentials=own_token, max_proofs=8, timing=time.timing())
    await verifier.poll()

    async def use(token: str) -> None:
        proof = key.proof("GET", URL, now=time.wall, access_token=token)
        await verifier.verify_request(with_proof(token, proof), "GET", PATH)

    greedy = broker.mint(jkt=key.thumbprint)
    for _ in range(2):
        await use(greedy)
    with pytest.raises(BrokerError) as caught:
        await use(broker.mint(jkt=key.thumbprint))
    assert caught.value.code is Code.RATE_LIMITED
    await use(broker.mint(jkt=key.thumbprint, client_id="another", sub="another"))
    await verifier.close()


async def test_a_prefix_in_front_of_the_application_is_part_of_the_url(
    broker: FakeBroker, time: VirtualTime, key: DpopKey
) -> None:
    """Behind a proxy that strips a path, the public URL is what clients see."""

    async def own_token() -> str:
        return broker.mint(aud=f"{broker.url}/v1", scopes=("revocations:read",))

    verifier = Verifier(
        broker.url, "urn:tickets", credentials=own_token, public_url="https://api.example/v2/", timing=time.timing()
    )
    await verifier.poll()
    token = broker.mint(aud="urn:tickets", jkt=key.thumbprint)
    proof = key.proof("GET", "https://api.example/v2/items", now=time.wall, access_token=token)
    await verifier.verify_request(with_proof(token, proof), "GET", "/items")
    await verifier.close()


async def test_without_a_known_url_no_proof_is_accepted(broker: FakeBroker, time: VirtualTime, key: DpopKey) -> None:
    """An audience that is no URL, and nothing configured: nobody knows what the proof must name."""

    async def own_token() -> str:
        return broker.mint(aud=f"{broker.url}/v1", scopes=("revocations:read",))

    verifier = Verifier(broker.url, "urn:tickets", credentials=own_token, timing=time.timing())
    await verifier.poll()
    token = broker.mint(aud="urn:tickets", jkt=key.thumbprint)
    proof = key.proof("GET", "https://api.example/items", now=time.wall, access_token=token)
    assert await refusal(verifier, with_proof(token, proof), path="/items") is Code.PROOF_INVALID
    await verifier.close()
