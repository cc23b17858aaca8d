"""Where the settings say that the ledger is: a file, or a database that nobody can take for another one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from broker.config import ConfigError, load_config
from broker.config.ledger_place import place_of, place_problem
from broker.config.settings import LedgerSettings
from broker.ports import Server

FOLDER = Path("/etc/broker")
SURE = "sslmode=verify-full&sslrootcert=/etc/ca.pem"


def problem(**settings: object) -> str:
    """Return what is wrong with some settings; nothing if nothing is."""
    return place_problem(msgspec.convert(settings, LedgerSettings)) or ""


def test_a_file_is_taken_from_the_folder_of_the_settings() -> None:
    """By default it is beside them; an absolute one stays where it is."""
    assert place_of(LedgerSettings(), FOLDER) == FOLDER / "ledger.db"
    assert place_of(LedgerSettings(path="a/b.db"), FOLDER) == FOLDER / "a" / "b.db"
    assert place_of(LedgerSettings(path="/srv/b.db"), FOLDER) == Path("/srv/b.db")
    assert problem() == problem(path="a.db") == ""


def test_a_database_has_notes_beside_the_settings() -> None:
    """And all that the settings say of it."""
    settings = LedgerSettings(
        url=f"postgresql://db.example/broker?{SURE}", statement_seconds=7, max_staleness_seconds=2
    )
    place = place_of(settings, FOLDER)
    assert isinstance(place, Server)
    assert (place.url, place.beside) == (settings.url, FOLDER / "ledger")
    assert (place.statement_seconds, place.max_staleness, place.allow_unsafe) == (7, 2, False)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://db.example/broker?{SURE}",
        f"postgres://broker@db-1.example:5433,db-2.example/broker?{SURE}",
        "postgresql://db.example/broker?sslmode=require",
        "postgresql:///broker",
        "postgresql://localhost/broker",
        "postgresql://broker@127.0.0.1:5432,[::1]:5433/broker",
        "postgresql:///broker?host=/run/postgresql",
        "postgresql://%2Frun%2Fpostgresql/broker",
        "postgresql://db.example/broker?host=/run/postgresql",
        "postgresql:///?service=broker",
        "postgresql:///broker?passfile=/etc/pgpass",
    ],
)
def test_urls_that_serve(url: str) -> None:
    """With a server that is recognised, or one that nobody can stand in for: on this host."""
    assert problem(url=url) == ""


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://broker:hunter2@localhost/broker", "password"),
        ("postgresql://broker:@localhost/broker", "password"),
        ("postgresql:///broker?password=hunter2", "password"),
        ("postgresql:///broker?pass%77ord=hunter2", "password"),
        (f"postgresql://db.example/broker?{SURE}&sslpassword=hunter2", "password"),
        (f"postgresql://broker:hunter2#@db.example/broker?{SURE}", "%23"),
        (f"postgresql://broker:hunter2/@db.example/broker?{SURE}", "%40"),
        ("postgresql://db.example/broker", "sslmode"),
        ("postgresql://localhost,db.example/broker", "sslmode"),
        ("postgresql://localhost/broker?host=db.example", "sslmode"),
        ("postgresql://localhost/broker?hostaddr=192.0.2.1", "sslmode"),
        ("postgresql:///broker?host=/run/postgresql,db.example", "sslmode"),
        ("postgresql://localhost.example/broker", "sslmode"),
        ("mysql://localhost/broker", "postgresql://"),
        ("localhost/broker", "postgresql://"),
        ("", "postgresql://"),
        ("postgresql://[::1/broker", "not a URL"),
        ("postgresql://localhost/broker?hunter2", "not a URL"),
    ],
)
def test_urls_that_are_refused(url: str, said: str) -> None:
    """The key is named, and what to do; the URL is not shown, since it may hold a secret (law 8)."""
    found = problem(url=url)
    assert found.startswith("ledger.url: ")
    assert said in found
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"path": "a.db", "url": "postgresql:///broker"}, "one of path and url"),
        ({"path": ""}, "ledger.path"),
        ({"max_staleness_seconds": 0.19}, "ledger.max_staleness_seconds: must be 0.2 to 30"),
        ({"max_staleness_seconds": 30.1}, "ledger.max_staleness_seconds: must be 0.2 to 30"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], said: str) -> None:
    """A file and a database are not both the ledger; a view is believed for a time that makes sense."""
    assert said in problem(**settings)


@pytest.mark.parametrize("line", ["max_staleness_seconds = nan", "statement_seconds = 0", "connect_seconds = inf"])
def test_numbers_that_are_none(tmp_path: Path, line: str) -> None:
    """They are named where the settings are loaded."""
    file = tmp_path / "broker.toml"
    file.write_text(f'issuer = "https://broker.example"\n[ledger]\nurl = "postgresql:///broker"\n{line}\n')
    with pytest.raises(ConfigError, match=f"ledger.{line.split(maxsplit=1)[0]}: must be"):
        load_config(file, {})
