"""The second act of the demonstration: a sub-agent makes a refund that a person agrees to, and its story is told."""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp

from broker.client import Client, Token
from broker.client.task import OpenTask
from broker.demo.places import Places
from broker.demo.stage import DemoError, Stage

REFUND: Final = ("refunds:create",)
HELPER: Final = "prod-cluster/support/refunds"
GIVE_UP_SECONDS: Final = 30.0
CREATED, UNAUTHORIZED, CONFLICT = 201, 401, 409


async def play_refund(stage: Stage, places: Places) -> None:
    """Show steps 9 and 10. Raises ``DemoError`` if anything is not as promised."""
    asked: asyncio.Queue[str] = asyncio.Queue()
    async with (
        aiohttp.ClientSession() as http,
        places.agent("triage", dpop=False) as triage,
        places.agent("refunds", dpop=False, on_pending=lambda request, _: asked.put_nowait(request)) as helper,
        triage.open_task("refund order 4711, see ticket 8812", budget={"actions": {"refunds:create": 1}}) as task,
    ):
        with stage.step(9, "A sub-agent makes one refund of a task, after a person agreed"):
            stage.say(f'triage opened {task.id}: "refund order 4711, see ticket 8812", for one refund')
            token = await _delegate(stage, places, triage, helper, task, asked)
            await _refund(stage, places, http, token)
        with stage.step(10, "An operator ends the task, and the ledger tells its whole story"):
            await _end(stage, places, http, task, token)


async def _delegate(
    stage: Stage, places: Places, triage: Client, helper: Client, task: OpenTask, asked: asyncio.Queue[str]
) -> Token:
    """Hand the refund on to the helper, whose role needs a person's agreement for it; return the helper's token."""
    handed = await triage.token(places.tickets, REFUND, task.id, may_act=HELPER)
    stage.say(f"it hands its token on; only {HELPER} may act with it, and not without a person")
    waiting = asyncio.ensure_future(helper.exchange(handed, places.tickets, REFUND))
    try:
        request = await asyncio.wait_for(asked.get(), GIVE_UP_SECONDS)
        await asyncio.to_thread(stage.command, "approvals", "show", request)
        await asyncio.to_thread(stage.command, "approvals", "approve", request, "--reason", "the customer called us")
        token = await asyncio.wait_for(waiting, GIVE_UP_SECONDS)
    except TimeoutError as error:
        msg = "the request for approval went nowhere"
        raise DemoError(msg) from error
    finally:
        waiting.cancel()
    stage.expect(token.approved, "the helper has its own token, for exactly what was agreed to")
    return token


async def _refund(stage: Stage, places: Places, http: aiohttp.ClientSession, token: Token) -> None:
    stage.expect(await _asked(places, http, token) == CREATED, "the refund is made")
    stage.expect(await _asked(places, http, token) == CONFLICT, "a second one is refused: the budget is used up")


async def _end(stage: Stage, places: Places, http: aiohttp.ClientSession, task: OpenTask, token: Token) -> None:
    stage.command("revoke", "--task", task.id, "--reason", "ticket 8812 was a fraud")
    stage.expect(await _asked(places, http, token) == UNAUTHORIZED, "the helper's token died with the task")
    told = stage.command("ledger", "trace", task.id)
    for what in (HELPER, "approved by operator", "refunds:create", "budget_used_up", "a fraud"):
        stage.expect(what in told, f"the story has it: {what}")


async def _asked(places: Places, http: aiohttp.ClientSession, token: Token) -> int:
    """Ask the ticket system for a refund until its view of the rules is fresh; return its answer."""
    headers = {"Authorization": f"Bearer {token.access_token}"}
    async with http.post(f"{places.tickets}/orders/4711/refunds", headers=headers) as response:
        await response.read()
        return response.status
