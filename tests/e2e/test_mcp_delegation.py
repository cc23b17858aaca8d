"""A real MCP server guarded by the verifier: its tools see who acts for whom, and revoking reaches the next call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import jwt
import pytest
import uvicorn
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.settings import AuthSettings
from mcp.shared.exceptions import MCPError
from pydantic import AnyHttpUrl

from broker.client import Client, KeyIdentity
from broker.verifier import Verifier
from broker.verifier.mcp import McpTokenVerifier
from tests.support.running_broker import RunningBroker, free_port

POLICY = """
version: 1
audiences:
  RESOURCE: {scopes: {"tools:call": {tier: read}, "tools:list": {tier: read}}}
  RESOURCE/other: {scopes: {"tools:call": {tier: read}}}
tiers: {read: {max_ttl: 15m}}
roles:
  planners:
    members: [{agent: planner}]
    allow:
      - {audience: RESOURCE, scopes: ["tools:call", "tools:list"]}
      - {audience: RESOURCE/other, scopes: ["tools:call"]}
    may_delegate_to: [workers]
  workers:
    members: [{agent: worker}]
    allow: [{audience: RESOURCE, scopes: ["tools:call"]}]
  verifiers:
    members: [{agent: gateway}]
    allow: [{audience: broker, scopes: ["revocations:read"]}]
  operators:
    members: [{agent: operator}]
    allow: [{audience: broker, scopes: ["revocations:write", "operator:read", "agents:write"]}]
"""


@asynccontextmanager
async def mcp_server(verifier: Verifier, resource: str, port: int) -> AsyncIterator[None]:
    """Run an MCP server with one guarded tool, over streamable HTTP."""
    auth = AuthSettings(
        issuer_url=AnyHttpUrl(verifier.issuer),
        resource_server_url=AnyHttpUrl(resource),
        required_scopes=["tools:call"],
        validate_token_resource=True,
    )
    server = MCPServer("tickets", token_verifier=McpTokenVerifier(verifier), auth=auth)

    @server.tool()
    async def who() -> str:
        """Say who calls, and for whom."""
        token = get_access_token()
        assert token is not None
        assert token.claims is not None
        return json.dumps({"client": token.client_id, "for": token.subject, "act": token.claims.get("act")})

    config = uvicorn.Config(server.streamable_http_app(), host="127.0.0.1", port=port, log_level="error", lifespan="on")
    running = uvicorn.Server(config)
    serving = asyncio.ensure_future(running.serve())
    try:
        async with asyncio.timeout(20):
            while not running.started:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        yield
    finally:
        running.should_exit = True
        await serving


@asynccontextmanager
async def connected(resource: str, token: str) -> AsyncIterator[McpClient]:
    """Connect MCP's own client."""
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as http,
        McpClient(streamable_http_client(resource, http_client=http)) as client,
    ):
        yield client


async def called(client: McpClient) -> dict[str, Any]:
    """Call the tool, and return what it says."""
    (content,) = (await client.call_tool("who", {})).content
    answer: dict[str, Any] = json.loads(content.text)  # type: ignore[union-attr]
    return answer


async def refused(resource: str, headers: dict[str, str]) -> tuple[int, str]:
    """Return the status and the challenge that a call which is turned away gets."""
    async with httpx2.AsyncClient(headers={"Accept": "application/json, text/event-stream", **headers}) as http:
        reply = await http.post(resource, json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    return int(reply.status_code), str(reply.headers.get("WWW-Authenticate", ""))


@pytest.fixture(scope="module")
def port() -> int:
    """Where the MCP server is."""
    return free_port()


@pytest.fixture(scope="module")
def resource(port: int) -> str:
    """The MCP server's URL, which is what tokens are for."""
    return f"http://127.0.0.1:{port}/mcp"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, resource: str) -> Iterator[RunningBroker]:
    """A broker in a process of its own, whose policy knows the MCP server."""
    running = RunningBroker(tmp_path_factory.mktemp("broker"), POLICY.replace("RESOURCE", resource))
    running.initialise()
    running.start()
    for name in ("planner", "worker", "gateway"):
        running.agent(name)
    yield running
    assert running.stop() == 0


