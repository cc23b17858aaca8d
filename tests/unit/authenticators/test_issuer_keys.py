"""The keys of an issuer: fetched rarely, served while the issuer is away, and gone when it withdraws them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from broker.authenticators.jwks import RETRY_SECONDS, STALE_SECONDS, UNKNOWN_SECONDS, IssuerKeys
from broker.authenticators.key_source import DEFAULT_TTL, LONGEST_TTL, MAX_DOCUMENT, SHORTEST_TTL, KeySource
from broker.core.errors import Code, Unavailable
from broker.core.issuer import TrustedIssuer
from broker.core.jwk import KeySet, parse_jwk
from broker.outbound import Outbound
from tests.support.hostile_server import (
    Answer,
    Exchange,
    HostileServer,
    answering,
    endless,
    fifty_megabytes,
    hang_up,
    never,
    redirecting,
)
from tests.support.identity_provider import BUNDLE, DISCOVERY, JWKS, IdentityProvider, SigningKey

NOW = 1_795_300_000.0


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    """Give a provider that publishes its keys on loopback."""
    async with IdentityProvider(lambda: NOW) as provider:
        yield provider


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    """Give a client that waits a second at most."""
    async with Outbound(total_seconds=1) as outbound:
        yield outbound


def _keys(issuer: TrustedIssuer, outbound: Outbound) -> IssuerKeys:
    return IssuerKeys(KeySource(issuer, outbound, use="jwt-svid" if issuer.preset == "spiffe" else "sig"))


def _kids(keys: KeySet) -> list[str | None]:
    return [key.kid for key in keys]


async def _fail(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=500)


async def _settle(keys: IssuerKeys) -> None:
    """Wait until no request is under way, five seconds at most."""
    for _ in range(5000):
        if not keys.busy:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("a request for keys does not end")


# --- sources --------------------------------------------------------------------------------------------------------


async def test_keys_are_discovered(provider: IdentityProvider, outbound: Outbound) -> None:
    """By the issuer's own discovery document."""
    keys = _keys(provider.trusted(), outbound)
    assert _kids(await keys.for_token(provider.key.kid, NOW)) == [provider.key.kid]
    assert provider.asked == {DISCOVERY: 1, JWKS: 1}


async def test_a_trailing_slash_of_the_issuer_does_not_double(provider: IdentityProvider, outbound: Outbound) -> None:
    """The well-known path follows the issuer without its slash; the issuer itself keeps it."""
    provider.discovery = {"issuer": f"{provider.url}/"}
    keys = _keys(replace(provider.trusted(), issuer=f"{provider.url}/"), outbound)
    assert len(await keys.for_token(provider.key.kid, NOW)) == 1


async def test_keys_can_come_from_a_url_or_from_the_definition(provider: IdentityProvider, outbound: Outbound) -> None:
    """Then nothing is discovered; and inline keys need no request at all, and never go stale."""
    by_url = _keys(replace(provider.trusted(), jwks_url=provider.url + JWKS), outbound)
    assert len(await by_url.for_token(provider.key.kid, NOW)) == 1
    assert provider.asked == {JWKS: 1}
    inline = _keys(replace(provider.trusted(), jwks={"keys": [provider.key.published()]}), outbound)
    for now in (NOW, NOW + 10 * STALE_SECONDS):
        assert _kids(await inline.for_token("unknown", now)) == [provider.key.kid]
    assert provider.asked == {JWKS: 1}


async def test_a_spiffe_bundle_gives_its_jwt_keys(provider: IdentityProvider, outbound: Outbound) -> None:
    """And those alone: a key for X.509 verifies no JWT-SVID."""
    keys = _keys(provider.trusted(preset="spiffe"), outbound)
    assert _kids(await keys.for_token(provider.svid_key.kid, NOW)) == [provider.svid_key.kid]
    assert provider.asked == {BUNDLE: 1}


async def test_a_definition_without_any_source_of_keys_has_none(provider: IdentityProvider, outbound: Outbound) -> None:
    """A trust domain has no discovery; and an inline set that is none is not taken for an empty one."""
    unusable: tuple[dict[str, Any], ...] = (
        {"bundle_url": None},
        {"jwks": {"keys": [{}] * 101}},
        {"jwks": {"keys": "none"}},
    )
    for changes in unusable:
        keys = _keys(replace(provider.trusted(preset="spiffe"), **changes), outbound)
        with pytest.raises(Unavailable):
            await keys.for_token("k", NOW)
        await keys.refresh(NOW)
    assert provider.asked == {}


