"""``broker init --ledger-url`` and ``broker db``: a ledger is made in PostgreSQL, looked at, upgraded, moved there."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import psycopg
import pytest

from broker.cli.outcome import ExitCode
from broker.config import load_config
from broker.ledger.verify import verify_file
from broker.ports import Server
from tests.support.postgres import Postgres
from tests.support.shell import Shell


@pytest.fixture
def url(postgres: Postgres, tmp_path: Path) -> str:
    """Where there is no ledger yet."""
    return postgres.ledger(tmp_path / "ledger").url


@pytest.fixture
def home(shell: Shell, url: str, tmp_path: Path) -> Path:
    """The settings of a broker whose ledger was made in a database."""
    done = shell("init", tmp_path / "home", "--ledger-url", url)
    assert done.code == 0, done.err
    return tmp_path / "home" / "broker.toml"


def run_in(url: str, statement: str) -> None:
    """Run a statement on the ledger's tables."""
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


def test_a_broker_is_made_around_a_database(shell: Shell, home: Path, url: str) -> None:
    """Its first entries are there, and no file of a ledger is."""
    config = load_config(home, {})
    assert isinstance(config.ledger, Server)
    assert config.ledger.url == url
    assert not (home.parent / "ledger.db").exists()
    verified = shell("ledger", "verify", "--config", home, "--json")
    assert (verified.code, verified.json["entries"]) == (0, 2)
    assert shell("ledger", "status", "--config", home).code == 0


def test_where_there_is_a_ledger_none_is_made(shell: Shell, home: Path, url: str, tmp_path: Path) -> None:
    """And nothing of the folder is left."""
    done = shell("init", tmp_path / "second", "--ledger-url", url)
    assert done.code == ExitCode.UNAVAILABLE
    assert not (tmp_path / "second").exists()
    assert shell("ledger", "verify", "--config", home).code == 0


def test_a_password_is_not_taken_and_not_shown(shell: Shell, tmp_path: Path) -> None:
    """Law 8: it would stand in a file, a list of processes and a history."""
    done = shell("init", tmp_path / "new", "--ledger-url", "postgresql://broker:hunter2@127.0.0.1/ledger")
    assert done.code == ExitCode.USAGE
    assert "password" in done.err
    assert "hunter2" not in done.out + done.err


def test_what_the_database_is_like(shell: Shell, home: Path) -> None:
    """Everything that a ledger relies on is said."""
    done = shell("db", "check", "--config", home, "--json")
    assert done.code == 0, done.err
    answer = done.json
    assert (answer["fsync"], answer["full_page_writes"], answer["synchronous_commit"]) == ("on", "on", "on")
    assert answer["revision"] == answer["newest"]
    assert abs(answer["clock_difference"]) < 5
    assert answer["problems"] == []


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DROP INDEX entries_ref", "the index 'entries_ref' of the database is missing"),
        ("CREATE RULE mute AS ON INSERT TO rules DO INSTEAD NOTHING", "a rule 'mute' that does not belong there"),
        ('ALTER TABLE tasks ALTER path TYPE text COLLATE "default"', "tasks.path is not sorted byte by byte"),
        ("UPDATE meta SET compatibility = 99", "its data format is 99"),
        ("UPDATE alembic_version SET version_num = '0001'", "broker db upgrade"),
    ],
)
def test_what_keeps_a_broker_from_it(shell: Shell, home: Path, url: str, statement: str, told: str) -> None:
    """A database that was changed by others, or is of another version."""
    run_in(url, statement)
    done = shell("db", "check", "--config", home)
    assert done.code == ExitCode.UNAVAILABLE
    assert told in done.out


def test_there_is_no_ledger_in_it(shell: Shell, home: Path, postgres: Postgres, url: str, tmp_path: Path) -> None:
    """What to do is said."""
    home.write_text(home.read_text().replace(url, postgres.ledger(tmp_path / "other").url))
    done = shell("db", "check", "--config", home)
    assert done.code == ExitCode.UNAVAILABLE
    assert "broker init --ledger-url" in done.out


def test_upgrading_what_is_up_to_date(shell: Shell, home: Path, made: Path) -> None:
    """Nothing happens, wherever the ledger is."""
    for config in (home, made / "broker.toml"):
        answer = shell("db", "upgrade", "--config", config, "--json").json
        assert answer["before"] == answer["after"] is not None


def test_a_ledger_is_moved(shell: Shell, made: Path, postgres: Postgres, tmp_path: Path) -> None:
    """It has the same entries, tree and tables, verifies, and goes on; the file is put aside."""
    home = Path(shutil.copytree(made, tmp_path / "home"))
    before = verify_file(home / "ledger.db")
    config = home / "broker.toml"
    url = postgres.ledger(tmp_path / "to").url
    config.write_text(config.read_text().replace('path = "ledger.db"', f'url = "{url}"'))
    done = shell("db", "move", home / "ledger.db", "--config", config, "--json")
    assert done.code == 0, done.err
    assert (done.json["entries"], done.json["root"]) == (before.size, before.root.hex() if before.root else "")
    assert not (home / "ledger.db").exists()
    assert (home / "ledger.db.moved").exists()
    again = shell("ledger", "verify", "--config", config, "--json").json
    assert (again["ledger"], again["root"]) == (before.ledger, done.json["root"])


def test_nothing_is_moved_over_a_ledger(shell: Shell, made: Path, home: Path, tmp_path: Path) -> None:
    """What is in the database stays, and the file stays where it is."""
    file = Path(shutil.copy(made / "ledger.db", tmp_path / "ledger.db"))
    done = shell("db", "move", file, "--config", home)
    assert done.code == ExitCode.UNAVAILABLE
    assert file.exists()
    assert shell("ledger", "verify", "--config", home).code == 0


def test_a_damaged_ledger_is_not_moved(shell: Shell, made: Path, home: Path, tmp_path: Path) -> None:
    """Damage is found where it is, not where it would be looked for afterwards."""
    file = Path(shutil.copy(made / "ledger.db", tmp_path / "ledger.db"))
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE entries SET agent = 'eve' WHERE seq = 1")
    done = shell("db", "move", file, "--config", home)
    assert done.code == ExitCode.INTEGRITY
    assert file.exists()


def test_commands_for_a_database_say_that_there_is_none(shell: Shell, made: Path) -> None:
    """The ledger of these settings is a file."""
    for command in (("check",), ("move", made / "ledger.db")):
        done = shell("db", *command, "--config", made / "broker.toml")
        assert done.code == ExitCode.USAGE
        assert "[ledger] url" in done.err


def test_workers_need_a_file(shell: Shell, home: Path) -> None:
    """On a database, run several brokers: nothing is begun that would have nothing in common."""
    done = shell("serve", "--config", home, "--workers", "2", "--json")
    assert (done.code, done.json_error["code"]) == (ExitCode.USAGE, "workers_need_a_file")
