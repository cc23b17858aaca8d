"""The tree as it is stored: what proofs and tiles are made of, what is missing or wrong in it, and older ledgers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from pathlib import Path

import pytest

from broker.core.errors import BrokerError, Code, Refused, Unavailable
from broker.core.merkle import Frontier, leaf_hash, root_of, verify_consistency, verify_inclusion
from broker.core.tiles import Tile, cut_bundle, cut_hashes
from broker.ledger.verify import verify_file
from tests.support.ledgers import Bench, noted, opened

SIZE = 1_100


def sign(size: int, root: bytes) -> str:
    """Make a note."""
    return f"{size} {root.hex()}"


async def grow(bench: Bench, size: int) -> None:
    """Commit until there are so many entries, many in one transaction."""
    for start in range(bench.ledger.size, size, 300):
        await asyncio.gather(*(bench.ledger.commit(noted(number=n)) for n in range(start, min(start + 300, size))))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed ledger of ``SIZE`` entries, not to be changed."""
    path = tmp_path_factory.mktemp("tree") / "ledger.db"

    async def fill() -> None:
        async with opened(path, sign=sign) as bench:
            await grow(bench, SIZE)

    asyncio.run(fill())
    return path


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    copy = tmp_path / "ledger.db"
    copy.write_bytes(made.read_bytes())
    return copy


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    """Read or change the file behind the broker's back."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        return database.execute(sql).fetchall()


def leaves(path: Path) -> list[bytes]:
    """Return the hashes of all entries, from their bytes."""
    return [leaf_hash(body) for (body,) in query(path, "SELECT body FROM entries ORDER BY seq")]  # type: ignore[arg-type]


def test_one_node_for_256_entries(made: Path) -> None:
    """The table grows with whole tiles only, and has what the leaves come to."""
    nodes = query(made, "SELECT level, number, hash FROM nodes ORDER BY level, number")
    assert nodes == sorted(Frontier().extend(leaves(made))[1])
    assert len(nodes) == SIZE // 256
    assert verify_file(made).problems == ()


async def test_proofs_are_made_of_tiles(path: Path) -> None:
    """For entries in the first, a full, and the partial tile: against the roots of all the entries."""
    known = leaves(path)
    choice = random.Random(1)
    async with opened(path, sign=sign) as bench:
        for size in (1, 255, 256, 257, 1024, SIZE):
            root = root_of(known[:size])
            for seq in {0, size - 1, choice.randrange(size)}:
                proof = await bench.ledger.inclusion(seq, size)
                assert verify_inclusion(known[seq], seq, size, proof, root)
            grown = await bench.ledger.consistency(size, SIZE)
            assert verify_consistency(size, root, SIZE, root_of(known), grown)


async def test_tiles_hold_what_the_tree_has(path: Path) -> None:
    """Hashes, nodes and entries; a partial tile is the beginning of a wider one; beyond the tree there is nothing."""
    known = leaves(path)
    async with opened(path) as bench:
        read = bench.ledger.tile
        assert cut_hashes(await read(Tile(0, 3))) == known[768:1024]
        assert cut_hashes(await read(Tile(0, 4, 76))) == known[1024:]
        assert cut_hashes(await read(Tile(0, 4, 10))) == known[1024:1034]
        assert cut_hashes(await read(Tile(1, 0, 4))) == [root_of(known[n : n + 256]) for n in range(0, 1024, 256)]
        assert [leaf_hash(entry) for entry in cut_bundle(await read(Tile(None, 4, 76)))] == known[1024:]
        for beyond in (Tile(0, 4, 77), Tile(0, 4), Tile(0, 5, 1), Tile(1, 0, 5), Tile(2, 0, 1), Tile(None, 4, 77)):
            with pytest.raises(Refused) as refused:
                await read(beyond)
            assert refused.value.code is Code.NOT_FOUND


async def test_an_entry_is_proven_under_a_signed_head(path: Path) -> None:
    """The last checkpoint serves for all that is older; what is younger gets one of its own."""
    async with opened(path, sign=sign) as bench:
        first = await bench.ledger.prove(5)
        await bench.ledger.commit(noted())
        again = await bench.ledger.prove(1000)
        assert again.head == first.head
        young = await bench.ledger.prove(SIZE)
        assert young.head.size == SIZE + 1
        assert young.head.note == sign(young.head.size, young.head.root)
        for proven in (first, again, young):
            head, record = proven.head, proven.record
            assert verify_inclusion(leaf_hash(record.body), record.seq, head.size, proven.path, head.root)
        for absent in (-1, SIZE + 1, 2**70):
            with pytest.raises(Refused):
                await bench.ledger.prove(absent)


async def test_what_is_gone_is_not_missed_by_others(path: Path) -> None:
    """Without the entries of whole tiles, all others are still proven; those that are gone are said to be gone."""
    known = leaves(path)
    async with opened(path, sign=sign) as bench:
        await bench.ledger.checkpoint()
        query(path, "DELETE FROM entries WHERE seq >= 0 AND seq < 512")
        for seq in (512, 1023, SIZE - 1):
            proven = await bench.ledger.prove(seq)
            assert verify_inclusion(known[seq], seq, SIZE, proven.path, root_of(known))
        for old in (256, 512, 700, SIZE):
            proof = await bench.ledger.consistency(old, SIZE)
            assert verify_consistency(old, root_of(known[:old]), SIZE, root_of(known), proof)
        for gone in (
            bench.ledger.prove(3),
            bench.ledger.inclusion(3, SIZE),
            bench.ledger.consistency(300, SIZE),
            bench.ledger.tile(Tile(0, 1)),
            bench.ledger.tile(Tile(None, 1)),
        ):
            with pytest.raises(Refused) as refused:
                await gone
            assert refused.value.code is Code.NOT_FOUND
            assert refused.value.public.endswith("in the ledger any more")


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM nodes WHERE number = 2",
        "UPDATE nodes SET hash = zeroblob(32) WHERE number = 2",
        "UPDATE nodes SET hash = zeroblob(31) WHERE number = 2",
        "UPDATE entries SET leaf = zeroblob(32) WHERE seq = 4",
        "UPDATE entries SET leaf = '' WHERE seq = 4",
        "UPDATE entries SET body = (SELECT body FROM entries WHERE seq = 6) WHERE seq = 5",
    ],
)
async def test_no_proof_that_does_not_hold(path: Path, sql: str) -> None:
    """What was changed behind the broker's back gives an error, never a proof that convinces nobody."""
    async with opened(path, sign=sign) as bench:
        await bench.ledger.checkpoint()
        query(path, sql)
        with pytest.raises(BrokerError) as refused:
            await bench.ledger.prove(5)
        assert refused.value.code is Code.LEDGER_CORRUPT


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("DELETE FROM nodes WHERE number = 1", "the tree's node 1 of level 1, over the entries 256 to 511: missing"),
        ("DELETE FROM nodes", "the tree's nodes 0 to 3 of level 1, over the entries 0 to 1023: missing"),
        (
            "UPDATE nodes SET hash = zeroblob(32) WHERE number IN (1, 2)",
            "the tree's nodes 1 to 2 of level 1, over the entries 256 to 767: different from what the entries come to",
        ),
        (
            "INSERT INTO nodes VALUES (2, 0, zeroblob(32))",
            "the tree's node 0 of level 2, over the entries 0 to 65535: there although the entries do not come to them",
        ),
        ("INSERT INTO nodes VALUES (0, 0, 'x')", "level 0, which no tree has"),
        ("INSERT INTO nodes VALUES (-1, -7, 'x')", "level -1, which no tree has"),
        ("INSERT INTO nodes VALUES (1 << 60, 1 << 60, 'x')", "which no tree has"),
        ("INSERT INTO nodes VALUES ('x', 'y', 'z')", "values that its columns cannot have"),
    ],
)
async def test_nodes_are_verified(path: Path, sql: str, told: str) -> None:
    """A missing, wrong or surplus node is found; one too many or too few at the start already."""
    query(path, sql)
    problems = verify_file(path).problems
    assert any(told in problem for problem in problems), problems
    if not sql.startswith("UPDATE"):
        async with opened(path) as bench:
            unsound = bench.ledger.integrity.unsound
            assert unsound is not None
            assert "nodes above its leaves" in unsound.problems[0]


