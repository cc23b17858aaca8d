"""The fourth act of the demonstration: a database account is leased, used, and ended where it counts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psycopg

from broker.client.leased_secret import LeasedSecret
from broker.demo.database import Connection, Database
from broker.demo.openbao import AUDIENCE, ROLE, OpenBao
from broker.demo.places import Places, timed
from broker.demo.stage import DemoError, Stage, free_port

SECRET: Final = "orders-db"
AGENT: Final = "prod-cluster/support/triage"
QUERY: Final = "SELECT id, customer, total FROM orders ORDER BY id"
MEANING: Final = {
    "lease.intended": "before OpenBao was asked",
    "lease.sealed": "before the agent had the account",
    "lease.ended": "by the operator's rule",
    "lease.settled": "after OpenBao had dropped the account",
}
"""What the ledger says of a lease that was taken and revoked, in order."""

GIVE_UP_SECONDS: Final = 10.0
PAUSE_SECONDS: Final = 0.005


async def play_leases(stage: Stage, places: Places) -> None:
    """Show steps 12 to 15. Raises ``DemoError`` if anything is not as promised."""
    database, bao = Database(stage, free_port()), OpenBao(stage, free_port())
    with stage.step(12, "Start: a PostgreSQL server, and OpenBao, which makes accounts in it"):
        await _set_up(stage, places, database, bao)
    async with places.agent("triage", dpop=False) as agent:
        lease = agent.lease(SECRET)
        with stage.step(13, "The agent leases an account for its task, and reads a table with it"):
            connection = await _use(stage, database, lease)
        account = lease.data
        try:
            with stage.step(14, "An operator revokes the agent: the account is gone from the database"):
                await _revoke(stage, database, bao, lease)
                await _is_cut(stage, connection)
        finally:
            await connection.close()
    with stage.step(15, "The ledger has every step of it, and nothing has the secret"):
        _is_recorded(stage, lease.id)
        stage.stop("broker")
        stage.command("ledger", "verify", "--file", str(places.ledger))
        _is_nowhere(stage, str(account["password"]))


async def _set_up(stage: Stage, places: Places, database: Database, bao: OpenBao) -> None:
    settings = (
        "[backends.vault]\n"
        f'address = "{bao.address}"\n'
        f'sign_in = {{method = "jwt", role = "{ROLE}", audience = "{AUDIENCE}"}}\n'
    )
    with places.config.open("a") as file:
        file.write(f"\n{settings}")
    stage.start("broker", "broker", "serve")
    (postgres, _), (openbao, _), _ = await asyncio.gather(
        timed(database.start()), timed(bao.start()), stage.answering("broker", f"{places.broker}/readyz")
    )
    await bao.lease_accounts(database)
    await bao.trust(places.broker)
    stage.say(f"PostgreSQL {postgres} with a table of orders; OpenBao {openbao} makes accounts that may read it")
    stage.say("OpenBao trusts tokens that the broker signs for itself: the broker's settings hold no secret for it")
    for line in settings.splitlines():
        stage.quote(line)


async def _use(stage: Stage, database: Database, lease: LeasedSecret) -> Connection:
    """Take the lease and read the orders; return the session, still open."""
    _, elapsed = await timed(lease.take())
    account = lease.data
    stage.say(f"{AGENT} has an account of its own, {account['username']}: {elapsed:.0f} ms, signing in included")
    connection = await database.connect(account["username"], account["password"])
    orders = await (await connection.execute(QUERY)).fetchall()
    stage.expect(len(orders) > 0, "PostgreSQL lets it in and answers: " + QUERY)
    for order in orders:
        stage.quote("  ".join(str(value) for value in order))
    stage.command("leases", "list")
    return connection


async def _revoke(stage: Stage, database: Database, bao: OpenBao, lease: LeasedSecret) -> None:
    account = lease.data
    user, password = str(account["username"]), str(account["password"])

    async def is_let_in() -> bool:
        return await database.lets_in(user, password)

    async def is_leased() -> bool:
        return await bao.leases() > 0

    watching = [
        asyncio.ensure_future(_end_of(is_let_in, "PostgreSQL still lets the account in")),
        asyncio.ensure_future(_end_of(is_leased, "OpenBao still has the lease")),
    ]
    arguments = ("--agent", AGENT, "--reason", "it copies the table of orders")
    stage.show("revoke", *arguments)
    before = time.perf_counter()
    try:
        output = await asyncio.to_thread(stage.command, "revoke", *arguments, "--json", show=False)
        ended, elapsed = time.time(), (time.perf_counter() - before) * 1000
        refused, confirmed = await asyncio.gather(*watching)
    finally:
        for each in watching:
            each.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    answer: dict[str, Any] = json.loads(output)
    made, hit = float(answer["at"]), _counted(answer["hits"]["leases"]["revocable"], "lease")
    stage.say(f"the command, start to end: {elapsed:.0f} ms")
    stage.expect(answer["durable"], f"rule {answer['rule']} is durable; it hit {hit}")
    stage.say("after the rule was made:")
    stage.expect(True, f"{_after(made, ended)} the operator has the answer, and the command has ended")  # noqa: FBT003
    stage.expect(not await database.has_account(user), f"{_after(made, refused)} PostgreSQL lets nobody in with it")
    stage.expect(await bao.leases() == 0, f"{_after(made, confirmed)} OpenBao has ended the lease")
    told = await asyncio.to_thread(stage.command, "leases", "show", lease.id)
    stage.expect(f"{lease.id}: revoked" in told, "the broker calls the lease revoked, now that OpenBao has ended it")


async def _end_of(holds: Callable[[], Awaitable[bool]], otherwise: str) -> float:
    """Return when something holds no more (Unix seconds). Raises ``DemoError`` if it goes on for too long."""
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < deadline:
        if not await holds():
            return time.time()
        await asyncio.sleep(PAUSE_SECONDS)
    raise DemoError(otherwise)


async def _is_cut(stage: Stage, connection: Connection) -> None:
    """The session that the agent had opened before is over, too."""
    try:
        await connection.execute(QUERY)
    except psycopg.Error as error:
        text = str(error).partition("\n")[0]
        stage.expect(True, f"the session that it had open is over: {text}")  # noqa: FBT003 - it is
    else:
        msg = "the session that was open still reads the table"
        raise DemoError(msg)


def _is_recorded(stage: Stage, lease: str) -> None:
    output = stage.command("ledger", "tail", "-n", "30", "--json", show=False)
    found = [each for each in json.loads(output)["entries"] if each["entry"].get("ref") == lease]
    kinds = [str(each["entry"]["kind"]) for each in found]
    for each, kind in zip(found, kinds, strict=True):
        stage.quote(f"entry {each['seq']}  {kind:<14}  {MEANING.get(kind, '')}")
    stage.expect(kinds == list(MEANING), "that is all of it, in this order")


def _is_nowhere(stage: Stage, password: str) -> None:
    holders = [path.name for path in stage.files() if password.encode() in path.read_bytes()]
    stage.expect(not holders, "the password is in no file of this run: in no ledger, no log, no settings")


def _after(made: float, then: float) -> str:
    return f"{max(0.0, then - made) * 1000:5.0f} ms"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
