"""Whatever happens to rules, connections and the relays in between: who hears a heartbeat has exactly the rules."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.rules import Rule
from broker.core.selector import Selector
from tests.support.followers import FakeSink, Hall

ACTIONS = st.lists(
    st.sampled_from(["number", "jump", "pending", "settle", "withdraw", "stray", "end", "turn", "beat", "cut", "lag"]),
    min_size=5,
    max_size=60,
)


@dataclass
class Verifier:
    """What a verifier keeps, by the rules for followers; it takes a snapshot by itself when it must."""

    hall: Hall
    epoch: int | None = None
    rules: dict[str, int | None] = field(default_factory=dict)
    sink: FakeSink = field(default_factory=FakeSink)
    asked: int = 0

    def connect(self) -> None:
        self.sink = self.hall.join(after=self.epoch)

    def hear(self) -> bool:
        """Take everything that has come; returns whether the last of it proves that the view is complete."""
        current = False
        for name, said, _ in self.sink.events():
            if name == "snapshot":
                self.take(said)
                current = said.epoch == self.epoch
            elif name == "rule":
                current = False
                self.add(said)
            else:
                pending = {rule_id for rule_id, number in self.rules.items() if number is None}
                current = said.epoch == self.epoch and said.pending == pending
                if not current:
                    self.ask()
        return current

    def take(self, snapshot: Any) -> None:  # noqa: ANN401 - a snapshot
        if self.epoch is not None and snapshot.epoch < self.epoch:
            return  # it had a later one meanwhile, and never goes back
        self.epoch = snapshot.epoch
        self.rules = {rule.id: rule.number for rule in snapshot.rules.live()}

    def add(self, said: Any) -> None:  # noqa: ANN401 - a rule
        if said.rule.number is not None and said.rule.number <= (self.epoch or 0):
            return
        if said.previous != self.epoch:
            self.ask()
            return
        self.rules[said.rule.id] = said.rule.number
        self.epoch = said.epoch

    def ask(self) -> None:
        """Fetch the snapshot, as it is now."""
        self.asked += 1
        probe = self.hall.join()
        self.take(probe.events()[0][1])
        self.hall.feed.leave(probe)


class Play:
    """Rules that come and go, and two who follow: one is cut off now and then, one hears late."""

    def __init__(self) -> None:
        self.hall = Hall()
        self.verifiers = [Verifier(self.hall), Verifier(self.hall)]
        self.made = 0
        self.numbers: set[int] = set()
        self.withdrawn = False

    async def act(self, action: str) -> None:
        self.made += 1
        if action == "turn":
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        elif action == "beat":
            self.hall.feed.beat()
        elif action == "cut":
            self.verifiers[0].hear()
            self.hall.feed.leave(self.verifiers[0].sink)
            self.verifiers[0].connect()
        elif action == "lag":
            self.verifiers[1].hear()
        else:
            self.change(action)

    def change(self, action: str) -> None:
        rules = self.hall.rules
        pending, known = rules.pending(), [rule for rule in rules.live() if rule.number is not None]
        match action:
            case "number":
                self.put(rules.epoch + 1)
            case "jump":
                self.put(rules.epoch + 1000)
            case "pending":
                self.put(None)
            case "settle" if pending:
                self.put(rules.epoch + 1, pending[0].id)
            case "withdraw" if pending:
                self.withdrawn = True
                rules.remove([pending[-1].id])
            case "stray" if rules.epoch > len(self.numbers):
                self.put(next(number for number in range(rules.epoch, 0, -1) if number not in self.numbers))
            case "end" if known:
                rules.remove([known[0].id])
            case _:
                pass  # there is nothing to change in this way

    def put(self, number: int | None, rule_id: str | None = None) -> None:
        name = rule_id or f"rule_{self.made:05}"
        if number is not None:
            self.numbers.add(number)
        self.hall.rules.add(Rule(name, Selector(token=name), number, 0.0, "x", "y"))

    def check(self) -> None:
        """After one more heartbeat everybody has every live rule, as the broker has it."""
        self.hall.feed.beat()
        rules = self.hall.rules
        for verifier in self.verifiers:
            if not verifier.hear():
                self.hall.feed.beat()
                assert verifier.hear()
            assert verifier.epoch == rules.epoch
            live = {rule.id: rule.number for rule in rules.live()}
            assert live.items() <= verifier.rules.items()
            assert {name for name, number in verifier.rules.items() if number is None} == {
                rule.id for rule in rules.pending()
            }


@settings(max_examples=200, deadline=None)
@given(ACTIONS)
def test_a_heartbeat_is_only_believed_by_who_has_every_rule(actions: list[str]) -> None:
    """And who follows without a break need not ask for a snapshot unless a rule was withdrawn."""

    async def run() -> None:
        play = Play()
        play.hall.feed.start()
        for verifier in play.verifiers:
            verifier.connect()
        for action in actions:
            await play.act(action)
        play.check()
        assert play.withdrawn or play.verifiers[1].asked == 0
        await play.hall.feed.close()

    asyncio.run(run())
