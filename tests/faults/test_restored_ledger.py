"""An older ledger is put in the place of a newer one: nothing goes on before somebody says so, who is on record."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import jwt
import pytest

from broker.cli.app import run
from broker.cli.outcome import ExitCode
from broker.core.errors import Unavailable
from broker.core.lease import LeaseState, LeaseStatus
from broker.core.revoking import Order
from broker.core.rules import Rule, RuleIndex
from broker.core.selector import Selector
from broker.core.snapshot import Snapshot, read_snapshot, snapshot_payload
from broker.ledger.verify import verify_file
from tests.support.broker_app import BrokerApp, Template, make_template, running_app
from tests.support.leases import LEASING, POLICY, eventually, leasing_token, reaping, revoke, settled, state_of, take
from tests.support.running_broker import free_port
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
    async def running_without_reaper(self, port: int | None = None) -> AsyncIterator[BrokerApp]:
        """Run the broker, so that nothing expires meanwhile; on a port of its own, or on one that it had before."""
        self.starts += 1
        place = self.folder / f"run-{self.starts}"
        async with running_app(self.template, place, port=port, own_backends={"local": self.backend}) as app:
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
        closing(sqlite3.connect(app.file)) as source,
        closing(sqlite3.connect(place)) as copy,
    ):
        source.backup(copy)


async def accept(machine: Machine, *options: str) -> str:
    """Let an operator accept the older ledger, with the broker stopped; return what the command prints."""
    config = machine.template.folder / "broker.toml"
    output = io.StringIO()
    arguments = ["ledger", "accept-restore", "--reason", "disk lost", "--config", str(config), "--json", *options]

    def command() -> int:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            return run(arguments)

    code = await asyncio.to_thread(command)
    assert code == 0, output.getvalue()
    return output.getvalue()


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
    """Leases of the older ledger: two that were renewed after it, one that still lives, one that was being taken.

    ``token`` is known to it, ``lost_token`` is not, and is of an epoch that only the newer one has reached.
    """

    renewed: tuple[str, str]
    living: str
    opening: str
    token: str
    lost_token: str
    lost_epoch: int
    newer: Path

    @property
    def all(self) -> set[str]:
        """All of them."""
        return {*self.renewed, self.living, self.opening}


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
        await revoke(app, agent="carol")
        lost_token = await leasing_token(app)
        lost_epoch = app.services.revocations.rules.epoch
    newer = machine.folder / "newest.db"
    shutil.copy(machine.ledger, newer)
    machine.restore(older)
    return Restored((first, second), living, opening, token, lost_token, lost_epoch, newer)


async def test_nothing_is_issued_from_an_older_ledger(machine: Machine, restored: Restored) -> None:
    """Nor written, nor ended: leases that it takes for expired may have been renewed. What is wrong is said."""
    before = machine.ledger.read_bytes()
    async with machine.running_without_reaper() as app:
        reply = await app.ask(app.form("alpha", audience="broker", scope="leases:take"))
        assert (reply.status, reply.json["code"]) == (503, "ledger_corrupt")
        assert "until an operator" in reply.json["error_description"]
        with pytest.raises(Unavailable):
            await app.services.records.checkpoint()
        with pytest.raises(Unavailable):
            await reaper_step(app)
        assert set(machine.backend.alive) == {*restored.renewed, restored.living, restored.opening}
        ready = await app.call("GET", "/readyz")
        assert (ready.status, ready.json["checks"]["integrity"]) == (503, "failing")
        [told] = app.events.of("ledger.unsound")
        assert told["fault"] == "behind"
        assert "the checkpoint beside the ledger is of" in told["problems"][0]
        assert "accept-restore" in told["way_on"]
    assert recorded(machine.ledger) == recorded_in(before, machine.folder)


async def test_it_still_tells_what_it_knows_and_revokes(machine: Machine, restored: Restored) -> None:
    """A token that an operator already has revokes: in memory, towards verifiers, and at backends (law 1)."""
    async with machine.running_without_reaper() as app:
        assert not is_dead(app, restored.token)
        order = Order(selector=Selector(agent="alpha"), reason="hijacked", by="operator")
        outcome = await app.services.revocation.revoke(order, None)
        assert not outcome.durable
        assert is_dead(app, restored.token)
        snapshot = jwt.decode(app.services.snapshot(time.time()), options={"verify_signature": False})
        assert [rule["selector"] for rule in snapshot["rules"] if rule["n"] is None] == [{"agent": "alpha"}]


async def test_what_a_rule_covers_is_ended_at_its_backend_once(machine: Machine, restored: Restored) -> None:
    """Although that cannot be recorded for as long as nobody has accepted the ledger."""
    async with machine.running_without_reaper() as app:
        app.services.revocations.rules.add(
            Rule("rule_x", Selector(agent="alpha"), None, time.time() - 60, "operator", "hijacked")
        )
        while len(machine.backend.alive) > 1:  # that of the lease which was never sealed
            with contextlib.suppress(Unavailable):
                await reaper_step(app)
            await asyncio.sleep(0.01)
        for _ in range(20):
            with contextlib.suppress(Unavailable):
                await reaper_step(app)
            await asyncio.sleep(0.01)
        asked = [lease for what, lease in machine.backend.asked if what == "revoke"]
        assert sorted(asked) == sorted({*restored.renewed, restored.living})


async def test_an_operator_goes_on_with_it(machine: Machine, restored: Restored) -> None:
    """Everything issued before is dead, also what the older ledger never saw; leases are held until confirmed."""
    said = await accept(machine, "--yes")
    assert "entries are missing" in said
    async with machine.running() as app:
        [accepted] = await app.entries("ledger.restore_accepted")
        assert accepted["reason"] == "disk lost"
        assert accepted["by"].startswith("local/")
        assert accepted["lost"][0]["known_to"] == "the checkpoint beside the ledger"
        assert accepted["lost"][0]["size"] > accepted["size"]
        assert is_dead(app, restored.token)
        assert is_dead(app, restored.lost_token)
        assert not is_dead(app, await leasing_token(app))
        for lease in restored.all:
            state = await held(app, lease)
            assert (state.status, state.rule) == (LeaseStatus.RETRYING, accepted["number"])
        fresh = (await take(app, await leasing_token(app))).json["lease_id"]
        await asyncio.sleep(0.2)  # many rounds of the reaper
        assert set(machine.backend.alive) == {*restored.all, fresh}

        await confirm(app)
        for lease in restored.all:
            assert (await settled(app, lease)).status is LeaseStatus.REVOKED
        assert set(machine.backend.alive) == {fresh}
        assert (await state_of(app, fresh)).status is LeaseStatus.LIVE
    assert verify_file(machine.ledger).problems == ()


async def test_what_was_accepted_is_no_alarm_any_more(machine: Machine, restored: Restored) -> None:
    """Not after a restart, with the newer checkpoint still beside it; putting the same backup there again is one."""
    older = machine.folder / "older.db"
    shutil.copy(machine.ledger, older)
    await accept(machine, "--yes")
    assert newest_beside(machine) > 0
    async with machine.running() as app:
        first = await app.token("alpha", "broker", "leases:take")
        assert app.broker.self_check.unsound is None
    async with machine.running() as app:
        await app.broker.self_check.go_through()
        assert app.broker.self_check.unsound is None
    machine.restore(older)
    async with machine.running_without_reaper() as app:
        assert app.broker.self_check.unsound is not None
    await accept(machine, "--yes")
    async with machine.running() as app:
        assert is_dead(app, first)
    assert verify_file(machine.ledger).problems == ()


async def test_a_verifier_that_saw_the_lost_part_follows_again(machine: Machine, restored: Restored) -> None:
    """It never goes back behind an epoch; the one after an accepted restore is above all that it can have seen."""
    async with machine.running_without_reaper() as app:
        assert app.services.revocations.rules.epoch < restored.lost_epoch
    await accept(machine, "--yes")
    async with machine.running() as app:
        assert app.services.revocations.rules.epoch > restored.lost_epoch + 1_000_000
        seen = Snapshot(RuleIndex(epoch=restored.lost_epoch), restored.lost_epoch, int(time.time()), 0, "mark")
        now = snapshot_payload(app.services.revocations.rules, mark="mark", issuer=app.issuer, now=time.time())
        assert read_snapshot(now).follows(seen)
        rule = await revoke(app, agent="beta")
        assert rule["rule"] == app.services.revocations.rules.epoch


async def test_rules_and_agents_let_held_leases_go(machine: Machine, restored: Restored) -> None:
    """What a later rule covers is known to be wanted dead, and whoever holds a lease may give it back."""
    await accept(machine, "--yes")
    async with machine.running() as app:
        first, second = restored.renewed
        back = await app.call("DELETE", f"/v1/leases/{first}?wait=5", token=await leasing_token(app))
        assert (back.status, back.json["state"], back.json["because"]) == (200, "revoked", "returned")
        rule = await revoke(app, lease=second)
        state = await settled(app, second)
        assert (state.status, state.because, state.rule) == (LeaseStatus.REVOKED, "revoked", rule["rule"])
        assert (await state_of(app, restored.living)).held
    assert verify_file(machine.ledger).problems == ()


async def test_what_cannot_be_accepted(machine: Machine, restored: Restored, tmp_path: Path) -> None:
    """While a broker runs; without a person to ask; a ledger that is damaged itself; one of another broker."""
    before = recorded(machine.ledger)
    async with machine.running_without_reaper() as app:
        config = app.file.parent / "broker.toml"
        command = ["ledger", "accept-restore", "--reason", "x", "--config", str(config), "--yes"]
        assert await asyncio.to_thread(run, command) == ExitCode.UNAVAILABLE
    assert await asyncio.to_thread(run, command[:-1]) == ExitCode.USAGE
    assert await asyncio.to_thread(run, [*command[:3], "two\nlines", *command[4:]]) == ExitCode.REFUSED
    key = machine.template.folder / "master.key"
    mine = key.read_text()
    key.write_text(base64.b64encode(bytes(32)).decode())
    assert await asyncio.to_thread(run, command) == ExitCode.USAGE
    key.write_text(mine)
    assert recorded(machine.ledger) == before
    with closing(sqlite3.connect(machine.ledger)) as database, database:
        database.execute("UPDATE entries SET agent = 'eve' WHERE seq = 1")
    before = recorded(machine.ledger)
    assert await asyncio.to_thread(run, command) == ExitCode.INTEGRITY
    assert recorded(machine.ledger) == before


async def test_only_an_anchor_knows_of_a_machine_that_was_rolled_back(machine: Machine, tmp_path: Path) -> None:
    """With everything on it: the ledger, and what is beside it. The operator's command asks the anchor, too."""
    shutil.copytree(machine.template.folder, tmp_path / "own")
    machine.template = replace(machine.template, folder=tmp_path / "own")
    with (machine.template.folder / "broker.toml").open("a") as file:
        file.write(f'\n[anchors.offsite]\nkind = "file"\npath = "{tmp_path / "offsite.notes"}"\n')
    port = free_port()
    image = tmp_path / "image"
    async with machine.running_without_reaper(port) as app:
        await app.token("alpha", "broker", "leases:take")
    shutil.copytree(machine.template.folder, image)
    async with machine.running_without_reaper(port) as app:
        await app.token("alpha", "broker", "leases:take")
    shutil.rmtree(machine.template.folder)
    shutil.copytree(image, machine.template.folder)
    async with machine.running_without_reaper(port) as app:
        unsound = app.broker.self_check.unsound
        assert unsound is not None
        assert "the checkpoint at the anchor offsite is of" in unsound.problems[0]
        assert (await app.ask(app.form("alpha", audience="broker", scope="leases:take"))).status == 503
    assert "the checkpoint at the anchor offsite" in await accept(machine, "--yes")
    async with machine.running_without_reaper(port) as app:
        assert app.broker.self_check.unsound is None
        await app.token("alpha", "broker", "leases:take")


