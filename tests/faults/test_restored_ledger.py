"""An older ledger is put in the place of a newer one: nothing that may be in use is ended before somebody says so."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from broker.core.lease import LeaseState, LeaseStatus
from broker.ledger.verify import verify_file
from tests.support.broker_app import BrokerApp, Template, make_template, running_app
from tests.support.leases import LEASING, POLICY, eventually, leasing_token, reaping, revoke, settled, state_of, take
from tests.support.scripted_backend import ScriptedBackend, nothing, waiting

QUICK = "\n[leases]\nattempts = 3\nfirst_pause_seconds = 0.05\nlongest_pause_seconds = 0.1\n"
SHORT = 4
"""The life in seconds of a lease that is renewed before it is over, and that an older ledger takes for expired."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker whose reaper does not wait long."""
    made = make_template(tmp_path_factory.mktemp("restored") / "broker", POLICY, LEASING)
    with (made.folder / "broker.toml").open("a") as file:
        file.write(QUICK)
    return made


@dataclass
class Machine:
    """A broker that is stopped and started again on the same files; its backend goes on meanwhile."""

    template: Template
    folder: Path
    backend: ScriptedBackend = field(default_factory=ScriptedBackend)
    starts: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[BrokerApp]:
        """Run the broker on the files as they are, with its reaper."""
        async with self.running_without_reaper() as app, reaping(app):
            yield app

    @asynccontextmanager
    async def running_without_reaper(self) -> AsyncIterator[BrokerApp]:
        """Run the broker, so that nothing expires meanwhile."""
        self.starts += 1
        place = self.folder / f"run-{self.starts}"
        async with running_app(self.template, place, own_backends={"local": self.backend}) as app:
            yield app
        self.template = replace(self.template, folder=place)

    @property
    def ledger(self) -> Path:
        """The ledger of the broker that ran last."""
        return self.template.folder / "ledger.db"

    def restore(self, older: Path) -> None:
        """Put an older ledger in the place of the one that is there; everything beside it stays."""
        for name in ("ledger.db-wal", "ledger.db-shm"):
            self.ledger.with_name(name).unlink(missing_ok=True)
        shutil.copy(older, self.ledger)


@pytest.fixture
def machine(template: Template, tmp_path: Path) -> Machine:
    """A machine of its own for each test."""
    return Machine(template, tmp_path)


def back_up(app: BrokerApp, place: Path) -> None:
    """Copy the ledger of a running broker, as an operator would."""
    with (
        closing(sqlite3.connect(app.broker.config.ledger)) as source,
        closing(sqlite3.connect(place)) as copy,
    ):
        source.backup(copy)


async def held(app: BrokerApp, lease: str) -> LeaseState:
    """Return a lease once it is held."""
    state = await state_of(app, lease)
    for _ in range(500):
        if state.held:
            return state
        await asyncio.sleep(0.02)
        state = await state_of(app, lease)
    raise AssertionError(f"{lease} is {state.status.value}, and not held")


async def confirm(app: BrokerApp) -> None:
    """Say that held leases may go."""
    token = await app.operator("revocations:write")
    body = {"reason": "looked at all of them"}
    assert (await app.call("POST", "/v1/leases/confirm", token=token, json=body)).status == 204


@dataclass
class Restored:
    """Leases of the older ledger: two that were renewed after it, one that still lives, one that was being taken."""

    renewed: tuple[str, str]
    living: str
    opening: str


@pytest.fixture
async def restored(machine: Machine, tmp_path: Path) -> Restored:
    """Take leases, copy the ledger, go on for a while, and put the copy back."""
    older, backend, gate = tmp_path / "older.db", machine.backend, asyncio.Event()
    async with machine.running_without_reaper() as app:
        token = await leasing_token(app)
        living = (await take(app, token)).json["lease_id"]
        first, second = [(await take(app, token, ttl=SHORT)).json["lease_id"] for _ in range(2)]
        backend.after["take"] = waiting(gate)
        taking = asyncio.ensure_future(take(app, token))
        try:
            await eventually(lambda: len(backend.alive) == 4)
            back_up(app, older)
        finally:
            gate.set()
        opening = (await taking).json["lease_id"]
        backend.after["take"] = nothing
        for lease in (first, second):
            reply = await app.call("POST", f"/v1/leases/{lease}/renew", token=token, json={"ttl": "5m"})
            assert reply.status == 200, reply.body
    machine.restore(older)
    return Restored((first, second), living, opening)


