"""Law 7: every change of state goes through one commit and carries its entry; state and ledger cannot disagree."""

from __future__ import annotations

import ast
import asyncio
import inspect
from pathlib import Path

import pytest

import broker
from broker.core.change import Change, EpochIs, PutAgent, RegisteredAgent
from broker.core.entry import Kind, entry
from broker.core.errors import BrokerError, EpochMoved
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.key_rotation import KeyRotation
from broker.ledger.verify import verify_file
from broker.ports import Ledger, Records
from broker.registration import Registration
from broker.revocation import BlockFor
from tests.support.fakes import CALLER, NOW
from tests.support.ledgers import added
from tests.support.world import World

PACKAGE = Path(broker.__file__).parent


def imported(module: Path) -> set[str]:
    """Return the top-level packages that a module imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module.partition(".")[0])
    return names


def test_only_the_ledger_speaks_sql() -> None:
    """No other module opens the store behind the ledger's back, not even through the standard library."""
    outside = [module for module in PACKAGE.rglob("*.py") if "ledger" not in module.relative_to(PACKAGE).parts[:1]]
    assert len(outside) > 50
    speakers = {str(module) for module in outside if imported(module) & {"sqlalchemy", "alembic", "sqlite3"}}
    assert speakers == set()


def test_the_port_has_one_door() -> None:
    """What writes is ``commit``; what reads takes no change."""
    assert [name for name, _ in inspect.getmembers(Ledger, inspect.isfunction) if not name.startswith("_")] == [
        "commit"
    ]
    for name, method in inspect.getmembers(Records, inspect.isfunction):
        assert "Change" not in str(inspect.signature(method)), name


def test_a_change_without_an_entry_cannot_be_made() -> None:
    """The record is no option."""
    with pytest.raises(TypeError):
        Change(guards=(EpochIs(0),))  # type: ignore[call-arg]


async def test_after_everything_that_can_happen_state_and_entries_agree(world: World, file: Path) -> None:
    """Every use case, with refusals, replays and conflicts between: the file is derived again from its entries."""
    assert world.sql is not None
    registration = Registration(
        ledger=world.ledger, records=world.records, clock=world.clock, ids=world.ids, strangers=world.strangers
    )
    rotation = KeyRotation(custody=world.ring, ledger=world.ledger, records=world.records, clock=world.clock)
    await registration.invite("triage", by="alice", caller=CALLER)
    await world.issue()
    outcome = await world.revoke(agent="triage", block=BlockFor(seconds=600))
    await world.revoke(everything=True)
    for attempt in (world.issue(), world.issue("triage", "tickets:delete"), world.issue("nobody")):
        with pytest.raises(BrokerError):
            await attempt
    assert outcome.block is not None
    await world.revocation.lift(outcome.block.id, by="alice", reason="ok", caller=CALLER)
    with pytest.raises(BrokerError):
        await world.revocation.lift(outcome.block.id, by="alice", reason="ok", caller=CALLER)
    await rotation.rotate(by="alice", caller=CALLER)
    await world.admission.by_assertion(world.assertion(), None, CALLER)
    await world.issue()
    report = await asyncio.to_thread(verify_file, file)
    assert report.problems == ()
    assert report.epoch == 2
    kinds = [record.members["kind"] for record in await world.records.records()]
    assert kinds.count("token.issued") == 2
    assert kinds.count("token.refused") == 3
    assert kinds.count("block.lifted") == 1


@pytest.mark.parametrize("stale", [True, False])
async def test_a_refused_change_leaves_neither_state_nor_entry(world: World, stale: bool) -> None:
    """Guards, writes and entry stand or fall together."""
    agent = RegisteredAgent("new", {"kty": "OKP", "crv": "Ed25519", "x": "AA"}, "key", NOW, "op")
    record = entry(Kind.AGENT_REGISTERED, NOW, agent="new", key="key", by="op")
    change = Change(record, (EpochIs(1 if stale else 0),), (PutAgent(agent),))
    if stale:
        with pytest.raises(EpochMoved):
            await world.ledger.commit(change)
    else:
        await world.ledger.commit(change)
    assert (await world.records.registered_agent("new") is None) is stale
    assert ((await world.records.head()).size == 0) is stale


async def test_a_rule_out_of_order_is_not_written(world: World) -> None:
    """The epoch counts rules without gaps, whoever asks for what number."""
    for number in (0, 2, 7):
        with pytest.raises(EpochMoved):
            await world.ledger.commit(added(Rule(f"rule_{number}", Selector(agent="a"), number, NOW, "op", "r")))
    assert (await world.records.head()).epoch == 0
