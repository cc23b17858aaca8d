"""A real broker on a ledger that is damaged: what an operator sees."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.running_broker import RunningBroker

PATIENCE = 30.0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """A broker that was started once; whatever runs at the end is killed."""
    running = RunningBroker(tmp_path)
    running.initialise()
    running.start()
    running.stop()
    yield running
    running.kill()


def answer(broker: RunningBroker, path: str) -> tuple[int, Any]:
    """Return what a path answers, once the process answers at all."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(f"{broker.issuer}{path}", timeout=5) as response:  # noqa: S310 - http on loopback
                return response.status, json.load(response)
        except urllib.error.HTTPError as refused:
            return refused.code, json.load(refused)
        except OSError:
            assert time.monotonic() < deadline
            assert broker.process is not None
            assert broker.process.poll() is None, broker.log.read_text()
            time.sleep(0.02)


def logged(broker: RunningBroker, event: str) -> dict[str, Any]:
    """Return the last line of an event in the log."""
    lines = [json.loads(line) for line in broker.log.read_text().splitlines() if line.startswith("{")]
    found: dict[str, Any] = [line for line in lines if line["event"] == event][-1]
    return found


def test_a_damaged_ledger_does_not_keep_the_broker_down(broker: RunningBroker) -> None:
    """It says what is wrong, issues nothing, publishes its keys, and is stopped like any other."""
    with contextlib.closing(sqlite3.connect(broker.ledger)) as database, database:
        database.execute("UPDATE entries SET body = replace(body, 'init', 'tini') WHERE seq = 1")
    broker.launch()
    status, ready = answer(broker, "/readyz")
    assert (status, ready["checks"]["integrity"]) == (503, "failing")
    assert answer(broker, "/oauth2/jwks.json")[1]["keys"]
    told = logged(broker, "ledger.unsound")
    assert told["fault"] == "damaged"
    assert "entry 1 " in told["problems"][0]
    assert logged(broker, "broker.serving")["issuing"] is False
    said = broker.command("ledger", "status", expect=4)
    assert "NOT sound" in said
    assert "entry 1 " in said
    assert "put a backup in the place of the ledger" in said
    assert broker.stop() == 0
