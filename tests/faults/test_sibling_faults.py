"""Processes of one ledger do not take each other for dead, nor build on what one of them has found wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.clock import SystemClock
from broker.config import load_config
from broker.core.errors import Code, Unavailable
from broker.core.lease import LeaseStatus
from broker.core.soundness import Fault, Unsound
from broker.ledger.sharing.family import Elder
from broker.ledger.verifying.last_check import LastCheck, LastCheckFile
from broker.wiring import Broker, Place, open_broker
from tests.support.broker_app import BrokerApp, KeptEvents, Template, make_template, running_app
from tests.support.leases import LEASING, POLICY, eventually, leasing_token, state_of, take
from tests.support.ledgers import family_of, opened
from tests.support.scripted_backend import ScriptedBackend, waiting


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker that has leases."""
    made = make_template(tmp_path_factory.mktemp("siblings") / "broker", POLICY, LEASING)
    (made.folder / "ledger.db.lock").unlink()  # a copy of it must not take the place of one that is held
    return made


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """One of two workers, that begin from now on."""
    (tmp_path / "broker").mkdir()
    elder = Elder.take(tmp_path / "broker" / "ledger.db", SystemClock())
    yield Place(workers=2, since=SystemClock().now(), family=elder.family)
    elder.release()


async def one_step(broker: Broker) -> None:
    """Let a broker's reaper look once."""
    await next(job.run for job in broker.jobs if job.name == "leases")()


async def only_state(app: BrokerApp) -> LeaseStatus:
    """Return the state of the one lease that there is."""
    found = (await app.call("GET", "/v1/leases", token=await app.operator("operator:read", "leases:read"))).json
    (lease,) = found["leases"]
    return (await state_of(app, lease["lease_id"])).status


async def test_what_a_living_process_is_taking_is_not_lost(template: Template, tmp_path: Path, place: Place) -> None:
    """One that began later leaves it alone, and the lease is handed out as ever."""
    backend, gate = ScriptedBackend(), asyncio.Event()
    backend.after["take"] = waiting(gate)
    folder = tmp_path / "broker"
    async with running_app(template, folder, own_backends={"local": backend}, place=place) as app:
        taking = asyncio.ensure_future(take(app, await leasing_token(app)))
        await eventually(lambda: bool(backend.alive))
        config = load_config(folder / "broker.toml", {})
        async with open_broker(config, KeptEvents(), own_backends={"local": backend}, place=place) as sibling:
            await one_step(sibling)
            assert await only_state(app) is LeaseStatus.OPENING
            gate.set()
            assert (await taking).status == 201
            await one_step(sibling)
            assert await only_state(app) is LeaseStatus.LIVE


async def test_what_was_being_taken_before_all_of_them_began_is_lost(
    template: Template, tmp_path: Path, place: Place
) -> None:
    """Nobody that lives can be taking it."""
    backend, gate = ScriptedBackend(), asyncio.Event()
    backend.after["take"] = waiting(gate)
    folder = tmp_path / "broker"
    async with running_app(template, folder, own_backends={"local": backend}, place=place) as app:
        taking = asyncio.ensure_future(take(app, await leasing_token(app)))
        await eventually(lambda: bool(backend.alive))
        later = Place(workers=2, since=SystemClock().now() + 1, family=place.family)
        config = load_config(folder / "broker.toml", {})
        async with open_broker(config, KeptEvents(), own_backends={"local": backend}, place=later) as sibling:
            await one_step(sibling)
            assert await only_state(app) is not LeaseStatus.OPENING
            gate.set()
            assert (await taking).status == 409


async def test_what_one_has_found_wrong_none_builds_upon(tmp_path: Path) -> None:
    """Each takes it over from the note beside the ledger."""
    path = tmp_path / "ledger.db"
    with family_of(path) as family:
        async with opened(path, family=family) as one, opened(path, family=family) as other:
            await other.ledger.integrity.heed()
            await other.issue("tok_1")
            await one.ledger.integrity.condemn(Unsound(Fault.BEHIND, ("an anchor has more",)), 1)
            await other.ledger.integrity.heed()
            for bench in (one, other):
                with pytest.raises(Unavailable) as refused:
                    await bench.issue("tok_2")
                assert refused.value.code is Code.LEDGER_CORRUPT


async def test_what_does_not_hold_any_more_is_forgotten_by_all(tmp_path: Path) -> None:
    """What an earlier process had heard keeps all of them from writing until the one that leads has asked again."""
    path = tmp_path / "ledger.db"
    async with opened(path):
        pass
    LastCheckFile(path).write(LastCheck(at=0.0, entries=0, fault=Fault.BEHIND, problems=("an anchor has more",)))
    with family_of(path) as family:
        async with opened(path, family=family) as one, opened(path, family=family) as other:
            await other.ledger.integrity.heed()
            assert other.ledger.integrity.unsound is not None
            await one.ledger.integrity.absolve(0)
            await other.ledger.integrity.heed()
            await other.issue("tok_1")
            await one.issue("tok_2")
