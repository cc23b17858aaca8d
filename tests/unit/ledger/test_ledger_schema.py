"""The migrations and the schema that the code uses are the same, and a ledger is made once."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from broker.core.errors import Unavailable
from broker.ledger import SqlLedger, schema
from broker.ledger.databases.sqlite import writer_engine
from broker.ledger.migrate import migrate
from tests.support.ledgers import NOW


def test_the_migrations_make_the_schema(tmp_path: Path) -> None:
    """A new ledger has just the tables, columns, indexes and revision of the code; migrating again changes nothing."""
    path = tmp_path / "ledger.db"
    SqlLedger.create(path, NOW)
    migrate(path)
    engine = writer_engine(path)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
        assert context.get_current_heads() == (schema.REVISION,)
        ddl = connection.exec_driver_sql(
            "SELECT sql FROM sqlite_master WHERE name = 'entries_token_expiry'"
        ).scalar_one()
        assert "WHERE kind = 'token.issued'" in ddl
    engine.dispose()


def test_a_new_ledger_is_private_and_durable(tmp_path: Path) -> None:
    """Only its owner can read it; it keeps its log apart; each has an id of its own."""
    ids = {SqlLedger.create(tmp_path / name, NOW) for name in ("a.db", "b.db")}
    assert len(ids) == 2
    assert stat.S_IMODE((tmp_path / "a.db").stat().st_mode) == 0o600
    with sqlite3.connect(tmp_path / "a.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """Where there is a file, no ledger is made; where there is no folder, the text says so."""
    path = tmp_path / "ledger.db"
    path.write_text("precious")
    for bad in (path, tmp_path / "nowhere" / "ledger.db"):
        with pytest.raises(Unavailable):
            SqlLedger.create(bad, NOW)
    assert path.read_text() == "precious"


def test_the_hot_statements_sync_each_commit(tmp_path: Path) -> None:
    """The writing connection waits for the disk at every commit; a reading one cannot write."""
    path = tmp_path / "ledger.db"
    SqlLedger.create(path, NOW)
    engine = writer_engine(path)
    with engine.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
    engine.dispose()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT max(expires_at) FROM entries WHERE kind = ?", "entries_token_expiry"),
        ("SELECT seq, body FROM entries WHERE ref = ? ORDER BY seq LIMIT 1", "entries_ref"),
        (
            "SELECT ref FROM entries WHERE kind = ? AND ref > 't.' AND ref < 't/' AND expires_at > 1 AND agent = 'a'",
            "entries_ref",
        ),
    ],
)
def test_what_must_not_depend_on_the_number_of_tokens_has_an_index(tmp_path: Path, query: str, index: str) -> None:
    """When a rule ends, what a reference names or a status list holds is looked up, not searched for (law 3)."""
    path = tmp_path / "ledger.db"
    SqlLedger.create(path, NOW)
    with contextlib.closing(sqlite3.connect(path)) as database:
        plan = " ".join(str(row) for row in database.execute(f"EXPLAIN QUERY PLAN {query}", ("token.issued",)))
    assert f"SEARCH entries USING INDEX {index}" in plan