@pytest.mark.parametrize(
    "discovery",
    [
        {"issuer": "https://other.example"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": ["x"]},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "https://user:secret@127.0.0.1/keys"},
        {"jwks_uri": "http://127.0.0.1:1/keys"},
    ],
)
async def test_a_discovery_document_that_is_not_the_issuers_is_refused(
    provider: IdentityProvider, outbound: Outbound, discovery: dict[str, object]
) -> None:
    """Its ``issuer`` must be the configured one exactly, and it must lead to where may be asked."""
    provider.discovery = discovery
    with pytest.raises(Unavailable) as refused:
        await _keys(provider.trusted(), outbound).for_token("k", NOW)
    assert refused.value.code is Code.ISSUER_UNAVAILABLE
    assert "secret" not in refused.value.public


async def test_a_discovery_document_cannot_lead_inside(provider: IdentityProvider, outbound: Outbound) -> None:
    """A public issuer's document that names a private address gets no request made there."""
    issuer = replace(provider.trusted(), jwks_url=provider.url + JWKS, allow_private=False)
    with pytest.raises(Unavailable):
        await _keys(issuer, outbound).for_token("k", NOW)
    assert provider.asked == {}


async def test_keys_that_moved_are_found_again(provider: IdentityProvider, outbound: Outbound) -> None:
    """When the known URL fails, discovery is asked for the new one."""
    keys = _keys(provider.trusted(), outbound)
    await keys.for_token(provider.key.kid, NOW)
    provider.discovery = {"jwks_uri": f"{provider.url}{BUNDLE}"}
    provider.faults[JWKS] = _fail
    provider.svid_key = replace(provider.svid_key, use="sig")
    found = await keys.for_token("moved", NOW + 1)
    assert provider.svid_key.kid in found


HOSTILE: dict[str, Answer] = {
    "silent": never,
    "endless": endless,
    "50 MB": fifty_megabytes,
    "hangs up": hang_up,
    "redirects": redirecting("http://127.0.0.1:1/"),
    "web page": answering(b"<html>not found</html>"),
    "empty": answering(b""),
    "other JSON": answering(b'{"issuer": "x"}'),
    "list": answering(b"[]"),
    "keys twice": answering(b'{"keys": [], "keys": []}'),
    "nested": answering(b'{"keys": ' + b"[" * 10_000),
    "keys of text": answering(b'{"keys": "none"}'),
    "too many keys": answering(b'{"keys": [' + b"{}," * 100 + b"{}]}"),
    "too long": answering(b'{"keys": []}' + b" " * MAX_DOCUMENT),
    "error": answering(b'{"keys": []}', status="500 Error"),
    "not found": answering(b'{"keys": []}', status="404 Not Found"),
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_key_server_is_one_clear_error_in_bounded_time(answer: Answer, outbound: Outbound) -> None:
    """Slow, endless, huge, redirecting, or answering something else: no keys, and say when to come back."""
    async with HostileServer(answer) as server:
        issuer = IdentityProvider(lambda: NOW).trusted(issuer="https://i.example", jwks_url=server.url)
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable) as refused:
                await _keys(issuer, outbound).for_token("k", NOW)
    assert refused.value.code is Code.ISSUER_UNAVAILABLE
    assert refused.value.retry_after


async def test_content_type_is_not_believed_and_bad_keys_are_left_out(
    provider: IdentityProvider, outbound: Outbound
) -> None:
    """A key set is what parses as one; one odd key does not cost the good ones."""

    async def page(_request: web.Request) -> web.StreamResponse:
        body = json.dumps({"keys": [{"kty": "future"}, 5, provider.key.published()]})
        return web.Response(text=body, content_type="text/html")

    provider.faults[JWKS] = page
    keys = await _keys(provider.trusted(), outbound).for_token(provider.key.kid, NOW)
    assert _kids(keys) == [provider.key.kid]
    assert keys.skipped == 2


# --- how often ------------------------------------------------------------------------------------------------------


async def test_many_requests_at_once_make_one(provider: IdentityProvider, outbound: Outbound) -> None:
    """A thousand tokens that arrive together at a cold cache cause one fetch."""
    keys = _keys(provider.trusted(), outbound)
    found = await asyncio.gather(*(keys.for_token(provider.key.kid, NOW) for _ in range(1000)))
    assert all(len(one) == 1 for one in found)
    assert provider.asked == {DISCOVERY: 1, JWKS: 1}


async def test_unknown_names_cause_one_fetch_a_minute(provider: IdentityProvider, outbound: Outbound) -> None:
    """However many tokens a stranger invents (law 10)."""
    keys = _keys(provider.trusted(), outbound)
    await keys.for_token(provider.key.kid, NOW)
    for n in range(100):
        found = await keys.for_token(f"invented-{n}", NOW + n / 10)
        assert _kids(found) == [provider.key.kid]
    assert provider.asked[JWKS] == 2
    await keys.for_token("invented", NOW + UNKNOWN_SECONDS)
    assert provider.asked[JWKS] == 3


async def test_a_rotated_key_is_taken_up_at_once(provider: IdentityProvider, outbound: Outbound) -> None:
    """The first token with the new key finds it, and the old one is trusted no more."""
    keys = _keys(provider.trusted(), outbound)
    old = provider.key
    await keys.for_token(old.kid, NOW)
    assert keys.trusts(parse_jwk(old.published()).thumbprint, NOW)
    new = provider.rotate()
    assert _kids(await keys.for_token(new.kid, NOW + 1)) == [new.kid]
    assert not keys.trusts(parse_jwk(old.published()).thumbprint, NOW + 1)


async def test_an_issuer_that_is_down_is_left_alone_for_a_moment(
    provider: IdentityProvider, outbound: Outbound
) -> None:
    """Requests meanwhile fail at once, with the time to come back; then it is asked again."""
    provider.faults[JWKS] = _fail
    keys = _keys(provider.trusted(), outbound)
    for n in range(20):
        with pytest.raises(Unavailable) as refused:
            await keys.for_token("k", NOW + n / 10)
        assert 1 <= (refused.value.retry_after or 0) <= RETRY_SECONDS
    assert provider.asked[DISCOVERY] == 1
    provider.faults.clear()
    assert len(await keys.for_token(provider.key.kid, NOW + RETRY_SECONDS)) == 1


# --- how long -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cache_control", "ttl"),
    [
        (None, DEFAULT_TTL),
        ("max-age=600", 600),
        ("public, max-age=600, must-revalidate", 600),
        ("MAX-AGE=600", 600),
        ('max-age="600"', 600),
        ("s-maxage=9", DEFAULT_TTL),
        ("max-age=0", SHORTEST_TTL),
        ("max-age=1", SHORTEST_TTL),
        ("max-age=99999999", LONGEST_TTL),
        ("max-age=" + "9" * 500, LONGEST_TTL),
        ("no-store", SHORTEST_TTL),
        ("no-cache, max-age=600", SHORTEST_TTL),
        ("max-age=x", DEFAULT_TTL),
    ],
)
async def test_keys_are_fresh_for_as_long_as_the_issuer_says_within_bounds(
    provider: IdentityProvider, outbound: Outbound, cache_control: str | None, ttl: int
) -> None:
    """Then they are fetched anew, behind the back of the request that noticed."""
    provider.cache_control = cache_control
    keys = _keys(provider.trusted(), outbound)
    await keys.for_token(provider.key.kid, NOW)
    await keys.for_token(provider.key.kid, NOW + ttl - 1)
    assert not keys.busy
    await keys.for_token(provider.key.kid, NOW + ttl)
    assert keys.busy
    await _settle(keys)
    assert provider.asked[JWKS] == 2


