"""Law 2, through the real ledger: no grant commits after a revocation that covers it, whatever the interleaving."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.core.errors import EpochMoved
from broker.core.rules import Rule
from broker.core.selector import Selector
from tests.support.ledgers import NOW, Bench, added, issued, opened

AGENTS = ("a", "b", "c")


@dataclass
class History:
    """What was acknowledged: token by token with its epoch and place, rule by rule with its place."""

    tokens: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    rules: dict[int, tuple[Selector, int]] = field(default_factory=dict)
    released_dead: list[str] = field(default_factory=list)


agents = st.sampled_from(AGENTS)
pauses = st.integers(0, 3)
issuers = st.lists(st.lists(st.tuples(agents, pauses, pauses), max_size=8), min_size=1, max_size=6)
selectors = st.one_of(agents.map(lambda agent: Selector(agent=agent)), st.just(Selector(everything=True)))
revokers = st.lists(st.lists(st.tuples(selectors, pauses, pauses), max_size=4), min_size=1, max_size=3)


@given(issuers, revokers)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_token_is_committed_after_a_rule_that_covers_it(
    issuing: list[list[tuple[str, int, int]]], revoking: list[list[tuple[Selector, int, int]]]
) -> None:
    """Tokens and rules race. Every token that stands after a covering rule in the ledger has that rule's epoch."""
    history = History()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(race(Path(folder) / "ledger.db", issuing, revoking, history))
    for agent, epoch, seq in history.tokens.values():
        for number, (selector, at) in history.rules.items():
            covered = selector.everything or selector.agent == agent
            assert not (covered and seq > at and epoch < number)
            # Stronger, and what makes the epoch exact: it is how many rules stand before the token, no more, no less.
            assert (seq > at) == (epoch >= number)
    assert history.released_dead == []


async def race(
    path: Path,
    issuing: list[list[tuple[str, int, int]]],
    revoking: list[list[tuple[Selector, int, int]]],
    history: History,
) -> None:
    """Run all issuers and revokers at once, then verify the whole ledger."""
    async with opened(path) as bench:
        await asyncio.gather(
            *(issue(bench, f"{worker}", steps, history) for worker, steps in enumerate(issuing)),
            *(revoke(bench, f"{worker}", steps, history) for worker, steps in enumerate(revoking)),
        )
        report = await bench.verified()
        assert report.epoch == len(history.rules) == bench.epoch
        assert report.size == len(history.rules) + len(history.tokens)


async def issue(bench: Bench, worker: str, steps: list[tuple[str, int, int]], history: History) -> None:
    """Decide at an epoch, dawdle, commit; decide again when the epoch moved. As issuing does."""
    for number, (agent, before, between) in enumerate(steps):
        await pause(before)
        ref = f"tok_{worker}_{number}"
        while True:
            epoch = bench.epoch
            await pause(between)
            try:
                receipt = await bench.ledger.commit(issued(ref, epoch, agent=agent))
            except EpochMoved:
                assert bench.epoch > epoch, "the rules that moved the epoch must be known by now"
                continue
            history.tokens[ref] = (agent, epoch, receipt.seq)
            break


async def revoke(bench: Bench, worker: str, steps: list[tuple[Selector, int, int]], history: History) -> None:
    """Add a rule at the next number; when another rule took it, at the one after. As revoking does."""
    for number, (selector, before, between) in enumerate(steps):
        await pause(before)
        rule_id = f"rule_{worker}_{number}"
        while True:
            taken = bench.epoch + 1
            await pause(between)
            try:
                receipt = await bench.ledger.commit(added(Rule(rule_id, selector, taken, NOW, "op", "because")))
            except EpochMoved:
                continue
            history.rules[taken] = (selector, receipt.seq)
            # From this moment on, every earlier token that it covers is dead by the shared index.
            for ref, (agent, epoch, _) in list(history.tokens.items()):
                covered = selector.everything or selector.agent == agent
                if covered and epoch < taken and bench.revocations.rules.killer([("agent", agent)], epoch) is None:
                    history.released_dead.append(ref)
            break


async def pause(turns: int) -> None:
    """Let the others run, some turns of the loop; three are a real wait, in which a batch is synced."""
    for _ in range(turns):
        await asyncio.sleep(0.001 if turns == 3 else 0)
