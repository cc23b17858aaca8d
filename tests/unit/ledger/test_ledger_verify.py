"""Offline verification: a sound ledger is found sound, and each kind of tampering is named."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from broker.core.errors import Code, Unavailable
from broker.core.rules import Block, Rule
from broker.core.selector import Selector
from broker.ledger import SqlLedger
from broker.ledger.schema import ENTRY_COLUMNS
from broker.ledger.verify import Report, verify_file
from tests.support.archives import open_note, sign
from tests.support.ledgers import NOW, Bench, added, issued, lifted, opened, registered, removed, rotated, stored_key


async def fill(bench: Bench) -> None:
    """Put something of everything into a ledger of 12 entries."""
    ledger = bench.ledger
    for number in range(5):
        await bench.issue(f"tok_{number}", agent=f"agent-{number}")
    await ledger.checkpoint()
    for number, until in ((1, None), (2, NOW + 60)):
        selector = Selector(agent=f"agent-{number}")
        block = Block(f"blk_{number}", selector, number, NOW, "op", "why", until)
        await ledger.commit(added(Rule(f"rule_{number}", selector, number, NOW + 0.1234, "op", "why", "INC-1"), block))
    await ledger.commit(lifted("blk_1"))
    await ledger.checkpoint()
    await ledger.commit(registered("triage"))
    await ledger.commit(registered("gone"))
    await ledger.commit(removed("gone"))
    await ledger.commit(rotated(stored_key("ring")))
    await ledger.checkpoint()


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A closed ledger of 12 entries."""
    path = tmp_path / "ledger.db"
    async with opened(path, sign=sign) as bench:
        await fill(bench)
    return path


