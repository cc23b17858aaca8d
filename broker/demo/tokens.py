"""The first act of the demonstration: tokens, from the first one to the end of ten thousand at once."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import aiohttp
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from broker.client import Client, TokenRefused
from broker.demo.cluster import token_file
from broker.demo.places import Places, timed
from broker.demo.stage import DemoError, Stage

CONNECTIONS: Final = 32
GIVE_UP_SECONDS: Final = 10.0
READ: Final = ("tickets:read",)
COMMENT: Final = ("tickets:comment",)


async def play_tokens(stage: Stage, places: Places, crowd: int) -> None:
    """Show steps 1 to 8. ``crowd`` is how many tokens the agent takes when it goes wild.

    Raises ``DemoError`` if anything is not as promised. At the end everything that was started runs on.
    """
    with stage.step(1, "Start: a broker, a cluster that vouches for agents, a ticket system"):
        await _set_up(stage, places)
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        triage = await stack.enter_async_context(places.agent("triage", dpop=True))
        plain = await stack.enter_async_context(places.agent("triage", dpop=False))
        summarizer = await stack.enter_async_context(places.agent("summarizer", dpop=False))
        with stage.step(2, "An agent proves what it is, gets a token for one purpose, and uses it"):
            token = await _first_token(stage, places, http, plain)
        with stage.step(3, "It asks for more than its role allows, and is told why not"):
            await _refused(stage, places, summarizer)
        with stage.step(4, "A token that is bound to a key is useless to a thief"):
            await _stolen(stage, places, http, triage)
        with stage.step(5, f"The agent goes wild: {crowd:,} live tokens"):
            await _crowd(stage, places, crowd)
        with stage.step(6, "An operator looks at what a revocation would hit; nothing changes yet"):
            stage.command("revoke", "--role", "support-triage", "--preview")
        with stage.step(7, "One call ends them all, and refuses new ones"):
            block = await _revoke(stage, places, http, token)
        with stage.step(8, "The block keeps the agent out until it is lifted; dead tokens stay dead"):
            await _lift(stage, places, http, plain, token, block)


async def _set_up(stage: Stage, places: Places) -> None:
    stage.environment["BROKER_CONFIG"] = str(places.config)
    stage.command("init", str(places.home))
    private, public = _prepare_files(places)
    stage.start("cluster", "broker.demo.cluster", str(places.folder), str(places.cluster_port), places.broker)
    stage.start("broker", "broker", "serve")
    await stage.answering("cluster", f"{places.cluster}/.well-known/openid-configuration")
    await stage.answering("broker", f"{places.broker}/readyz")
    stage.command("agent", "add", "tickets", "--public-key", str(public))
    stage.start("tickets", "broker.demo.tickets", str(places.tickets_port), places.broker, str(private))
    await stage.answering("tickets", f"{places.tickets}/healthz")


def _prepare_files(places: Places) -> tuple[Path, Path]:
    """Put our ports and policy in place, and make the ticket system's key pair; return its two files."""
    places.config.write_text(places.config.read_text().replace("8640", str(places.broker_port)))
    text = (Path(__file__).parent / "policy.yaml").read_text()
    text = text.replace("CLUSTER", places.cluster).replace("TICKETS", places.tickets)
    (places.home / "policy.yaml").write_text(text)
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = places.folder / "tickets.pem", places.folder / "tickets.pub.pem"
    private.touch(0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


async def _first_token(stage: Stage, places: Places, http: aiohttp.ClientSession, agent: Client) -> str:
    issued, elapsed = await timed(agent.token(places.tickets, READ))
    stage.say(f"prod-cluster/support/triage has a token for {places.tickets}, {' '.join(READ)}: {elapsed:.1f} ms")
    status, elapsed = await timed(_read(places, http, issued.access_token))
    stage.expect(status == 200, f"the ticket system accepts it (checked offline): {elapsed:.1f} ms")  # noqa: PLR2004
    return issued.access_token


async def _refused(stage: Stage, places: Places, agent: Client) -> None:
    try:
        await agent.token(places.tickets, COMMENT)
    except TokenRefused as refused:
        stage.expect(refused.code == "scope_not_allowed", f"refused: {refused.code}: {refused.description}")
        if refused.refusal is None:
            msg = "the refusal has no reference"
            raise DemoError(msg) from refused
        stage.command("policy", "explain", "--refusal", refused.refusal)
    else:
        msg = "the scope was granted"
        raise DemoError(msg)


async def _stolen(stage: Stage, places: Places, http: aiohttp.ClientSession, agent: Client) -> None:
    url = f"{places.tickets}/tickets/8812/comments"
    issued = await agent.token(places.tickets, COMMENT)
    async with http.post(url, headers=await agent.authorize("POST", url, places.tickets, COMMENT)) as response:
        stage.expect(response.status == 201, "the agent comments, proving possession of its key")  # noqa: PLR2004
    async with http.post(url, headers={"Authorization": f"Bearer {issued.access_token}"}) as response:
        stage.expect(response.status == 401, "the same token without the key: 401")  # noqa: PLR2004
    async with places.agent("triage", dpop=True) as thief:
        headers = await thief.authorize("POST", url, places.tickets, COMMENT)
    headers["Authorization"] = f"DPoP {issued.access_token}"
    async with http.post(url, headers=headers) as response:
        stage.expect(response.status == 401, "the same token with another key: 401")  # noqa: PLR2004


async def _crowd(stage: Stage, places: Places, crowd: int) -> None:
    """Ask for many tokens at once, over plain HTTP: the cached client would only ask once."""
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": token_file(places.folder, "triage").read_text(),
        "resource": places.tickets,
        "scope": " ".join(READ),
    }
    left = iter(range(crowd))

    async def ask(session: aiohttp.ClientSession) -> None:
        for _ in left:
            async with session.post(f"{places.broker}/oauth2/token", data=form) as response:
                if response.status != 200:  # noqa: PLR2004
                    msg = f"token {_} was refused: {response.status} {await response.text()}"
                    raise DemoError(msg)
                await response.read()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:
        _, elapsed = await timed(asyncio.gather(*(ask(session) for _ in range(CONNECTIONS))))
    rate = crowd / elapsed * 1000
    stage.say(f"{crowd:,} tokens in {elapsed / 1000:.1f} s: {rate:,.0f} a second, each durable before it was released")