async def test_the_newer_ledger_put_back_is_gone_on_with(machine: Machine, restored: Restored) -> None:
    """Nothing is left of the alarm."""
    async with machine.running_without_reaper() as app:
        await app.broker.self_check.go_through()
        assert app.broker.self_check.unsound is not None
    machine.restore(restored.newer)
    async with machine.running_without_reaper() as app:
        assert app.broker.self_check.unsound is None
        await app.token("alpha", "broker", "leases:take")


def is_dead(app: BrokerApp, token: str) -> bool:
    """Whether a rule kills a token, by what it says itself."""
    claims = jwt.decode(token, options={"verify_signature": False})
    facts = {("token", claims["jti"]), ("agent", claims["client_id"])}
    return app.services.revocations.rules.killer(facts, claims["broker"]["epoch"]) is not None


async def reaper_step(app: BrokerApp) -> None:
    """Let the reaper look once."""
    await next(job.run for job in app.broker.jobs if job.name == "leases")()


def newest_beside(machine: Machine) -> int:
    """Return the size of the checkpoint beside the ledger."""
    return int(machine.ledger.with_name("ledger.db.checkpoint").read_text().splitlines()[1])


def recorded(ledger: Path) -> list[object]:
    """Return all rows of what a broker writes to."""
    with closing(sqlite3.connect(ledger)) as database:
        tables = ("entries", "head", "rules", "leases")
        return [database.execute(f"SELECT * FROM {table}").fetchall() for table in tables]  # noqa: S608 - our names


def recorded_in(content: bytes, folder: Path) -> list[object]:
    """Return the same of the content of a file."""
    copy = folder / "before.db"
    copy.write_bytes(content)
    return recorded(copy)
