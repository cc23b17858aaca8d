"""Receipts from a real broker process that is killed: who is there is remembered, and waited for."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.cli.outcome import ExitCode
from broker.core.marks import PURPOSE, mark_of
from broker.signing.master_key import KeyFile, load_master_key
from broker.signing.sealing import derived_key
from tests.support.running_broker import RunningBroker

PATIENCE = 60.0
SCOPES = ("revocations:read", "operator:read", "ledger:read")

Call = Callable[..., Any]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """A running broker; whatever runs at the end is killed."""
    running = RunningBroker(tmp_path)
    running.initialise()
    running.start()
    yield running
    running.kill()


@pytest.fixture
def call(broker: RunningBroker) -> Call:
    """Return what calls the broker's API as a verifier that may look as well; with a body, it posts."""
    key = ("--agent", "operator", "--key", str(broker.home / "operator.pem"))
    scopes = (word for scope in SCOPES for word in ("--scope", scope))
    token = broker.ask("token", *key, "--audience", f"{broker.issuer}/v1", *scopes)["access_token"]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def request(path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        sent = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{broker.issuer}/v1/{path}", sent, headers)  # noqa: S310 - http on loopback
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:  # noqa: S310 - as above
            return json.loads(reply.read() or b"null")

    return request


def acknowledge(broker: RunningBroker, call: Call, epoch: int) -> None:
    """Say that a verifier has applied an epoch, and wait until the broker remembers it."""
    marks_key = derived_key(load_master_key(KeyFile(broker.home / "master.key")), PURPOSE).reveal()
    mark = mark_of(marks_key, epoch)
    call("revocations/acks", {"verifier": "gw-1", "epoch": epoch, "mark": mark, "max_age": 600})
    until(lambda: [each["epoch"] for each in call("verifiers")["verifiers"]] == [epoch])


def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_kill_forgets_nobody(broker: RunningBroker, call: Call) -> None:
    """A verifier that acknowledged before the kill is waited for after it, until it says so; and that is recorded."""
    acknowledge(broker, call, 0)
    broker.kill()
    broker.start()
    order = ("--agent", "alpha", "--reason", "test", "--wait", "0.3")
    told = broker.command("revoke", *order, expect=ExitCode.NOT_APPLIED)
    assert "may still accept what it hits: operator#gw-1" in told
    acknowledge(broker, call, 1)
    until(lambda: call("ledger/entries?kind=rule.propagated")["entries"])
    seen = call("revocations/1")["propagation"]
    assert (seen["applied"], seen["verifiers_applied"]) == (True, 1)
    assert broker.stop() == 0
    broker.command("ledger", "verify")
