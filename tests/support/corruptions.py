"""A hundred ways to corrupt a ledger's database file, seeded: what somebody does who can write to it."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from broker.core.merkle import Frontier, leaf_hash
from broker.ledger.schema import ENTRY_COLUMNS

Apply = Callable[[Path], None]

OTHERS = ", ".join(ENTRY_COLUMNS[1:])


@dataclass(frozen=True)
class Corruption:
    """``kind`` groups what is alike; ``what`` says what is done; ``apply`` does it to a copy of the ledger."""

    kind: str
    what: str
    apply: Apply


@dataclass(frozen=True)
class Files:
    """The ledger, an older copy of it, that copy gone on with by itself, and the ledger of another broker."""

    ledger: Path
    older: Path
    branch: Path
    other: Path


def catalogue(files: Files, seed: int) -> list[Corruption]:
    """Return all of them. The same seed makes the same ones of the same files."""
    chance = random.Random(seed)
    size = scalar(files.ledger, "SELECT size FROM head")
    return [
        *_bytes(chance, files.ledger, 24),
        *_entries(chance, size),
        *_tails(chance, size),
        *_trees(chance, size),
        *_checkpoints(chance, files.ledger),
        *_tables(),
        *_whole_files(files),
    ]


def scalar(path: Path, sql: str) -> Any:  # noqa: ANN401 - a value of the database
    """Return one value of a database."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute(sql).fetchone()[0]


def _bytes(chance: random.Random, ledger: Path, count: int) -> Iterator[Corruption]:
    """Bytes in pages, wherever they are, but not where there is nothing but zeros."""
    page, content = scalar(ledger, "PRAGMA page_size"), ledger.read_bytes()
    written = [place for place, byte in enumerate(content[:-64]) if byte]
    for place in chance.sample(written, count):
        width, number = chance.choice((1, 1, 4, 64)), place // page
        noise = chance.randbytes(width)

        def apply(path: Path, place: int = place, noise: bytes = noise) -> None:
            with path.open("r+b") as file:
                file.seek(place)
                before = file.read(len(noise))
                file.seek(place)
                # What is there already is no change.
                file.write(noise if noise != before else bytes(byte ^ 1 for byte in noise))

        yield Corruption("bytes of a page", f"{width} bytes of page {number + 1}", apply)


