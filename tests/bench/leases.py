"""Leases: how fast they are taken through the broker, and how fast one rule ends a thousand of them."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from tests.bench.lease_ground import LeaseGround, Taken

ROUNDS = 3
LEASES = 300
MANY = 1_000
CONNECTIONS = 16
GIVE_UP_SECONDS = 300.0
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Ended:
    """One rule: how many seconds it took until the answer, and until the last lease was confirmed."""

    answered: float
    confirmed: float
    outcomes: dict[str, int]


def measure(folder: Path, table: Table) -> None:
    """Add the rows about leases."""
    with LeaseGround(folder) as ground:
        _taking(ground, table)
        _ending(ground, table)
        _one_stuck(ground, table)


def _taking(ground: LeaseGround, table: Table) -> None:
    """Take leases through the broker, in turn with reading the same from OpenBao."""
    through: list[Taken] = []
    direct: list[Taken] = []
    ground.take(LEASES, connections=CONNECTIONS)  # signs in, and warms up
    for _ in range(ROUNDS):
        ground.clear()
        direct.append(ground.take_directly(LEASES, connections=CONNECTIONS))
        ground.clear()
        through.append(ground.take(LEASES, connections=CONNECTIONS))
    _revoke(ground)
    table.add_row("OpenBao's database credentials, read directly", _rates(direct), "1.00", "itself")
    ratio = statistics.median(t.per_second for t in through) / statistics.median(t.per_second for t in direct)
    table.add_row("the same, leased through the broker", _rates(through), f"{ratio:.2f}", "reading directly")


def _ending(ground: LeaseGround, table: Table) -> None:
    """One rule over a thousand live leases, in turn with OpenBao's own command over as many."""
    ours: list[Ended] = []
    theirs: list[float] = []
    for _ in range(ROUNDS):
        ground.rest()
        ground.take_directly(MANY, connections=CONNECTIONS)
        ground.take(MANY, connections=CONNECTIONS)
        theirs.append(ground.revoke_prefix())
        _expect(ground.accounts(), MANY)
        ended = _revoke(ground)
        _expect((ended.outcomes["revoked"], ground.accounts()), (MANY, 0))
        ours.append(ended)
    base = statistics.median(theirs)
    table.add_row(f"bao lease revoke -prefix -sync, {MANY:,} leases", _seconds(theirs), "1.00", "itself")
    answered = [ended.answered for ended in ours]
    table.add_row(f"one rule, {MANY:,} live leases: answered", _seconds(answered), _ratio(answered, base), "bao")
    confirmed = [ended.confirmed for ended in ours]
    table.add_row("  the last one confirmed by OpenBao", _seconds(confirmed), _ratio(confirmed, base), "bao")


def _one_stuck(ground: LeaseGround, table: Table) -> None:
    """A lease whose revocation fails holds up none of the others."""
    stuck = ground.take_unrevocable()
    ground.take(MANY - 1, connections=CONNECTIONS)
    ended = _revoke(ground, stuck=1)
    _expect((ended.outcomes["revoked"], ended.outcomes["stuck"], ground.accounts()), (MANY - 1, 1, 1))
    reason = str(ground.ask("GET", f"/v1/leases/{stuck}", ground.operator())["last_error"])
    figure = f"{ended.outcomes['revoked']} revoked, 1 stuck: {reason}"
    table.add_row(f"one rule, {MANY:,} live leases, one of them unrevocable", figure, "", "")


def _revoke(ground: LeaseGround, *, stuck: int = 0) -> Ended:
    """Revoke the agents, and wait until nothing is left to be tried again, and so many are stuck."""
    token = ground.operator()
    body = {"selector": {"role": "workers"}, "reason": "benchmark"}
    before = time.perf_counter()
    rule = ground.ask("POST", "/v1/revocations", token, body)
    answered = time.perf_counter() - before
    while True:
        outcomes: dict[str, int] = ground.ask("GET", f"/v1/revocations/{rule['rule']}", token)["leases"]
        elapsed = time.perf_counter() - before
        if outcomes["retrying"] == 0 and outcomes["stuck"] == stuck:
            return Ended(answered, elapsed, outcomes)
        if elapsed > GIVE_UP_SECONDS:
            msg = f"after {elapsed:.0f} s: {outcomes}"
            raise RuntimeError(msg)
        time.sleep(POLL_SECONDS)


def _expect(found: object, wanted: object) -> None:
    if found != wanted:
        msg = f"{found} instead of {wanted}"
        raise RuntimeError(msg)


def _rates(rounds: list[Taken]) -> str:
    rates = [taken.per_second for taken in rounds]
    return f"{statistics.median(rates):,.0f}/s ({min(rates):,.0f} to {max(rates):,.0f})"


def _seconds(rounds: list[float]) -> str:
    return f"{statistics.median(rounds):.2f} s ({min(rounds):.2f} to {max(rounds):.2f})"


def _ratio(rounds: list[float], base: float) -> str:
    return f"{statistics.median(rounds) / base:.2f}"
