"""A ledger whose first entries are in archives is as good as any: it is opened, checked and restored like others."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pytest

from broker.core.entry import decode
from broker.core.errors import Unavailable
from broker.core.restoring import accepting
from broker.core.selector import Selector
from broker.core.soundness import Fault, Unsound
from broker.core.tree_head import KnownHead
from broker.ledger.databases.sqlite import offline_engine
from broker.ledger.keeping.restoring import taken
from broker.ledger.reading.status import status_of
from broker.ledger.verify import Kept, verify_file
from broker.ledger.verifying.derived import Derived
from broker.ledger.verifying.derived_personal import opened as opened_entry
from broker.ledger.verifying.growing import told_since
from tests.support.archives import LATER, SIZE, fill, open_note, remove, sign
from tests.support.ledgers import Bench, FixedClock, opened, registered

ARCHIVED = 768
"""How many of the first entries are archived."""

WHOLE = "whole.db"
"""A copy of it from before."""

ANCHOR = "the checkpoint at the anchor offsite"

LAST = SIZE + 102
"""The last entry, which records that."""


async def make(folder: Path) -> Path:
    """Make a ledger without its first entries."""
    path = await fill(folder / "ledger.db")
    shutil.copy(path, folder / WHOLE)
    async with reopened(path) as bench:
        await asyncio.gather(*(bench.issue(f"tok_new_{number}", at=LATER) for number in range(100)))
        await bench.ledger.commit(registered("planner", "two"))
        await bench.revoke(Selector(agent="agent-y"))
        await remove(bench, folder / "old")
        await bench.ledger.checkpoint()
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed ledger without its first entries."""
    return asyncio.run(make(tmp_path_factory.mktemp("made")))


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A copy of it, with what is kept beside it."""
    for file in made.parent.glob("ledger.db*"):
        shutil.copy(file, tmp_path / file.name)
    return tmp_path / "ledger.db"


def reopened(path: Path) -> contextlib.AbstractAsyncContextManager[Bench]:
    """Open a ledger long after its first entries."""
    return opened(path, clock=FixedClock(LATER), sign=sign, open_note=open_note)


def execute(path: Path, statement: str) -> None:
    """Change the database behind everybody's back."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        assert database.execute("SELECT min(seq), max(seq) FROM entries").fetchone() == (ARCHIVED, LAST)
        assert database.execute(statement).rowcount > 0