async def _revoke(stage: Stage, places: Places, http: aiohttp.ClientSession, token: str) -> str:
    watching = asyncio.ensure_future(_first_refusal(places, http, token))
    arguments = ("--role", "support-triage", "--block", "--reason", "prompt injection seen in ticket 8812")
    stage.show("revoke", *arguments)
    before = time.perf_counter()
    output = await asyncio.to_thread(stage.command, "revoke", *arguments, "--json", show=False)
    answer = json.loads(output)
    refused_at = await watching
    stage.say(f"the command, start to end: {(time.perf_counter() - before) * 1000:.0f} ms")
    stage.expect(answer["durable"], f"rule {answer['rule']} is durable; it hit {answer['hits']['tokens']:,} tokens")
    after = max(0.0, refused_at - answer_time(answer)) * 1000
    stage.expect(True, f"first refusal at the ticket system {after:.0f} ms after the rule was made")  # noqa: FBT003
    return str(answer["block"]["id"])


def answer_time(answer: dict[str, object]) -> float:
    """Return when a rule was made (Unix seconds), from the broker's answer."""
    at = answer["at"]
    if not isinstance(at, int | float):
        msg = "the answer does not say when the rule was made"
        raise DemoError(msg)
    return float(at)


async def _first_refusal(places: Places, http: aiohttp.ClientSession, token: str) -> float:
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < deadline:
        if await _read(places, http, token) == 401:  # noqa: PLR2004
            return time.time()
        await asyncio.sleep(0.002)
    msg = "the ticket system still accepts the token"
    raise DemoError(msg)


async def _lift(
    stage: Stage, places: Places, http: aiohttp.ClientSession, agent: Client, dead: str, block: str
) -> None:
    agent.invalidate(dead)
    try:
        await agent.token(places.tickets, READ)
    except TokenRefused as refused:
        stage.expect(refused.code == "blocked", f"a new token is refused: {refused.code}: {refused.description}")
    else:
        msg = "the block let a new token through"
        raise DemoError(msg)
    stage.command("blocks", "lift", block)
    fresh = await agent.token(places.tickets, READ)
    stage.expect(await _read(places, http, fresh.access_token) == 200, "a new token works")  # noqa: PLR2004
    stage.expect(await _read(places, http, dead) == 401, "the old one is still refused")  # noqa: PLR2004


async def _read(places: Places, http: aiohttp.ClientSession, token: str) -> int:
    url = f"{places.tickets}/tickets/8812"
    async with http.get(url, headers={"Authorization": f"Bearer {token}"}) as response:
        await response.read()
        return response.status