def _sql(kind: str, what: str, statement: str, *values: object) -> Corruption:
    def apply(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            assert database.execute(statement, values).rowcount, statement

    return Corruption(kind, what, apply)


def _entries(chance: random.Random, size: int) -> Iterator[Corruption]:
    kind = "entries changed"
    for seq in chance.sample(range(size), 5):
        flip = "UPDATE entries SET body = CAST(replace(body, '\"v\":1', '\"v\":2') AS BLOB) WHERE seq = ?"
        yield _sql(kind, f"a byte of the body of entry {seq}", flip, seq)
    for seq in chance.sample(range(size), 5):
        column = chance.choice([name for name in ENTRY_COLUMNS[2:-2] if name != "at"])
        value = 7 if column in {"epoch", "expires_at"} else "eve"
        other = f"UPDATE entries SET {column} = ? WHERE seq = ?"  # noqa: S608 - our own names
        yield _sql(kind, f"the column {column} of entry {seq}", other, value, seq)
    for seq in chance.sample(range(size), 2):
        yield _sql(kind, f"the hash of entry {seq}", "UPDATE entries SET leaf = randomblob(32) WHERE seq = ?", seq)
    for _ in range(4):
        first, second = chance.sample(range(size), 2)
        yield Corruption("entries swapped", f"entries {first} and {second}", _swapped(first, second))
    kind = "middle removed"
    for seq in chance.sample(range(1, size - 10), 4):
        yield _sql(kind, f"entry {seq}", "DELETE FROM entries WHERE seq = ?", seq)
        end = seq + chance.randrange(2, 9)
        yield _sql(kind, f"entries {seq} to {end}", "DELETE FROM entries WHERE seq BETWEEN ? AND ?", seq, end)
    for seq in chance.sample(range(size - 10), 2):
        yield Corruption(kind, f"entry {seq}, and all after it moved up", _closed_up(seq))
    kind = "entries inserted"
    again = f"INSERT INTO entries (seq, {OTHERS}) SELECT ?, {OTHERS} FROM entries WHERE seq = ?"  # noqa: S608 - ours
    for seq in chance.sample(range(size), 2):
        yield _sql(kind, f"entry {seq} once more at the end", again, size, seq)
        yield Corruption(kind, f"entry {seq} once more after itself, others moved down", _doubled(seq))


def _swapped(first: int, second: int) -> Apply:
    def apply(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            for old, new in ((first, -1), (second, first), (-1, second)):
                database.execute("UPDATE entries SET seq = ? WHERE seq = ?", (new, old))

    return apply


def _closed_up(seq: int) -> Apply:
    def apply(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("DELETE FROM entries WHERE seq = ?", (seq,))
            _move(database, seq + 1, -1)
            database.execute("UPDATE head SET size = size - 1")

    return apply


def _doubled(seq: int) -> Apply:
    def apply(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            _move(database, seq + 1, 1)
            copy = f"INSERT INTO entries (seq, {OTHERS}) SELECT ?, {OTHERS} FROM entries WHERE seq = ?"  # noqa: S608
            database.execute(copy, (seq + 1, seq))
            rebuild_head(database)

    return apply


def _move(database: sqlite3.Connection, first: int, by: int) -> None:
    database.execute("UPDATE entries SET seq = -seq - 1 WHERE seq >= ?", (first,))
    database.execute("UPDATE entries SET seq = -seq - 1 + ? WHERE seq < 0", (by,))


def rebuild_head(database: sqlite3.Connection) -> None:
    """Make the tree of what the entries are now, as somebody would who knows how it is made."""
    entries = database.execute("SELECT seq, body FROM entries ORDER BY seq").fetchall()
    leaves = [leaf_hash(body) for _, body in entries]
    frontier, nodes = Frontier().extend(leaves)
    places = [(leaf, seq) for leaf, (seq, _) in zip(leaves, entries, strict=True)]
    database.executemany("UPDATE entries SET leaf = ? WHERE seq = ?", places)
    database.execute("UPDATE head SET size = ?, frontier = ?", (frontier.size, frontier.to_bytes()))
    database.execute("DELETE FROM nodes")
    database.executemany("INSERT INTO nodes VALUES (?, ?, ?)", nodes)


def cut(path: Path, size: int) -> None:
    """Remove everything from entry ``size`` on so that what is left is sound: rules, blocks, checkpoints as well."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM entries WHERE seq >= ?", (size,))
        rebuild_head(database)
        refs = "SELECT ref FROM entries WHERE kind = 'rule.added'"
        database.execute(f"DELETE FROM rules WHERE id NOT IN ({refs})")  # noqa: S608 - our own query
        database.execute("UPDATE head SET epoch = (SELECT coalesce(max(number), 0) FROM rules)")
        database.execute("DELETE FROM blocks WHERE rule NOT IN (SELECT number FROM rules)")
        database.execute("DELETE FROM checkpoints WHERE size > ?", (size,))
        for table in ("tasks", "leases", "approvals", "actions", "votes", "budgets"):
            database.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names


def _tails(chance: random.Random, size: int) -> Iterator[Corruption]:
    for count in (1, 2, 7):
        yield _sql("tail removed", f"the last {count} entries", "DELETE FROM entries WHERE seq >= ?", size - count)
    for end in sorted(chance.sample(range(size // 2, size), 4)):
        what = f"the last {size - end} entries"
        yield Corruption("tail removed, and all made to fit", what, partial(cut, size=end))


def _trees(chance: random.Random, size: int) -> Iterator[Corruption]:
    kind = "tree or head changed"
    yield _sql(kind, "the size in the head", "UPDATE head SET size = size + 1")
    yield _sql(kind, "the epoch in the head", "UPDATE head SET epoch = epoch + 1")
    yield _sql(kind, "the hashes in the head", "UPDATE head SET frontier = randomblob(length(frontier))")
    yield _sql(kind, "the hashes in the head, too few", "UPDATE head SET frontier = zeroblob(32)")
    yield _sql(kind, "the head removed", "DELETE FROM head")
    yield _sql(kind, "a node of the tree", "UPDATE nodes SET hash = randomblob(32) WHERE level = 1 AND number = 0")
    yield _sql(kind, "a node removed", "DELETE FROM nodes WHERE level = 1")
    yield _sql(kind, "a node added", "INSERT INTO nodes VALUES (1, 7, randomblob(32))")
    for seq in chance.sample(range(size // 2), 3):
        yield Corruption("tree rewritten, and all made to fit", f"from entry {seq} on", _rewritten(seq, signed="kept"))
        what = f"from entry {seq} on, checkpoints unsigned"
        yield Corruption("tree rewritten, and all made to fit", what, _rewritten(seq, signed="remade"))
        what = f"from entry {seq} on, checkpoints removed"
        yield Corruption("tree rewritten, and all made to fit", what, _rewritten(seq, signed="removed"))


def _rewritten(seq: int, *, signed: str) -> Apply:
    """Let an entry be of another moment, and recompute everything that depends on it."""

    def apply(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            [(at, body)] = database.execute("SELECT at, body FROM entries WHERE seq = ?", (seq,)).fetchall()
            forged = body.replace(f'"at":{at}'.encode(), f'"at":{at - 1}'.encode())
            assert forged != body
            database.execute("UPDATE entries SET at = at - 1, body = ? WHERE seq = ?", (forged, seq))
            # A rule's row says when it was made as well.
            database.execute(
                "UPDATE rules SET at = ? / 1000.0 WHERE id = (SELECT ref FROM entries WHERE seq = ?)", (at - 1, seq)
            )
            rebuild_head(database)
            if signed == "removed":
                database.execute("DELETE FROM checkpoints")
            elif signed == "remade":
                for (size,) in database.execute("SELECT size FROM checkpoints").fetchall():
                    leaves = database.execute("SELECT leaf FROM entries WHERE seq < ? ORDER BY seq", (size,))
                    root = Frontier().append(leaf for (leaf,) in leaves).root()
                    database.execute("UPDATE checkpoints SET root = ?, note = NULL WHERE size = ?", (root, size))

    return apply


def _checkpoints(chance: random.Random, ledger: Path) -> Iterator[Corruption]:
    kind = "checkpoints changed"
    with contextlib.closing(sqlite3.connect(ledger)) as database:
        sizes = [size for (size,) in database.execute("SELECT size FROM checkpoints WHERE note IS NOT NULL")]
    for size in chance.sample(sizes, 2):
        yield _sql(kind, f"the root at {size}", "UPDATE checkpoints SET root = randomblob(32) WHERE size = ?", size)
        forged = "UPDATE checkpoints SET note = replace(note, char(10) || size, char(10) || 1 || size) WHERE size = ?"
        yield _sql(kind, f"the size in the note at {size}", forged, size)
    yield _sql(kind, "one of a larger tree added", "INSERT INTO checkpoints VALUES (999999, randomblob(32), NULL, 1)")
    youngest = "DELETE FROM checkpoints WHERE size = (SELECT max(size) FROM checkpoints)"
    yield _sql("checkpoints removed", "the youngest one", youngest)
    yield _sql("checkpoints removed", "all of them", "DELETE FROM checkpoints")


TABLES: Sequence[tuple[str, str, str]] = (
    ("rules", "another selector", "UPDATE rules SET selector = '{\"agent\":\"nobody\"}' WHERE number = 1"),
    ("rules", "one that ends at once", "UPDATE rules SET ends_at = at WHERE number = 1"),
    ("rules", "one removed", "DELETE FROM rules WHERE number = 1"),
    ("rules", "the youngest removed", "DELETE FROM rules WHERE number = (SELECT max(number) FROM rules)"),
    ("rules", "another reason", "UPDATE rules SET reason = 'x'"),
    ("rules", "one added", "INSERT INTO rules SELECT 90, 'x', selector, at, by, 'x', NULL, ends_at FROM rules LIMIT 1"),
    ("blocks", "one removed", "DELETE FROM blocks WHERE lifted_at IS NULL"),
    ("blocks", "one lifted", "UPDATE blocks SET lifted_at = 1 WHERE lifted_at IS NULL"),
    ("blocks", "one in force again", "UPDATE blocks SET lifted_at = NULL"),
    ("blocks", "another end", "UPDATE blocks SET until = 99999999999"),
    ("agents", "another key", "UPDATE agents SET jwk = replace(jwk, '\"x\":\"', '\"x\":\"A') WHERE name = 'alpha'"),
    ("agents", "one removed", "DELETE FROM agents WHERE name = 'beta'"),
    ("agents", "one added", "INSERT INTO agents SELECT 'eve', jwk, key, created_at, created_by FROM agents LIMIT 1"),
    ("keys", "one revoked", "UPDATE keys SET revoked = 1 WHERE use = 'token'"),
    ("keys", "another public key", "UPDATE keys SET public_jwk = replace(public_jwk, '\"x\":\"', '\"x\":\"A')"),
    ("keys", "one added", "INSERT INTO keys SELECT 'x', use, alg, public_jwk, sealed, 1, 1, NULL, 0 FROM keys LIMIT 1"),
    ("tasks", "one open again", "UPDATE tasks SET closed_at = NULL WHERE closed_at IS NOT NULL"),
    ("tasks", "another deadline", "UPDATE tasks SET deadline = deadline + 99999 WHERE NOT implicit"),
    ("tasks", "another owner", "UPDATE tasks SET owner = 'eve' WHERE NOT implicit"),
    ("leases", "one settled", "UPDATE leases SET status = 'revoked', settled_at = 1 WHERE status = 'live'"),
    ("leases", "another end", "UPDATE leases SET ends_by = ends_by + 99999"),
    ("leases", "another handle", "UPDATE leases SET handle = '{}' WHERE status = 'live'"),
    ("leases", "held", "UPDATE leases SET held = 1 WHERE status = 'live'"),
    ("leases", "another holder", "UPDATE leases SET agent = 'eve'"),
    ("approvals", "one approved", "UPDATE approvals SET state = 'approved'"),
    ("approvals", "a smaller quorum", "UPDATE approvals SET quorum = 0"),
    ("accepted_heads", "one added", "INSERT INTO accepted_heads VALUES (999, randomblob(32), 1)"),
    ("schema", "a trigger", "CREATE TRIGGER t AFTER INSERT ON rules BEGIN DELETE FROM rules; END"),
    ("schema", "an index removed", "DROP INDEX entries_ref"),
)  # fmt: skip


def _tables() -> Iterator[Corruption]:
    for table, what, statement in TABLES:
        if table == "schema":
            yield Corruption("schema changed", what, _run(statement))
        else:
            yield _sql("rows of other tables", f"{table}: {what}", statement)


def _run(statement: str) -> Apply:
    def apply(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute(statement)

    return apply


def _whole_files(files: Files) -> Iterator[Corruption]:
    kind = "whole file"
    yield Corruption(kind, "that of another broker", lambda path: _replace(path, files.other))
    yield Corruption(kind, "an older copy", lambda path: _replace(path, files.older))
    yield Corruption(kind, "an older copy, gone on with", lambda path: _replace(path, files.branch))
    kind = "whole file, and what is beside it"
    yield Corruption(
        kind, "an older copy of both: a machine that was rolled back", lambda path: _rolled_back(path, files.older)
    )
    yield Corruption(kind, "an older copy, gone on with, of both", lambda path: _rolled_back(path, files.branch))
    kind = "two copies merged"
    yield Corruption(kind, "what the other copy added, put behind", _merged(files, renumbered=True, fitting=False))
    yield Corruption(kind, "the same, and all made to fit", _merged(files, renumbered=True, fitting=True))
    yield Corruption(
        kind, "what the other copy added, in place of one's own", _merged(files, renumbered=False, fitting=False)
    )
    yield Corruption(kind, "the same, and all made to fit", _merged(files, renumbered=False, fitting=True))


def _replace(path: Path, by: Path) -> None:
    shutil.copy(by, path)


def _rolled_back(path: Path, to: Path) -> None:
    for suffix in ("", ".checkpoint"):
        shutil.copy(f"{to}{suffix}", f"{path}{suffix}")


def _merged(files: Files, *, renumbered: bool, fitting: bool) -> Apply:
    """Bring the entries that a copy added by itself into the ledger."""
    shared, size = scalar(files.older, "SELECT size FROM head"), scalar(files.ledger, "SELECT size FROM head")

    def apply(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("ATTACH ? AS branch", (str(files.branch),))
            with database:
                place = f"seq + {size - shared}" if renumbered else "seq"
                database.execute(
                    f"INSERT OR REPLACE INTO entries (seq, {OTHERS})"  # noqa: S608 - our own names
                    f" SELECT {place}, {OTHERS} FROM branch.entries WHERE seq >= {shared}"
                )
                if fitting:
                    rebuild_head(database)

    return apply
