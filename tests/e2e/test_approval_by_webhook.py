"""An approval from end to end: the broker tells a chat tool, a person decides there, and the agent goes on, once."""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web

from broker.client import Client, DpopKey, KeyIdentity, TokenPending, TokenRefused
from broker.core.personal import told
from tests.support.running_broker import PAYMENTS, TICKETS, RunningBroker, free_port

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "approve-requests.md"
SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()

POLICY = """
version: 1
audiences:
  https://payments.internal:
    scopes: {"refunds:create": {tier: sensitive}, "refunds:cancel": {tier: sensitive}}
    details:
      refund:
        schema:
          type: object
          required: [type, order, cents]
          properties: {type: {const: refund}, order: {type: string}, cents: {type: integer}}
  https://tickets.internal: {scopes: {"refunds:create": {tier: sensitive}}}
tiers:
  sensitive: {max_ttl: 5m, approval: {approvers: finance, quorum: 1, expires: 10m}}
roles:
  support:
    members: [{agent: alpha}, {agent: beta}]
    allow:
      - audience: https://payments.internal
        scopes: ["refunds:create", "refunds:cancel"]
        details: [refund]
      - {audience: https://tickets.internal, scopes: ["refunds:create"]}
      - {audience: broker, scopes: ["tasks:open", "tasks:close"]}
    limits: {tokens_per_minute: 1000}
  finance:
    members: [{agent: carol}]
    allow: [{audience: broker, scopes: ["approvals:decide"]}]
  operators:
    members: [{agent: operator}]
    allow: [{audience: broker, scopes: ["operator:read", "agents:write", "ledger:read", "approvals:decide"]}]
"""

ORDER = {"type": "refund", "order": "8812", "cents": 4200}


