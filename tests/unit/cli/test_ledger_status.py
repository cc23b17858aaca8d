"""``broker ledger status`` and the questions of ``broker ledger accept-restore``."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from broker.ledger.verifying.last_check import LastCheck, LastCheckFile
from tests.support.shell import Shell


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A broker's folder of one's own."""
    return Path(shutil.copytree(made, tmp_path / "home"))


def test_a_ledger_that_nothing_is_known_against(shell: Shell, home: Path) -> None:
    """By its file or by the settings; when it was checked completely, if it ever was."""
    done = shell("ledger", "status", "--file", home / "ledger.db")
    assert done.code == 0
    assert "Nothing is known against the ledger" in done.out
    assert "never" in done.out
    LastCheckFile(home / "ledger.db").write(LastCheck(at=1_795_300_000.0, entries=2))
    answer = shell("ledger", "status", "--config", home / "broker.toml", "--json").json
    assert (answer["sound"], answer["entries"], answer["epoch"]) == (True, 2, 0)
    assert (answer["checked_at"], answer["checked_entries"]) == ("2026-11-21T22:26:40Z", 2)


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("DELETE FROM entries WHERE seq = 1", "the last one is number 0"),
        ("DELETE FROM head", "has no head"),
        ("UPDATE head SET frontier = x'00'", "the ledger's head is damaged"),
        ("DROP INDEX entries_ref", "the index 'entries_ref' of the database is missing"),
    ],
)
def test_what_a_first_look_finds(shell: Shell, home: Path, sql: str, told: str) -> None:
    """It ends with 4, and says what to do."""
    with sqlite3.connect(home / "ledger.db") as database:
        database.execute(sql)
    database.close()
    done = shell("ledger", "status", "--file", home / "ledger.db")
    assert done.code == 4
    assert told in done.out
    assert "What to do:  stop the broker, put a backup in the place of the ledger" in done.out


def test_what_the_broker_found_is_repeated(shell: Shell, home: Path) -> None:
    """Also where a first look finds nothing; a file that is none says nothing."""
    file = home / "ledger.db.check"
    file.write_text("not what it should be")
    assert shell("ledger", "status", "--file", home / "ledger.db").code == 0
    file.write_text('{"at":1,"entries":2,"fault":"damaged","problems":["entry 0: something"]}')
    done = shell("ledger", "status", "--file", home / "ledger.db", "--json")
    assert done.code == 4
    assert (done.json["fault"], done.json["problems"]) == ("damaged", ["entry 0: something"])


def test_what_is_no_ledger_has_no_status(shell: Shell, tmp_path: Path) -> None:
    """It is an error."""
    assert shell("ledger", "status", "--file", tmp_path / "nowhere.db").code == 3
    (tmp_path / "other.db").write_bytes(b"x" * 5000)
    assert shell("ledger", "status", "--file", tmp_path / "other.db").code in {3, 4}


def test_a_restore_that_nothing_shows_can_be_accepted(shell: Shell, home: Path) -> None:
    """Whoever rolled back a machine knows it, even if nobody else does: that ends everything as well."""
    config = ("--config", home / "broker.toml")
    done = shell("ledger", "accept-restore", "--reason", "rolled back", *config)
    assert (done.code, "not_confirmed" in done.err) == (2, True)
    assert "Nobody who was asked knows of a newer one" in done.err
    done = shell("ledger", "accept-restore", "--reason", "rolled back", "--yes", *config)
    assert done.code == 0
    assert "Every token that was issued before is dead" in done.out
    assert shell("ledger", "status", *config, "--json").json["epoch"] > 2**40
    assert shell("ledger", "verify", *config).code == 0