async def test_what_seems_to_have_ended_is_held_until_somebody_confirms(machine: Machine, restored: Restored) -> None:
    """It may have been renewed, or handed out, in the part that is missing; the operator's word is recorded."""
    async with machine.running() as app:
        for lease, because in (*((each, "expired") for each in restored.renewed), (restored.opening, "unsealed")):
            state = await held(app, lease)
            assert (state.status, state.because) == (LeaseStatus.RETRYING, because)
        assert (await state_of(app, restored.living)).status is LeaseStatus.LIVE
        await asyncio.sleep(0.3)  # many rounds of the reaper
        assert set(machine.backend.alive) == {*restored.renewed, restored.living, restored.opening}
        assert not [lease for asked, lease in machine.backend.asked if asked == "revoke"]
        operator = await app.operator("operator:read", "leases:read")
        shown = await app.call("GET", f"/v1/leases/{restored.opening}", token=operator)
        assert shown.json["held"] is True

        await confirm(app)
        for lease in (*restored.renewed, restored.opening):
            assert (await settled(app, lease)).status is LeaseStatus.REVOKED
        assert set(machine.backend.alive) == {restored.living}
        [confirmed] = await app.entries("leases.confirmed")
        assert (confirmed["by"], confirmed["reason"]) == ("operator", "looked at all of them")
    assert verify_file(machine.ledger).problems == ()


async def test_rules_revoke_all_the_same(machine: Machine, restored: Restored) -> None:
    """What a rule covers is known to be wanted dead: what lives, and what is held."""
    async with machine.running() as app:
        first, second = restored.renewed
        for lease in restored.renewed:
            await held(app, lease)
        rule = await revoke(app, lease=first)
        assert rule["hits"] is None or rule["hits"]["leases"]["revocable"] == 1
        state = await settled(app, first)
        assert (state.status, state.because, state.rule) == (LeaseStatus.REVOKED, "revoked", rule["rule"])
        shown = await app.call("GET", f"/v1/revocations/{rule['rule']}", token=await app.operator("operator:read"))
        assert shown.json["leases"]["revoked"] == 1
        assert (await state_of(app, second)).held
        await revoke(app, agent="alpha")
        for lease in (second, restored.living, restored.opening):
            assert (await settled(app, lease)).status is LeaseStatus.REVOKED
        assert machine.backend.alive == {}
    assert verify_file(machine.ledger).problems == ()


async def test_a_restart_confirms_nothing(machine: Machine, restored: Restored) -> None:
    """Nor does a ledger that has grown past the newer one: it is still another one."""
    async with machine.running() as app:
        await held(app, restored.renewed[0])
        for _ in range(40):
            await app.token("alpha", "broker", "leases:take")
    assert not [lease for asked, lease in machine.backend.asked if asked == "revoke"]
    async with machine.running() as app:
        later = (await take(app, await leasing_token(app), ttl=1)).json["lease_id"]
        assert (await held(app, later)).because == "expired"
        assert (await held(app, restored.renewed[0])).because == "expired"
        assert later in machine.backend.alive


async def test_what_was_confirmed_stays_confirmed(machine: Machine, restored: Restored) -> None:
    """Whether or not a new checkpoint was made before the broker was started again."""
    async with machine.running() as app:
        await held(app, restored.renewed[0])
        beside = machine.folder / f"run-{machine.starts}" / "ledger.db.checkpoint"
        newer = beside.read_text()
        await confirm(app)
        assert not beside.exists() or beside.read_text() != newer
        await settled(app, restored.renewed[0])
    async with machine.running() as app:
        later = (await take(app, await leasing_token(app), ttl=1)).json["lease_id"]
        assert (await settled(app, later)).status is LeaseStatus.REVOKED
    assert verify_file(machine.ledger).problems == ()


async def test_an_agent_gives_back_what_is_held(machine: Machine, restored: Restored) -> None:
    """Whoever holds it is the one who may be using it."""
    async with machine.running() as app:
        lease = restored.renewed[0]
        await held(app, lease)
        token = await leasing_token(app)
        back = await app.call("DELETE", f"/v1/leases/{lease}?wait=5", token=token)
        assert (back.status, back.json["state"], back.json["because"]) == (200, "revoked", "returned")
        assert (await state_of(app, restored.renewed[1])).held
    assert verify_file(machine.ledger).problems == ()
