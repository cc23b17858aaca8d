"""``broker revoke --wait`` with verifiers, ``broker verifiers`` and ``broker replicas``: what operators are told."""

from __future__ import annotations

import asyncio

from broker.cli.outcome import ExitCode
from broker.cli.propagation import ahead_in_words, applied_by, refusing, unapplied
from tests.support.broker_thread import BrokerThread
from tests.support.listeners import Listener
from tests.support.shell import Shell

WHY = ("--agent", "alpha", "--reason", "prompt injection")
SEEN = {
    "applied": False,
    "replicas": 3,
    "replicas_applied": 3,
    "verifiers": 1040,
    "verifiers_applied": 1000,
    "slowest_ms": 1084,
    "waiting_for": ["payments#gw-7", "payments#gw-8"],
    "refusing": ["payments#gw-2"],
    "reason": None,
}


def listener(broker: BrokerThread, name: str, max_age: float = 15.0) -> Listener:
    """Return a verifier that the broker knows."""

    async def joined() -> Listener:
        token = await broker.app.token("gateway", "broker", "revocations:read")
        made = Listener(broker.app, token, name, max_age=max_age)
        await made.join()
        return made

    return broker.run(joined())


def test_the_receipt(shell: Shell, broker: BrokerThread) -> None:
    """It comes when every verifier has applied the rule."""
    gateway = listener(broker, "gw-1")

    async def apply() -> None:
        for _ in range(6000):
            if broker.app.services.revocations.rules.epoch:
                break
            await asyncio.sleep(0.005)
        await gateway.acknowledge()

    applying = asyncio.run_coroutine_threadsafe(apply(), broker._loop)
    done = shell("revoke", *WHY, "--wait", "30")
    applying.result(30)
    assert (done.code, done.err) == (0, "")
    assert "1 replica and 1 verifier, in " in done.out
    (entry,) = broker.entries("rule.propagated")
    told = shell("ledger", "trace", entry["ref"])
    assert "applied by 1 of 1 replicas and 1 of 1 verifiers" in told.out


def test_who_has_not_applied_it(shell: Shell, broker: BrokerThread) -> None:
    """The code tells, and the text names who it is."""
    listener(broker, "hangs", 600.0)
    done = shell("revoke", *WHY, "--wait", "0.3")
    assert done.code == ExitCode.NOT_APPLIED
    assert "1 replica and 0 of 1 verifier" in done.out
    assert "may still accept what it hits: gateway#hangs" in done.out
    assert shell("revoke", *WHY).code == 0


def test_who_refuses_by_itself(shell: Shell, broker: BrokerThread) -> None:
    """Nobody accepts what the rule hits: that is success, and it is said how it came about."""
    listener(broker, "dead", 0.1)
    done = shell("revoke", *WHY, "--wait", "30")
    assert done.code == 0
    assert "gateway#dead" in done.out
    assert "refuse everything by themselves" in done.out


def test_a_preview_tells_whom_it_has_to_get_to(shell: Shell, broker: BrokerThread) -> None:
    """Before anything is done."""
    listener(broker, "gw-1")
    assert "1 replica and 1 verifier" in shell("revoke", *WHY, "--preview").out


def test_who_is_there(shell: Shell, broker: BrokerThread) -> None:
    """With how far behind everybody is."""
    assert shell("verifiers", "list").out == "No verifier has told of itself.\n"
    listener(broker, "gw-1")
    shell("revoke", *WHY)
    header, row = shell("verifiers", "list").out.splitlines()
    assert header.split()[:4] == ["agent", "verifier", "epoch", "behind"]
    assert row.split()[:4] == ["gateway", "gw-1", "0", "1"]
    assert shell("verifiers", "list", "--json").json["verifiers"][0]["max_age"] == 15.0
    _, row = shell("replicas", "list").out.splitlines()
    assert row.split()[0] == "local"
    assert "none needed" in row
    assert shell("replicas", "list", "--json").json["replicas"][0]["lag"] == 0


def test_in_words() -> None:
    """Short where all is well, and complete where it is not."""
    assert applied_by(SEEN) == "3 replicas and 1,000 of 1,040 verifiers, in 1,084 ms"
    assert unapplied(SEEN) == (
        "Not applied yet, and may still accept what it hits: payments#gw-7, payments#gw-8 and 37 more."
        " See:  broker verifiers list"
    )
    assert str(unapplied({**SEEN, "replicas_applied": 2})).endswith("See:  broker replicas list, broker verifiers list")
    assert refusing(SEEN) == "payments#gw-2"
    assert ahead_in_words(SEEN) == "3 replicas and 1,040 verifiers"
    all_did = {**SEEN, "applied": True, "waiting_for": [], "refusing": [], "verifiers_applied": 1040}
    assert applied_by({**all_did, "slowest_ms": None}) == "3 replicas and 1,040 verifiers"
    assert (unapplied(all_did), refusing(all_did)) == (None, None)
    unknown = {**SEEN, "reason": "the ledger cannot be read"}
    assert applied_by(unknown) == ahead_in_words(unknown) == "not known: the ledger cannot be read"
    assert unapplied(unknown) == "It is not known who has applied it: the ledger cannot be read."