def head_of(path: Path) -> KnownHead:
    """Return what was signed last."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return KnownHead(*database.execute("SELECT size, root FROM checkpoints ORDER BY size DESC").fetchone())


async def passed(bench: Bench, known: Mapping[str, KnownHead]) -> Unsound | None:
    """Let the broker go through everything once, in small steps."""
    examining = await bench.ledger.integrity.examine(known)
    while await examining.step(50):
        pass
    return await examining.finish()


async def test_the_broker_finds_nothing_wrong_with_it(path: Path) -> None:
    """Not at first sight, not when it goes through everything, whatever of it an anchor knows; and it goes on."""
    known = {ANCHOR: head_of(path)}
    with contextlib.closing(sqlite3.connect(path)) as database:
        for size, root in database.execute("SELECT size, root FROM checkpoints"):
            known[f"another anchor at {size}"] = KnownHead(size, root)
    assert len(known) > 3
    async with reopened(path) as bench:
        assert bench.ledger.integrity.unsound is None
        assert list(await bench.ledger.integrity.contradictions(known)) == []
        assert await passed(bench, known) is None
        await bench.issue("tok_newest", at=LATER)
        assert await passed(bench, known) is None
    assert status_of(path).unsound is None


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries WHERE seq = 768",
        "DELETE FROM entries WHERE seq = 900",
        "UPDATE entries SET leaf = zeroblob(32) WHERE seq = 800",
        "UPDATE nodes SET hash = zeroblob(32) WHERE number = 1",
        "UPDATE nodes SET hash = zeroblob(32) WHERE number = 3",
        "DELETE FROM nodes WHERE number = 1",
    ],
)
async def test_what_is_left_is_looked_at_first(path: Path, statement: str) -> None:
    """A ledger whose rest or whose tree was changed is opened for revoking only; verifying finds the same."""
    execute(path, statement)
    async with reopened(path) as bench:
        unsound = bench.ledger.integrity.unsound
        assert unsound is not None
        assert unsound.fault is Fault.DAMAGED
        with pytest.raises(Unavailable):
            await bench.issue("tok_newest", at=LATER)
    assert not verify_file(path, open_note=open_note).sound


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE entries SET agent = 'somebody' WHERE seq = 850", "entry 850: the columns agent differ"),
        ("UPDATE entries SET body = replace(body, 'agent-8', 'agent-9') WHERE seq = 850", "entry 850"),
        ("UPDATE checkpoints SET root = zeroblob(32) WHERE size = 1000", "the checkpoint of 1000 entries"),
        ("DELETE FROM agents WHERE name = 'planner'", "the agent 'planner' was registered but is missing"),
        ("UPDATE agents SET key = 'another' WHERE name = 'planner'", "the agent 'planner' has another key"),
        ("INSERT INTO accepted_heads (size, root, rule) VALUES (2000, zeroblob(32), 2)", "what was accepted as lost"),
        ("UPDATE rules SET reason = 'another' WHERE number = 2", "rule 2 differs from entry 1101"),
        ("DELETE FROM entries WHERE seq < 1024", "entries 768 to 1023"),
    ],
)
async def test_the_rest_is_found_on_the_way(path: Path, statement: str, words: str) -> None:
    """By a pass of the broker, or when it opens the ledger, and by verifying, in the same words."""
    execute(path, statement)
    async with reopened(path) as bench:
        unsound = bench.ledger.integrity.unsound or await passed(bench, {})
        assert unsound is not None
    for problems in (unsound.problems, verify_file(path, open_note=open_note).problems):
        assert any(words in problem.replace(",", "") for problem in problems), problems


async def test_archived_entries_are_missing_without_a_record(made: Path, tmp_path: Path) -> None:
    """Whoever removes the first entries and says nothing is found, though the tree over them is still there."""
    path = Path(shutil.copy(made.with_name(WHOLE), tmp_path / "ledger.db"))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("DELETE FROM entries WHERE seq < 768")
    assert "entries 0 to 767 are missing" in verify_file(path, open_note=open_note).problems
    async with reopened(path) as bench:
        unsound = await passed(bench, {})
    assert unsound is not None
    assert "entries 0 to 767 are missing" in unsound.problems


async def test_an_older_copy_of_it_can_be_accepted(path: Path, tmp_path: Path) -> None:
    """It is sound in itself; what an anchor knows of the lost part is told, accepted, and then no alarm any more."""
    older = Path(shutil.copy(path, tmp_path / "older.db"))
    async with reopened(path) as bench:
        for _ in range(3):
            await bench.issue("tok_lost", at=LATER)
        await bench.ledger.checkpoint()
    known = {ANCHOR: head_of(path)}
    clock = FixedClock(LATER)
    with taken(older, clock) as ledger:
        situation = ledger.examine(open_note, known)
        assert situation.lost == known
        ledger.accept(
            accepting(
                situation.head, situation.epoch, known, rule_id="rule_all", now=LATER, by="local/ann", reason="lost"
            )
        )
    async with reopened(older) as bench:
        assert bench.ledger.integrity.unsound is None
        assert await passed(bench, known) is None
    kept = [Kept(head.size, head.root, "the anchor") for head in known.values()]
    [told] = verify_file(older, kept=kept, open_note=open_note).problems
    assert "accepted that as lost" in told


def test_rules_count_from_one_where_nothing_is_archived(path: Path) -> None:
    """Whatever the first one says of itself: only where earlier entries are archived, it may count from another."""
    derived = Derived()
    engine = offline_engine(path, immutable=True)
    with engine.connect() as connection:
        for seq, body, personal in connection.execute(told_since(LAST - 1)):
            derived.take(seq, opened_entry(decode(body), personal))
        assert derived.epoch == 2
        assert list(derived.compare(connection, whole=False)) == []
        assert "the first rule that was recorded is number 2" in list(derived.compare(connection))
    engine.dispose()