@dataclass
class Chat:
    """The receiver of the guide, run as it stands there: what it prints is what people see."""

    receive: Callable[[web.Request], Awaitable[web.Response]]
    decide: Callable[[Client, str, str, str], Awaitable[str]]
    shown: asyncio.Queue[tuple[str, str, str]] = field(default_factory=asyncio.Queue)
    answers: list[tuple[bytes, dict[str, str], int]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        """Let the guide's receiver answer, and keep what it was sent and what it said."""
        body = await request.read()
        response = await self.receive(request)
        self.answers.append((body, dict(request.headers), response.status))
        return response

    async def next(self) -> tuple[str, str, str]:
        """Return the next message that people see: its type, the agent, and where to decide."""
        return await asyncio.wait_for(self.shown.get(), 20)


def guide(issuer: str) -> dict[str, Any]:
    """Run the code of the guide, with our secret and our broker put in, and return what it defines."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL))
    assert code.count("whsec_…") == code.count("https://broker.example") == 1
    defined: dict[str, Any] = {}
    exec(code.replace("whsec_…", SECRET).replace("https://broker.example", issuer), defined)  # noqa: S102 - our own guide
    return defined


@pytest.fixture(scope="module")
def port() -> int:
    """Where the chat tool listens."""
    return free_port()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[RunningBroker]:
    """A broker in a process of its own that tells the chat tool what waits for people."""
    running = RunningBroker(tmp_path_factory.mktemp("broker"), POLICY)
    running.initialise()
    (running.home / "webhook.secret").touch(0o600)
    (running.home / "webhook.secret").write_text(SECRET)
    with running.config.open("a") as settings:
        settings.write(f"""
[[webhooks]]
url = "http://127.0.0.1:{port}/hooks/broker"
secret_file = "webhook.secret"
events = ["requested"]
allow_http = true
allow_private = true
""")
    running.start()
    for name in ("alpha", "beta", "carol"):
        running.agent(name)
    yield running
    assert running.stop() == 0


@pytest.fixture
async def chat(broker: RunningBroker, port: int) -> AsyncIterator[Chat]:
    """Run the chat tool."""
    defined = guide(broker.issuer)
    tool = Chat(defined["receive"], defined["decide"])
    defined["print"] = lambda *words: tool.shown.put_nowait(words)
    app = web.Application()
    app.add_routes([web.post("/hooks/broker", tool.answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield tool
    finally:
        await runner.cleanup()


@asynccontextmanager
async def client(
    broker: RunningBroker, name: str, key: DpopKey | None = None, wait: float = 30
) -> AsyncIterator[Client]:
    """Return a client of an agent that waits for people as long as it is told."""
    identity = KeyIdentity.from_file(name, broker.folder / f"{name}.pem")
    async with Client(broker.issuer, identity=identity, dpop=key or False, approval_seconds=wait) as made:
        yield made


def claims_of(token: str) -> dict[str, Any]:
    """Return the claims of a token, unverified."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


async def code_of(attempt: Awaitable[object]) -> str:
    """Return why a token was refused."""
    with pytest.raises(TokenRefused) as refused:
        await attempt
    return refused.value.code.value


async def entries(broker: RunningBroker, kind: str) -> list[dict[str, Any]]:
    """Return the ledger's entries of a kind."""
    listed = await asyncio.to_thread(broker.ask, "ledger", "tail", "-n", "1000")
    return [dict(told(shown)) for shown in listed["entries"] if shown["entry"]["kind"] == kind]


async def test_a_person_decides_in_the_chat_tool(broker: RunningBroker, chat: Chat) -> None:
    """The agent waits, the tool is told, the person says yes there, and the agent's own request goes on, once."""
    async with client(broker, "alpha") as alpha, client(broker, "carol") as carol:
        waiting = asyncio.ensure_future(alpha.token(PAYMENTS, ["refunds:create"], details=[ORDER]))
        kind, agent, url = await chat.next()
        request = url.rpartition("/")[2]
        assert (kind, agent, waiting.done()) == ("approval.requested", "alpha", False)
        assert await chat.decide(carol, url, "approve", "agreed in ticket 8812") == "approved"
        token = await waiting
        assert claims_of(token.access_token)["authorization_details"] == [ORDER]
        assert await chat.decide(carol, url, "deny", "too late") == "there is nothing to decide any more: used"
        alpha.invalidate(token)
        again = alpha.token(PAYMENTS, ["refunds:create"], details=[ORDER], auth_req_id=request)
        assert await code_of(again) == "approval_invalid"
    issued = [entry for entry in await entries(broker, "token.issued") if entry.get("approval") == request]
    assert [entry["ref"] for entry in issued] == [claims_of(token.access_token)["jti"]]
    (vote,) = [entry for entry in await entries(broker, "approval.voted") if entry["ref"] == request]
    assert (vote["by"], vote["reason"]) == ("carol", "agreed in ticket 8812")


async def test_a_person_says_no_in_the_chat_tool(broker: RunningBroker, chat: Chat) -> None:
    """The waiting agent is told so."""
    async with client(broker, "alpha") as alpha, client(broker, "carol") as carol:
        waiting = asyncio.ensure_future(alpha.token(PAYMENTS, ["refunds:cancel"]))
        _, _, url = await chat.next()
        assert await chat.decide(carol, url, "deny", "nobody asked for this") == "denied"
        assert await code_of(waiting) == "approval_denied"


async def test_the_tool_has_no_word_of_its_own(broker: RunningBroker, chat: Chat) -> None:
    """Whoever is not in the role of the approvers is turned away, and the request goes on waiting."""
    operator = Client(
        broker.issuer, identity=KeyIdentity.from_file("operator", broker.home / "operator.pem"), approval_seconds=0
    )
    async with client(broker, "alpha", wait=0) as alpha, client(broker, "beta") as beta, operator:
        with pytest.raises(TokenPending) as pending:
            await alpha.token(PAYMENTS, ["refunds:cancel"], details=[ORDER])
        _, _, url = await chat.next()
        assert await code_of(chat.decide(beta, url, "approve", "I like it")) == "scope_not_allowed"
        told = await chat.decide(operator, url, "approve", "I may do anything")
        assert told == "only members of the role finance may decide this"
        with pytest.raises(TokenPending) as still:
            await alpha.token(PAYMENTS, ["refunds:cancel"], details=[ORDER])
        assert still.value.auth_req_id == pending.value.auth_req_id


async def test_only_what_the_broker_signed_is_shown_and_only_once(broker: RunningBroker, chat: Chat, port: int) -> None:
    """A message with anything changed is turned away; the very same one again is taken, and not shown again."""
    async with client(broker, "beta", wait=0) as beta:
        with pytest.raises(TokenPending):
            await beta.token(PAYMENTS, ["refunds:create"], details=[{**ORDER, "cents": 1}])
    await chat.next()
    body, headers, status = chat.answers[-1]
    signed = {name: value for name, value in headers.items() if name.lower().startswith("webhook-")}
    later = {**signed, "webhook-timestamp": str(int(signed["webhook-timestamp"]) + 1)}
    other = {**signed, "webhook-id": signed["webhook-id"] + "x"}
    async with aiohttp.ClientSession() as http:

        async def sent(sent_body: bytes, sent_headers: dict[str, str]) -> int:
            async with http.post(
                f"http://127.0.0.1:{port}/hooks/broker", data=sent_body, headers=sent_headers
            ) as reply:
                return reply.status

        forged = [(body.replace(b"beta", b"alfa"), signed), (body, later), (body, other), (body, {})]
        assert [await sent(*message) for message in forged] == [401] * 4
        assert (status, await sent(body, signed)) == (204, 204)
    assert chat.shown.empty()


async def test_an_approval_is_good_for_nothing_else(broker: RunningBroker, chat: Chat) -> None:
    """Another scope, audience, task, details, key, actor or agent is refused; what was asked is then had, once."""
    key, request = DpopKey.generate(), ""
    async with (
        client(broker, "alpha", key, wait=0) as alpha,
        client(broker, "alpha", DpopKey.generate()) as other_key,
        client(broker, "alpha") as no_key,
        client(broker, "beta", key) as beta,
        client(broker, "carol") as carol,
        no_key.open_task("refund order 8812") as task,
        no_key.open_task("refund order 9000") as other_task,
    ):
        asked: dict[str, Any] = {
            "audience": PAYMENTS,
            "scopes": ["refunds:create"],
            "task": task.id,
            "details": [ORDER],
        }
        with pytest.raises(TokenPending):
            await alpha.token(**asked)
        _, _, url = await chat.next()
        request = url.rpartition("/")[2]
        assert await chat.decide(carol, url, "approve", "agreed in ticket 8812") == "approved"
        changes: list[dict[str, Any]] = [
            {"scopes": ["refunds:cancel"]},
            {"scopes": ["refunds:cancel", "refunds:create"]},
            {"audience": TICKETS, "details": None},
            {"task": other_task.id},
            {"task": None},
            {"details": [{**ORDER, "cents": 4201}]},
            {"details": [ORDER, {**ORDER, "order": "9000"}]},
            {"details": None},
            {"may_act": "beta"},
        ]
        refused = [await code_of(alpha.token(**{**asked, **change}, auth_req_id=request)) for change in changes]
        refused += [await code_of(agent.token(**asked, auth_req_id=request)) for agent in (other_key, no_key)]
        refused += [await code_of(beta.token(**{**asked, "task": None}, auth_req_id=request))]
        assert refused == ["approval_invalid"] * len(refused)
        token = await alpha.token(**asked, auth_req_id=request)
        claims = claims_of(token.access_token)
        assert (claims["scope"], claims["cnf"]["jkt"]) == ("refunds:create", key.thumbprint)
        assert (claims["broker"]["task"], claims["authorization_details"]) == (task.id, [ORDER])
        alpha.invalidate(token)
        assert await code_of(alpha.token(**asked, auth_req_id=request)) == "approval_invalid"
    kept = await entries(broker, "token.issued")
    assert len([entry for entry in kept if entry.get("approval") == request]) == 1
