"""The adapter for MCP servers says no more than the verifier does, and never takes its own trouble for the caller's."""

from __future__ import annotations

from typing import Any

import pytest
from mcp.server.auth.provider import TokenVerifier

from broker.core.errors import BrokerError, Code
from broker.verifier import Verifier
from broker.verifier.mcp import McpTokenVerifier
from tests.support.fake_broker import FakeBroker
from tests.support.virtual_time import VirtualTime


async def test_a_good_token_is_told_in_mcps_words(verifier: Verifier, broker: FakeBroker) -> None:
    """Who acts, for whom, for which resource, until when; and everything else as it stands in the token."""
    adapter: TokenVerifier = McpTokenVerifier(verifier)
    line = {"sub": "planner", "client_id": "worker", "agents": ("worker",), "parents": ("tok_parent",)}
    claims = broker.claims(**line, scopes=("a", "b"))
    text = broker.key.sign(claims.to_payload(), "at+jwt")
    access = await adapter.verify_token(text)
    assert access is not None
    assert (access.client_id, access.subject, access.resource) == ("worker", "planner", verifier.audience)
    assert (access.scopes, access.expires_at, access.token) == (["a", "b"], claims.exp, text)
    assert access.claims == claims.to_payload()
    assert access.claims["act"] == {"sub": "worker"}


@pytest.mark.parametrize("changes", [{"aud": "https://elsewhere"}, {"exp": 1}, {"iss": "https://other"}, {"jkt": "k"}])
async def test_a_bad_token_is_none(verifier: Verifier, broker: FakeBroker, changes: dict[str, Any]) -> None:
    """Also one that is bound to a key: the package hands no proof on, and without one it may be stolen."""
    assert await McpTokenVerifier(verifier).verify_token(broker.mint(**changes)) is None


async def test_a_revoked_token_is_none(verifier: Verifier, broker: FakeBroker) -> None:
    """From the next poll on."""
    text = broker.mint()
    assert await McpTokenVerifier(verifier).verify_token(text) is not None
    broker.revoke(agent="triage")
    await verifier.poll()
    assert await McpTokenVerifier(verifier).verify_token(text) is None


async def test_a_stale_view_is_no_bad_token(verifier: Verifier, broker: FakeBroker, time: VirtualTime) -> None:
    """Clients throw away a token that is called bad; when nobody can say, they are not told that it is."""
    text = broker.mint()
    time.advance(60)
    with pytest.raises(BrokerError) as caught:
        await McpTokenVerifier(verifier).verify_token(text)
    assert caught.value.code is Code.VIEW_STALE
