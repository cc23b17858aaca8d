"""``broker revoke`` where it hits leases: what it says of them, and waiting until each has its outcome."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from broker.cli import lease_outcomes
from broker.cli.outcome import ExitCode
from broker.core.errors import BackendFailed, Code
from tests.support.broker_app import Template, make_template
from tests.support.broker_thread import BrokerThread, broker_thread
from tests.support.leases import LEASING, POLICY, leasing_token, reaping, take
from tests.support.scripted_backend import ScriptedBackend, nothing, raising, waiting
from tests.support.shell import Shell

QUICK = "\n[leases]\nattempts = 2\nfirst_pause_seconds = 0.05\nlongest_pause_seconds = 0.1\n"
REFUSED = BackendFailed(Code.BACKEND_REFUSED, "the role cannot be dropped")
WHY = ("--reason", "prompt injection")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker that gives up soon."""
    made = make_template(tmp_path_factory.mktemp("wait") / "broker", POLICY, LEASING)
    with (made.folder / "broker.toml").open("a") as file:
        file.write(QUICK)
    return made


@pytest.fixture
def backend() -> ScriptedBackend:
    """A backend that does as it is told."""
    return ScriptedBackend()


@pytest.fixture
def broker(
    template: Template, tmp_path: Path, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BrokerThread]:
    """A running broker on it, with its reaper."""
    with broker_thread(template, tmp_path / "home", own_backends={"local": backend}) as running:
        monkeypatch.setenv("BROKER_CONFIG", str(running.config))
        monkeypatch.setenv("BROKER_PORT", str(running.port))
        stack = AsyncExitStack()
        running.run(stack.enter_async_context(reaping(running.app)))
        yield running
        running.run(stack.aclose())


def take_leases(broker: BrokerThread, number: int, secret: str = "db") -> list[str]:
    """Take leases for ``alpha``."""

    async def run() -> list[str]:
        token = await leasing_token(broker.app)
        replies = [await take(broker.app, token, secret) for _ in range(number)]
        return [reply.json["lease_id"] for reply in replies]

    return broker.run(run())


def test_a_preview_tells_what_the_backends_can_do(shell: Shell, broker: BrokerThread, backend: ScriptedBackend) -> None:
    """How many they can end, how many only expire, and when; nothing is touched."""
    take_leases(broker, 2)
    backend.revocable, backend.seconds = False, 600
    take_leases(broker, 1)
    told = shell("revoke", "--secret", "db", "--preview")
    assert told.code == 0
    assert "3, 2 of which can be ended" in told.out
    assert "the others expire by" in told.out
    answer = shell("revoke", "--secret", "db", "--preview", "--json").json
    leases = answer["hits"]["leases"]
    assert (leases["revocable"], leases["expires_only"]) == (2, 1)
    assert leases["latest_expiry"] is not None
    assert len(backend.alive) == 3


def test_it_waits_until_every_lease_has_its_outcome(shell: Shell, broker: BrokerThread) -> None:
    """Then it says that they are revoked, and succeeds."""
    take_leases(broker, 4)
    done = shell("revoke", "--agent", "alpha", *WHY, "--wait", "30")
    assert done.code == 0, done.err
    assert "4 revoked" in done.out
    assert "leases: 4 revoked" in done.err.splitlines()[-1]
    assert "retrying" not in done.out


def test_json_has_the_outcomes_and_nothing_beside(shell: Shell, broker: BrokerThread) -> None:
    """Programs get one answer, and no lines of progress."""
    take_leases(broker, 2)
    done = shell("revoke", "--backend", "local", *WHY, "--wait", "30", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["leases"] == {"revoked": 2, "retrying": 0, "expires_only": 0, "stuck": 0, "abandoned": 0}


def test_what_is_stuck_is_no_success(shell: Shell, broker: BrokerThread, backend: ScriptedBackend) -> None:
    """The code says that somebody must act, and the text where to look."""
    [lease] = take_leases(broker, 1)
    backend.before["revoke"] = raising(REFUSED)
    done = shell("revoke", "--lease", lease, *WHY, "--wait", "30")
    assert done.code == 8
    assert "1 stuck" in done.out
    assert "broker leases list --state stuck" in done.out
    assert lease in backend.alive


def test_it_waits_no_longer_than_it_is_told(shell: Shell, broker: BrokerThread, backend: ScriptedBackend) -> None:
    """What is still being tried at the end is no success either; it goes on all the same."""
    take_leases(broker, 2)
    gate = asyncio.Event()
    backend.before["revoke"] = waiting(gate)
    done = shell("revoke", "--agent", "alpha", *WHY, "--wait", "0.5", "--json")
    assert done.code == ExitCode.NOT_CONFIRMED
    assert done.json["leases"]["retrying"] == 2
    backend.before["revoke"] = nothing

    async def release() -> None:
        gate.set()

    broker.run(release())
    again = shell("revoke", "--agent", "alpha", *WHY, "--wait", "30", "--json")
    assert (again.code, again.json["leases"]["retrying"]) == (0, 0)


def test_what_only_expires_has_its_outcome(shell: Shell, broker: BrokerThread, backend: ScriptedBackend) -> None:
    """Nobody can do more about it; the text says until when it is good."""
    backend.revocable, backend.seconds = False, 600
    take_leases(broker, 1)
    done = shell("revoke", "--agent", "alpha", *WHY, "--wait", "30")
    assert done.code == 0
    assert "1 expires only" in done.out
    assert "the others expire by" in done.out


def test_without_leases_there_is_nothing_to_wait_for(shell: Shell, broker: BrokerThread) -> None:
    """It is over at once."""
    done = shell("revoke", "--agent", "nobody", *WHY, "--wait", "30", "--json")
    assert (done.code, done.json["hits"]["leases"]["revocable"]) == (0, 0)


def test_a_preview_has_nothing_to_wait_for(shell: Shell, broker: BrokerThread) -> None:
    """The two do not go together."""
    done = shell("revoke", "--agent", "alpha", "--preview", "--wait", "1")
    assert (done.code, done.out) == (ExitCode.USAGE, "")
    assert "--wait" in done.err


def test_whoever_may_not_look_is_told_that_it_is_not_known(
    template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Shell
) -> None:
    """The rule is in force; what becomes of the leases nobody says."""
    backend = ScriptedBackend(before={"revoke": waiting(asyncio.Event())})
    policy = template.folder / "policy.yaml"
    text = policy.read_text()
    try:
        policy.write_text(text.replace('"operator:read", "revocations:write"', '"revocations:write"'))
        with broker_thread(template, tmp_path / "home", own_backends={"local": backend}) as broker:
            monkeypatch.setenv("BROKER_CONFIG", str(broker.config))
            monkeypatch.setenv("BROKER_PORT", str(broker.port))
            take_leases(broker, 1)
            done = shell("revoke", "--agent", "alpha", *WHY, "--wait", "5")
            assert done.code == ExitCode.NOT_CONFIRMED
            assert "not known" in done.err
            assert broker.entries("rule.added")
    finally:
        policy.write_text(text)


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        """Always."""
        return True


def test_a_bar_for_whoever_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal it shows how many of them have an outcome."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with lease_outcomes.progress(quiet=False) as tell:
        tell({"revoked": 3, "expires_only": 0, "stuck": 1, "abandoned": 0, "retrying": 8})
        tell({"revoked": 11, "expires_only": 0, "stuck": 1, "abandoned": 0, "retrying": 0})
    shown = screen.getvalue()
    assert "12/12" in shown
    assert "11 revoked, 1 stuck" in shown
