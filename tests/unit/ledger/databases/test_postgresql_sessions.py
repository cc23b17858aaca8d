"""Which server a ledger is kept on: one that is recognised, that can be written to, and that keeps what it confirms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.core.errors import Code, Unavailable
from broker.ledger import SqlLedger
from broker.ledger.databases.postgresql_sessions import connect, refusal
from broker.ports import Revocations, Server
from tests.support.certificates import certificate_for_loopback
from tests.support.ledgers import FixedClock, opened
from tests.support.postgres import Postgres
from tests.support.postgres_tls import PostgresTls


@pytest.fixture
def database(postgres: Postgres, tmp_path: Path) -> Server:
    """An empty ledger."""
    return postgres.emptied_ledger(tmp_path / "ledger")


@pytest.fixture
def tls(postgres: Postgres, tmp_path: Path) -> Iterator[PostgresTls]:
    """The same server behind TLS, with a certificate for 127.0.0.1."""
    with PostgresTls(postgres, *certificate_for_loopback(tmp_path)) as front:
        yield front


def over(tls: PostgresTls, database: Server, host: str = "127.0.0.1", **parameters: object) -> Server:
    """Return the same place, reached over TLS."""
    own = database.url.partition("&")[2]
    given = "".join(f"&{name}={value}" for name, value in parameters.items())
    return replace(database, url=f"postgresql://postgres@{host}:{tls.port}/postgres?{own}{given}")


async def test_a_server_with_the_right_certificate(tls: PostgresTls, database: Server) -> None:
    """Every session of a replica goes over TLS."""
    place = over(tls, database, sslmode="verify-full", sslrootcert=tls.certificate)
    async with opened(place) as bench:
        await bench.issue("tok_1")
        await bench.verified()
    assert tls.sessions > 1


@pytest.mark.parametrize(("host", "name"), [("127.0.0.1", "stranger.pem"), ("localhost", "server.pem")])
async def test_a_server_that_is_not_the_one(
    tls: PostgresTls, database: Server, tmp_path: Path, host: str, name: str
) -> None:
    """Another authority, or a certificate of another name: nothing is said to it."""
    certificate_for_loopback(tmp_path, "stranger")
    place = over(tls, database, host, sslmode="verify-full", sslrootcert=tmp_path / name)
    with pytest.raises(Unavailable) as caught:
        await SqlLedger.open(place, Revocations(), clock=FixedClock())
    assert caught.value.code is Code.LEDGER_UNAVAILABLE
    assert tls.sessions == 0


def test_settings_of_a_session_do_not_depend_on_the_role(postgres: Postgres, database: Server) -> None:
    """A commit is durable, and no statement, lock or idle transaction lasts, whatever the server was told."""
    postgres.execute("ALTER DATABASE postgres SET synchronous_commit = off")
    try:
        with connect(replace(database, statement_seconds=7)) as session:
            names = ("synchronous_commit", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
            found = [session.execute(f"SHOW {name}".encode()).fetchone() for name in names]
    finally:
        postgres.execute("ALTER DATABASE postgres RESET ALL")
    assert found == [("on",), ("7s",), ("7s",), ("7s",)]


GOOD = {"version": 180_000, "in_recovery": False, "read_only": False, "unsafe": False, "encoding": "UTF8"}


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({}, None),
        ({"version": 140_000}, None),
        ({"version": 139_999}, "PostgreSQL 14"),
        ({"encoding": "SQL_ASCII"}, "UTF8"),
        ({"in_recovery": True}, "standby"),
        ({"read_only": True}, "read-only"),
        ({"unsafe": True}, "fsync"),
        ({"unsafe": True, "allow_unsafe": True}, None),
        ({"in_recovery": True, "allow_unsafe": True}, "standby"),
    ],
)
def test_which_servers_are_refused(found: dict[str, bool], why: str | None) -> None:
    """Each with its reason; what tests allow is one thing only."""
    said = refusal(**({"allow_unsafe": False} | GOOD | found))  # type: ignore[arg-type]
    assert (said is None) if why is None else why in (said or "")