@pytest.mark.parametrize(("hint", "ttl"), [(600, 600), (1, SHORTEST_TTL), (10**9, LONGEST_TTL), ("600", DEFAULT_TTL)])
async def test_a_bundle_says_itself_how_long_it_is_good(
    provider: IdentityProvider, outbound: Outbound, hint: object, ttl: int
) -> None:
    """``spiffe_refresh_hint``, within the same bounds."""

    async def bundle(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"keys": [provider.svid_key.published()], "spiffe_refresh_hint": hint})

    provider.faults[BUNDLE] = bundle
    keys = _keys(provider.trusted(preset="spiffe"), outbound)
    await keys.for_token(provider.svid_key.kid, NOW)
    assert keys.current(NOW + ttl - 1) is not None
    assert not keys.busy
    assert keys.current(NOW + ttl) is not None
    assert keys.busy
    await _settle(keys)


async def test_keys_are_served_while_the_issuer_is_away_but_not_forever(
    provider: IdentityProvider, outbound: Outbound
) -> None:
    """An outage of an hour is bridged; after it, nobody knows whether the keys are still good."""
    keys = _keys(provider.trusted(), outbound)
    await keys.for_token(provider.key.kid, NOW)
    provider.faults[JWKS] = provider.faults[DISCOVERY] = _fail
    last = NOW + DEFAULT_TTL + STALE_SECONDS - 1
    for now in (NOW + DEFAULT_TTL, NOW + 1000, last):
        assert _kids(await keys.for_token(provider.key.kid, now)) == [provider.key.kid]
        await _settle(keys)
    with pytest.raises(Unavailable):
        await keys.for_token(provider.key.kid, last + RETRY_SECONDS)
    assert not keys.trusts(parse_jwk(provider.key.published()).thumbprint, last + 2 * RETRY_SECONDS)
    await _settle(keys)
    provider.faults.clear()
    assert len(await keys.for_token(provider.key.kid, last + 4 * RETRY_SECONDS)) == 1


