"""When a status list is made, from what, and how often."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from broker.core.errors import Refused, Unavailable
from broker.core.policy import LONGEST_TTL
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.core.status_list import ALL, OPEN_SECONDS, TTL, marked, packed
from broker.ledger.databases.failures import unavailable
from broker.ports import Listed, Revocations
from broker.status_lists import KEPT, StatusLists
from tests.support.fakes import NOW, FakeClock

LIST = "tok_01M8QXKBGK84V1T7AXNBXWJ8BD"
ALPHA = Selector(agent="alpha")
EVERYTHING = Selector(everything=True)


@dataclass
class Tokens:
    """Knows lists with tokens of agents at places, all of epoch 1."""

    lists: dict[str, dict[str, int]] = field(default_factory=lambda: {LIST: {"alpha": 3, "beta": 8}})
    asked: list[tuple[str, tuple[float, ...]]] = field(default_factory=list)
    broken: bool = False
    gate: asyncio.Event | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def listed(self, list_id: str) -> Listed | None:
        return Listed(NOW, 1) if list_id in self.lists else None

    async def dead_in(self, list_id: str, rules: Sequence[Rule], now: float) -> bytes:
        self.asked.append((list_id, tuple(rule.rank for rule in rules)))
        assert now
        self.reached.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.broken:
            raise unavailable(OSError("disk"))
        named = {rule.selector.agent for rule in rules}
        return marked(place for agent, place in self.lists[list_id].items() if agent in named)


@dataclass
class Desk:
    """Makes lists of some tokens by some rules; what is signed is kept."""

    tokens: Tokens = field(default_factory=Tokens)
    clock: FakeClock = field(default_factory=FakeClock)
    revocations: Revocations = field(default_factory=Revocations)
    signed: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lists = StatusLists(
            issuer="https://broker.example",
            records=self.tokens,
            revocations=self.revocations,
            sign=self.sign,
            clock=self.clock,
        )

    def sign(self, payload: Mapping[str, Any], _now: float) -> str:
        self.signed.append(dict(payload))
        return str(len(self.signed) - 1)

    def rule(self, selector: Selector, number: int | None, name: str = "") -> None:
        """Put a rule in force."""
        rule = Rule(name or f"rule_{number}", selector, number, NOW, "op", "x")
        self.revocations.rules.add(rule)

    async def bits(self, list_id: str = LIST) -> str:
        """Return what a list says now."""
        return str(self.signed[int(await self.lists.current(list_id))]["status_list"]["lst"])


@pytest.fixture
def desk() -> Desk:
    """Tokens without a rule that kills them."""
    return Desk()


def lst(*places: int) -> str:
    """Return the list in which these are dead."""
    return packed(marked(places))


async def test_a_list_is_made_once_and_again_when_it_is_old(desk: Desk) -> None:
    """While there is no new rule, no ledger is asked for the new one, however often anybody asks."""
    desk.rule(ALPHA, 2)
    for _ in range(5):
        assert await desk.bits() == lst(3)
    assert (len(desk.signed), desk.tokens.asked) == (1, [(LIST, (2,))])
    desk.clock.time = NOW + TTL
    assert await desk.bits() == lst(3)
    assert (desk.signed[1]["iat"], len(desk.tokens.asked)) == (int(NOW) + TTL, 1)


async def test_a_rule_makes_it_new_at_once(desk: Desk) -> None:
    """Only rules that came since are looked up, and what was dead stays so."""
    assert await desk.bits() == lst()
    assert desk.tokens.asked == []
    desk.rule(ALPHA, 2)
    assert await desk.bits() == lst(3)
    desk.rule(Selector(agent="beta"), 3)
    assert await desk.bits() == lst(3, 8)
    assert [ranks for _, ranks in desk.tokens.asked] == [(2,), (3,)]


async def test_a_rule_that_is_not_written_counts_until_it_is_taken_back(desk: Desk) -> None:
    """It may turn out to repeat another one; nothing of it is kept."""
    assert await desk.bits() == lst()
    desk.rule(ALPHA, None, "pending")
    assert [await desk.bits(), await desk.bits()] == [lst(3), lst(3)]
    desk.revocations.rules.remove(["pending"])
    assert await desk.bits() == lst()
    desk.rule(EVERYTHING, None, "pending")
    assert await desk.bits() == packed(ALL)
    desk.revocations.rules.remove(["pending"])
    assert await desk.bits() == lst()
    desk.rule(ALPHA, 2, "pending")
    assert await desk.bits() == lst(3)


async def test_a_rule_for_everything_ends_what_was_there_before_it(desk: Desk) -> None:
    """Known or not, and without asking; a list that was begun after it has nothing to do with it."""
    desk.rule(EVERYTHING, 1)
    assert await desk.bits() == lst()
    desk.rule(EVERYTHING, 2)
    assert await desk.bits() == packed(ALL)
    desk.rule(ALPHA, 3)
    assert await desk.bits() == packed(ALL)
    assert [ranks for _, ranks in desk.tokens.asked] == [(1,)]


async def test_those_who_ask_at_once_wait_for_one_answer(desk: Desk) -> None:
    """However many: the ledger is asked once."""
    desk.rule(ALPHA, 2)
    desk.tokens.gate = asyncio.Event()
    asking = [asyncio.create_task(desk.bits()) for _ in range(20)]
    await desk.tokens.reached.wait()
    asking.pop(0).cancel()  # whoever asked first goes away: another one asks
    desk.tokens.gate.set()
    assert set(await asyncio.gather(*asking)) == {lst(3)}
    assert len(desk.signed) == 1


async def test_a_list_that_cannot_be_made_is_none(desk: Desk) -> None:
    """An old one in its place would let in what is revoked. The next who asks gets the right one."""
    assert await desk.bits() == lst()
    desk.rule(ALPHA, 2)
    desk.tokens.broken = True
    with pytest.raises(Unavailable):
        await desk.bits()
    desk.tokens.broken = False
    assert await desk.bits() == lst(3)


async def test_a_list_is_dropped_when_all_of_it_has_expired(desk: Desk) -> None:
    """No token in it can be alive then; nor is there one that nobody is in."""
    desk.clock.time = NOW + OPEN_SECONDS + LONGEST_TTL - TTL
    await desk.bits()
    desk.clock.time += TTL
    for _ in range(2):
        with pytest.raises(Refused):
            await desk.bits()
    with pytest.raises(Refused):
        await desk.bits("tok_00000000000000000000000000")


async def test_memory_has_a_bound(desk: Desk) -> None:
    """What was made the longest ago is forgotten, and made again from the ledger when it is wanted."""
    desk.tokens.lists |= {f"tok_{n:026}": {"alpha": 1} for n in range(KEPT)}
    desk.rule(ALPHA, 2)
    await desk.bits()
    for n in range(KEPT):
        await desk.bits(f"tok_{n:026}")
    assert len(desk.lists._made) == KEPT
    assert await desk.bits() == lst(3)
    assert [name for name, _ in desk.tokens.asked].count(LIST) == 2


async def test_a_clock_that_was_ahead_for_a_moment_brings_nobody_back(desk: Desk) -> None:
    """What had expired by it is looked up again, by all rules that are in force again."""
    desk.rule(ALPHA, 2)
    tokens, desk.tokens.lists = desk.tokens.lists, {LIST: {}}
    desk.clock.time = NOW + 3600
    assert await desk.bits() == lst()
    desk.clock.time, desk.tokens.lists = NOW, tokens
    assert await desk.bits() == lst(3)
    assert desk.signed[-1]["iat"] == int(NOW)


async def test_a_rule_that_is_remembered_late_counts(desk: Desk) -> None:
    """It was forgotten while the clock was ahead, and has a number that lists have passed; made meanwhile or not."""
    desk.rule(Selector(agent="beta"), 3)
    assert await desk.bits() == lst(8)
    desk.rule(ALPHA, 2)
    assert await desk.bits() == lst(3, 8)
    desk.revocations.rules.remove(["rule_2"])
    desk.lists._made.clear()
    desk.tokens.gate, desk.tokens.reached = asyncio.Event(), asyncio.Event()
    asking = asyncio.create_task(desk.bits())
    await desk.tokens.reached.wait()
    desk.rule(ALPHA, 2)
    desk.tokens.gate.set()
    await asking
    assert await desk.bits() == lst(3, 8)
