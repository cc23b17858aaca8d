"""A real MCP server guarded by the verifier: its tools see who acts for whom, and revoking reaches the next call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.settings import AuthSettings
from pydantic import AnyHttpUrl

from broker.client import Client, KeyIdentity
from broker.verifier import Verifier
from broker.verifier.mcp import McpTokenVerifier
from tests.support.broker_app import BrokerApp, make_template, running_app
from tests.support.running_broker import free_port

POLICY = """
version: 1
audiences:
  RESOURCE: {scopes: {"tools:call": {tier: read}}}
tiers: {read: {max_ttl: 15m}}
roles:
  planners:
    members: [{agent: planner}]
    allow: [{audience: RESOURCE, scopes: ["tools:call"]}]
    may_delegate_to: [workers]
  workers:
    members: [{agent: worker}]
    allow: [{audience: RESOURCE, scopes: ["tools:call"]}]
  verifiers:
    members: [{agent: gateway}]
    allow: [{audience: broker, scopes: ["revocations:read"]}]
  operators:
    members: [{agent: operator}]
    allow: [{audience: broker, scopes: ["revocations:write", "agents:write"]}]
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


async def called(resource: str, token: str) -> dict[str, Any]:
    """Call the tool with MCP's own client."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers) as http:
        transport = streamable_http_client(resource, http_client=http)
        async with McpClient(transport) as client:
            result = await client.call_tool("who", {})
    (content,) = result.content
    answer: dict[str, Any] = json.loads(content.text)  # type: ignore[union-attr]
    return answer


async def refused(resource: str, token: str) -> int:
    """Return the status that a call with a bad token gets."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient(headers=headers) as http:
        reply = await http.post(resource, json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    return int(reply.status_code)


@pytest.fixture
def place(tmp_path: Path) -> tuple[str, int, Path]:
    """Where the MCP server will be."""
    port = free_port()
    return f"http://127.0.0.1:{port}/mcp", port, tmp_path


def template_of(resource: str, folder: Path) -> Any:  # noqa: ANN401 - the support module's
    """Make a broker whose policy knows the MCP server."""
    return make_template(folder, POLICY.replace("RESOURCE", resource), ("planner", "worker", "gateway"))


async def test_a_delegated_call_shows_both_and_dies_with_the_parent(place: tuple[str, int, Path]) -> None:
    """The coordinator's call is its own; the sub-agent's shows both; revoking the coordinator stops the next call."""
    resource, port, folder = place
    template = await asyncio.to_thread(template_of, resource, folder / "template")
    async with running_app(template, folder / "broker") as app, client_of(app, "gateway") as own:
        verifier = Verifier(app.issuer, resource, credentials=own, poll=0.1)
        async with verifier, mcp_server(verifier, resource, port):
            async with client_of(app, "planner") as planner, client_of(app, "worker") as worker:
                parent = (await planner.token(resource, ["tools:call"])).access_token
                child = (await worker.exchange(parent, resource, ["tools:call"])).access_token
            assert await called(resource, parent) == {"client": "planner", "for": "planner", "act": None}
            assert await called(resource, child) == {"client": "worker", "for": "planner", "act": {"sub": "worker"}}
            operator = await app.operator("revocations:write")
            body = {"selector": {"agent": "planner"}, "reason": "hijacked"}
            headers = {"Idempotency-Key": "one"}
            made = await app.call("POST", "/v1/revocations", token=operator, json=body, headers=headers)
            async with asyncio.timeout(20):
                while verifier.epoch != made.json["rule"]:  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.01)
            assert await refused(resource, child) == 401
            assert await refused(resource, "no.such.token") == 401


def client_of(app: BrokerApp, agent: str) -> Client:
    """Return a client of an agent."""
    return Client(app.issuer, identity=KeyIdentity(agent, app.keys[agent]))