def age(path: Path) -> None:
    """Make a ledger what it was before there were nodes."""
    query(path, "DROP TABLE nodes")
    query(path, "DROP TABLE anchorings")
    query(path, "ALTER TABLE entries DROP COLUMN personal")
    query(path, "ALTER TABLE head DROP COLUMN changed")
    query(path, "DROP TABLE accepted_heads")
    query(path, "DROP TABLE verifiers")
    query(path, "DROP TABLE replicas")
    query(path, "UPDATE alembic_version SET version_num = '0003'")


async def test_an_older_ledger_gets_its_nodes(path: Path) -> None:
    """When it is opened; it goes on from there."""
    before = query(path, "SELECT * FROM nodes")
    age(path)
    assert "the table 'nodes' of the database is missing" in verify_file(path).problems
    async with opened(path) as bench:
        assert query(path, "SELECT * FROM nodes") == before
        await grow(bench, 1_300)
        assert len((await bench.verified()).problems) == 0
    assert len(query(path, "SELECT * FROM nodes")) == 1_300 // 256


async def test_an_older_ledger_without_entries(tmp_path: Path) -> None:
    """It gets an empty table."""
    async with opened(tmp_path / "ledger.db"):
        pass
    age(tmp_path / "ledger.db")
    async with opened(tmp_path / "ledger.db") as bench:
        await bench.ledger.commit(noted())
        await bench.verified()


async def test_an_older_ledger_with_bad_leaves(path: Path) -> None:
    """It is not migrated, and stays what it was."""
    age(path)
    query(path, "UPDATE entries SET leaf = zeroblob(5) WHERE seq = 4")
    with pytest.raises(Unavailable) as refused:
        async with opened(path):
            pass
    assert refused.value.code is Code.LEDGER_CORRUPT
    assert query(path, "SELECT version_num FROM alembic_version") == [("0003",)]