def tamper(path: Path, *statements: str) -> Report:
    """Change the database behind the broker's back and verify it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)
    return verify_file(path, open_note=open_note)


async def test_a_sound_ledger(path: Path) -> None:
    """Everything is counted, nothing is found, and verifying leaves nothing beside the file."""
    before = sorted(path.parent.iterdir())
    seen: list[tuple[int, float]] = []
    report = verify_file(path, open_note=open_note, progress=lambda done, share: seen.append((done, share)))
    assert report.problems == ()
    assert report.sound
    assert (report.size, report.epoch, report.checkpoints, report.signatures) == (12, 2, 3, 3)
    assert seen == [(12, 1.0)]
    assert sorted(path.parent.iterdir()) == before


async def test_a_ledger_in_use(tmp_path: Path) -> None:
    """A ledger can be verified beside the broker that writes it, with everything that is in the log only."""
    async with opened(tmp_path / "ledger.db", sign=sign) as bench:
        await fill(bench)
        report = verify_file(bench.path)
        assert report.sound
        assert report.size == (await bench.ledger.head()).size
        assert report.root == (await bench.ledger.head()).root
        assert report.signatures == 0


async def test_an_empty_ledger(tmp_path: Path) -> None:
    """A new ledger is sound."""
    SqlLedger.create(tmp_path / "ledger.db", NOW)
    report = verify_file(tmp_path / "ledger.db")
    assert report.sound
    assert report.size == 0


OTHERS = ", ".join(ENTRY_COLUMNS[1:])
REPEAT = f"INSERT INTO entries (seq, {OTHERS}) SELECT 12, {OTHERS} FROM entries WHERE seq = 3"  # noqa: S608 - our names
OTHER_KEY = """UPDATE agents SET jwk = '{"kty":"OKP","crv":"Ed25519","x":"eve"}'"""
OTHER_SELECTOR = """UPDATE rules SET selector = '{"agent":"x"}' WHERE number = 1"""
EVE = "INSERT INTO keys SELECT 'eve', use, alg, public_jwk, sealed, 1, 1, NULL, 0 FROM keys"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE entries SET body = CAST(replace(body, 'agent-3', 'x') AS BLOB) WHERE seq = 3", "entry 3: its bytes"),
        ("UPDATE entries SET body = CAST(body || ' ' AS BLOB) WHERE seq = 3", "entry 3: its bytes are not an entry"),
        ("UPDATE entries SET body = CAST(body AS TEXT) WHERE seq = 3", "entry 3: its body is not bytes"),
        ("UPDATE entries SET agent = 'agent-9' WHERE seq = 3", "entry 3: the columns agent differ"),
        ("UPDATE entries SET expires_at = 0, epoch = 9 WHERE seq = 3", "entry 3: the columns epoch, expires_at differ"),
        ("UPDATE entries SET bound_key = 'x' WHERE seq = 3", "entry 3: the columns bound_key differ"),
        ("UPDATE entries SET agent = CAST(x'ff61' AS TEXT) WHERE seq = 3", "entry 3: the columns agent differ"),
        ("UPDATE entries SET leaf = zeroblob(32) WHERE seq = 3", "entry 3: its bytes do not have the hash"),
        ("DELETE FROM entries WHERE seq = 3", "entry 3 is missing"),
        ("DELETE FROM entries WHERE seq IN (3, 4)", "entries 3 to 4 are missing"),
        ("DELETE FROM entries WHERE seq = 11", "the head counts 12 entries, but there are 11"),
        ("UPDATE entries SET seq = seq + 5 WHERE seq = 11", "entries 11 to 15 are missing"),
        (REPEAT, "the head counts 12 entries, but there are 13"),
        ("UPDATE head SET frontier = zeroblob(64)", "the head's hashes differ"),
        ("UPDATE head SET epoch = 1", "the head is at epoch 1, but the recorded rules come to 2"),
        ("UPDATE checkpoints SET root = zeroblob(32) WHERE size = 5", "the checkpoint of 5 entries has another root"),
        ("UPDATE checkpoints SET root = zeroblob(32) WHERE size = 5", "the checkpoint of 5 entries was signed for"),
        ("UPDATE checkpoints SET note = 'forged' WHERE size = 5", "the checkpoint of 5 entries has no good signature"),
        ("INSERT INTO checkpoints VALUES (99, zeroblob(32), NULL, 1)", "99 entries is of more entries than there are"),
        (OTHER_SELECTOR, "rule 1 differs from entry 5, which recorded it, in: selector"),
        ("UPDATE rules SET selector = 'x', by = 'eve' WHERE number = 2", "rule 2 differs from entry 6, which"),
        ("UPDATE rules SET at = at + 1, incident = NULL WHERE number = 2", "in: at, incident"),
        ("DELETE FROM rules WHERE number = 1", "rule 1, recorded by entry 5, is missing"),
        ("INSERT INTO rules VALUES (3, 'rule_3', '{}', 1, 'eve', 'x', NULL, 1)", "no entry recorded rule 3"),
        ("DELETE FROM blocks WHERE id = 'blk_2'", "the block that rule 2 made is missing"),
        ("UPDATE blocks SET until = 1 WHERE id = 'blk_2'", "the block that rule 2 made differs"),
        ("UPDATE blocks SET lifted_at = 1 WHERE id = 'blk_2'", "the block that rule 2 made was lifted by no entry"),
        ("UPDATE blocks SET lifted_at = NULL WHERE id = 'blk_1'", "the block that rule 1 made was lifted, but"),
        ("UPDATE blocks SET id = 'blk_9' WHERE id = 'blk_1'", "no entry recorded the block with rule 1"),
        (OTHER_KEY, "the agent 'triage' has another key"),
        ("UPDATE agents SET key = 'eve'", "the agent 'triage' has another key"),
        ("DELETE FROM agents", "the agent 'triage' was registered, but is missing"),
        ("INSERT INTO agents SELECT 'eve', jwk, key, 1, 'op' FROM agents", "the agent 'eve' is among the agents, but"),
        ("UPDATE keys SET public_jwk = '{}'", "differs from what was recorded"),
        ("UPDATE keys SET revoked = 1", "differs from what was recorded"),
        ("DELETE FROM keys", "was recorded, but is missing from the keys"),
        (EVE, "no entry recorded it"),
        ("DROP INDEX entries_ref", "the index 'entries_ref' of the database is missing"),
        ("DROP TABLE rates", "the table 'rates' of the database is missing"),
        ("CREATE TRIGGER t AFTER INSERT ON rules BEGIN DELETE FROM blocks; END", "a trigger 't' that does not belong"),
    ],
)  # fmt: skip
async def test_tampering_is_named(path: Path, statement: str, words: str) -> None:
    """Each change behind the broker's back is found, and said in plain words."""
    report = tamper(path, statement)
    assert not report.sound
    assert any(words in problem for problem in report.problems), report.problems