async def test_an_issuer_that_withdraws_all_its_keys_is_believed(
    provider: IdentityProvider, outbound: Outbound
) -> None:
    """An empty key set is an answer, not an outage."""
    keys = _keys(provider.trusted(), outbound)
    await keys.for_token(provider.key.kid, NOW)
    provider.published = []
    await keys.for_token(provider.key.kid, NOW + DEFAULT_TTL)
    await _settle(keys)
    assert len(await keys.for_token(provider.key.kid, NOW + DEFAULT_TTL + 1)) == 0


async def test_requests_that_overtake_each_other_share_the_keys(provider: IdentityProvider, outbound: Outbound) -> None:
    """A request reads the clock before it waits for anything: one that asks later may have an earlier time."""
    keys = _keys(provider.trusted(), outbound)
    later, *earlier = await asyncio.gather(*(keys.for_token(provider.key.kid, NOW - age) for age in (0, 0.001, 3)))
    assert [_kids(found) for found in earlier] == [_kids(later)] * 2
    assert _kids(await keys.for_token(provider.key.kid, NOW - 1)) == _kids(later)
    assert provider.asked == {DISCOVERY: 1, JWKS: 1}


async def test_a_clock_that_steps_back_makes_keys_stale_and_no_more(
    provider: IdentityProvider, outbound: Outbound
) -> None:
    """They are fetched again at the new time; nothing stays fresh for years."""
    keys = _keys(provider.trusted(), outbound)
    await keys.for_token(provider.key.kid, NOW)
    assert len(await keys.for_token(provider.key.kid, NOW - 86_400)) == 1
    assert provider.asked[JWKS] == 2


async def test_keys_are_refreshed_before_anybody_asks(provider: IdentityProvider, outbound: Outbound) -> None:
    """In the background: cold, and when their time has come; not before; and an outage raises nothing."""
    keys = _keys(provider.trusted(), outbound)
    await keys.refresh(NOW)
    assert provider.asked[JWKS] == 1
    await keys.refresh(NOW + 1)
    assert provider.asked[JWKS] == 1
    await keys.refresh(NOW + DEFAULT_TTL)
    assert provider.asked[JWKS] == 2
    provider.faults[JWKS] = provider.faults[DISCOVERY] = _fail
    await keys.refresh(NOW + 3 * DEFAULT_TTL)


# --- cancellation ---------------------------------------------------------------------------------------------------


async def test_a_caller_that_goes_away_leaves_the_fetch_to_the_others(
    provider: IdentityProvider, outbound: Outbound
) -> None:
    """Cancelling one waiting request neither cancels the fetch nor the other requests."""
    asked, gate = asyncio.Event(), asyncio.Event()

    async def slowly(_request: web.Request) -> web.StreamResponse:
        asked.set()
        await gate.wait()
        return web.json_response({"keys": [provider.key.published()]})

    provider.faults[JWKS] = slowly
    keys = _keys(provider.trusted(), outbound)
    first, second = (asyncio.create_task(keys.for_token(provider.key.kid, NOW)) for _ in range(2))
    await asked.wait()
    first.cancel()
    gate.set()
    assert _kids(await second) == [provider.key.kid]
    assert provider.asked[JWKS] == 1
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_closing_ends_what_is_under_way(outbound: Outbound) -> None:
    """No task is left behind, and whoever waits gets an answer."""
    asked = asyncio.Event()

    async def silent(exchange: Exchange) -> None:
        asked.set()
        await never(exchange)

    async with HostileServer(silent) as server:
        issuer = IdentityProvider(lambda: NOW).trusted(issuer="https://i.example", jwks_url=server.url)
        keys = _keys(issuer, outbound)
        waiting = asyncio.create_task(keys.for_token("k", NOW))
        await asked.wait()
        await keys.close()
        with pytest.raises(Unavailable):
            await waiting
        assert not keys.busy


def test_a_key_of_one_set_is_no_key_of_another() -> None:
    """Each definition has keys of its own, whatever they are called."""
    assert SigningKey(kid="a").published() != SigningKey(kid="a").published()