@pytest.fixture
async def verifier(broker: RunningBroker, resource: str, port: int) -> AsyncIterator[Verifier]:
    """The verifier of the MCP server, which runs meanwhile."""
    async with client_of(broker, "gateway") as own:
        verifying = Verifier(broker.issuer, resource, credentials=own, poll=0.1)
        async with verifying, mcp_server(verifying, resource, port):
            yield verifying


def client_of(broker: RunningBroker, agent: str, *, dpop: bool = False) -> Client:
    """Return a client of an agent."""
    identity = KeyIdentity.from_file(agent, broker.folder / f"{agent}.pem")
    return Client(broker.issuer, identity=identity, dpop=dpop)


async def revoke(broker: RunningBroker, verifier: Verifier, *selector: str) -> None:
    """Revoke as an operator would, and wait until the MCP server's verifier knows."""
    made = await asyncio.to_thread(broker.ask, "revoke", *selector, "--reason", "hijacked")
    async with asyncio.timeout(20):
        while verifier.epoch != made["rule"]:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)


async def test_a_delegated_call_shows_both_and_dies_with_the_parent(
    broker: RunningBroker, verifier: Verifier, resource: str
) -> None:
    """The tool sees who acts and for whom; revoking the coordinator's token stops the sub-agent's very next call."""
    async with client_of(broker, "planner") as planner, client_of(broker, "worker") as worker:
        parent = (await planner.token(resource, ["tools:call"], may_act="worker")).access_token
        child = (await worker.exchange(parent, resource, ["tools:call"])).access_token
    async with connected(resource, parent) as coordinator, connected(resource, child) as helper:
        assert await called(coordinator) == {"client": "planner", "for": "planner", "act": None}
        assert await called(helper) == {"client": "worker", "for": "planner", "act": {"sub": "worker"}}
        claims = jwt.decode(parent, options={"verify_signature": False})
        await revoke(broker, verifier, "--token", claims["jti"])
        for client in (helper, coordinator):
            with pytest.raises(MCPError):
                await called(client)
    status, challenge = await refused(resource, {"Authorization": f"Bearer {child}"})
    assert (status, 'error="invalid_token"' in challenge) == (401, True)


async def test_revoking_the_sub_agent_leaves_the_coordinator_alone(
    broker: RunningBroker, verifier: Verifier, resource: str
) -> None:
    """A rule ends what is below it, and nothing above."""
    async with client_of(broker, "planner") as planner, client_of(broker, "worker") as worker:
        parent = (await planner.token(resource, ["tools:call"])).access_token
        child = (await worker.exchange(parent, resource)).access_token
    await revoke(broker, verifier, "--agent", "worker")
    assert (await refused(resource, {"Authorization": f"Bearer {child}"}))[0] == 401
    async with connected(resource, parent) as coordinator:
        assert (await called(coordinator))["client"] == "planner"


async def test_who_is_turned_away(broker: RunningBroker, verifier: Verifier, resource: str) -> None:
    """No token, something else, a token for another resource, one that is bound to a key, and one without the scope."""
    assert (await refused(resource, {}))[0] == 401
    async with client_of(broker, "planner") as planner, client_of(broker, "planner", dpop=True) as bound:
        elsewhere = (await planner.token(f"{resource}/other", ["tools:call"])).access_token
        tied = (await bound.token(resource, ["tools:call"])).access_token
        lesser = (await planner.token(resource, ["tools:list"])).access_token
    for token in ("no.such.token", "x" * 20_000, elsewhere, tied):
        assert (await refused(resource, {"Authorization": f"Bearer {token}"}))[0] == 401
    status, challenge = await refused(resource, {"Authorization": f"Bearer {lesser}"})
    assert (status, 'error="insufficient_scope"' in challenge) == (403, True)