async def test_a_rewritten_history_contradicts_the_checkpoints(tmp_path: Path) -> None:
    """Whoever replaces the whole ledger by another, sound in itself, is betrayed by a checkpoint signed before."""
    path, other = tmp_path / "ledger.db", tmp_path / "other.db"
    async with opened(path, sign=sign) as bench:
        await bench.issue("tok_1")
        await bench.ledger.checkpoint()
        await bench.issue("tok_2")
    async with opened(other) as bench:
        await bench.issue("tok_x")
        await bench.issue("tok_y")
    report = tamper(other, f"ATTACH '{path}' AS old", "INSERT INTO checkpoints SELECT * FROM old.checkpoints")
    assert any("the checkpoint of 1 entries has another root" in problem for problem in report.problems)


async def test_problems_are_counted_to_the_end_but_listed_to_a_bound(tmp_path: Path) -> None:
    """A ledger full of errors makes a short report with the true number."""
    path = tmp_path / "ledger.db"
    async with opened(path) as bench:
        for number in range(150):
            await bench.ledger.commit(issued(f"tok_{number}", 0))
    report = tamper(path, "UPDATE entries SET agent = 'x'")
    assert report.problem_count == 150
    assert len(report.problems) == 100


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 400])
async def test_what_is_not_a_ledger_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    """A file that is no ledger is an error, not a report."""
    path = tmp_path / "ledger.db"
    with pytest.raises(Unavailable):
        verify_file(path)
    path.write_bytes(content)
    with pytest.raises(Unavailable) as caught:
        verify_file(path)
    assert caught.value.code in {Code.LEDGER_UNAVAILABLE, Code.LEDGER_CORRUPT}


async def test_any_flipped_bit_that_changes_what_is_recorded_is_found(path: Path, tmp_path: Path) -> None:
    """Of single bits flipped all over the file, each that changes an entry or a rule is found."""
    original, content = recorded(path), path.read_bytes()
    copy, found = tmp_path / "copy.db", 0
    for place in random.Random(7).sample(range(len(content)), 300):
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        copy.write_bytes(flipped)
        if recorded(copy) == original:
            continue
        found += 1
        with contextlib.suppress(Unavailable):
            assert not verify_file(copy).sound
    assert found > 5


def recorded(path: Path) -> object:
    """Return everything that is on record, as SQLite reads it, or the error that it meets."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as database:
            entries = database.execute("SELECT * FROM entries ORDER BY seq").fetchall()
            rules = database.execute("SELECT number, id, selector, at, by, reason, incident FROM rules").fetchall()
            return entries, rules, database.execute("SELECT * FROM head").fetchall()
    except (sqlite3.DatabaseError, OverflowError, UnicodeDecodeError) as error:
        return type(error)


async def test_a_copy_with_its_log(tmp_path: Path) -> None:
    """A copy of a ledger in use, taken with its log, verifies with all that was committed."""
    async with opened(tmp_path / "ledger.db") as bench:
        for number in range(20):
            await bench.issue(f"tok_{number}")
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{bench.path}{suffix}", tmp_path / f"copy.db{suffix}")
    report = verify_file(tmp_path / "copy.db")
    assert report.sound
    assert report.size == 20
