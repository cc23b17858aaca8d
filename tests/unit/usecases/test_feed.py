"""The feed in one process: who is told what, and who is sent away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker.core.errors import BrokerError, Code
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.feed.follower import MAX_UNREAD, PATIENCE_SECONDS
from broker.feed.recent import MOST_AT_ONCE, REUSED_SECONDS
from tests.support.followers import FakeSink, Hall


@pytest.fixture
async def hall() -> AsyncIterator[Hall]:
    """A feed that has begun."""
    made = Hall(streams=4, streams_per_agent=3)
    made.feed.start()
    await _turn()  # it has begun to wait for its next heartbeat
    yield made
    await made.feed.close()


async def _turn() -> None:
    """Let the event loop go round."""
    for _ in range(3):
        await asyncio.sleep(0)


def _rule(number: int | None, rule_id: str | None = None, agent: str = "nobody") -> Rule:
    return Rule(rule_id or f"rule_{number}", Selector(agent=agent), number, 0.0, "x", "y")


def _kinds(sink: FakeSink) -> list[tuple[str, int | None]]:
    """Return what a sink was told: the kind of each event, and the number of a rule, else the epoch."""
    return [(name, said.rule.number if name == "rule" else said.epoch) for name, said, _ in sink.events()]


async def test_rules_that_come_together_are_sent_together_in_their_order(hall: Hall) -> None:
    """One write for each follower; the ids are the epochs after each event."""
    sink = hall.join()
    assert sink.data.startswith(b"retry: 1000\n\n")
    assert [(name, identity) for name, _, identity in sink.events()] == [("snapshot", "0"), ("heartbeat", None)]
    for number in (1, 2, 3):
        hall.rules.add(_rule(number))
    assert not sink.data
    await _turn()
    assert [(said.previous, said.rule.number, identity) for _, said, identity in sink.events()] == [
        (0, 1, "1"),
        (1, 2, "2"),
        (2, 3, "3"),
    ]
    assert hall.meter.sent == {"rule": 3}


async def test_a_rule_that_gets_its_number_in_the_same_moment_is_told_once(hall: Hall) -> None:
    """Without a number it would say less; one that stays without is told so, on top of what is told before it."""
    sink = hall.join()
    sink.events()
    hall.rules.add(_rule(None, "a"))
    hall.rules.add(_rule(None, "b"))
    hall.rules.add(_rule(1, "a"))
    await _turn()
    told = [(said.rule.id, said.rule.number, said.previous, identity) for _, said, identity in sink.events()]
    assert told == [("a", 1, 0, "1"), ("b", None, 1, None)]


async def test_a_rule_that_is_put_again_or_ends_is_no_news(hall: Hall) -> None:
    """Catching up may bring what is known."""
    hall.rules.add(_rule(1))
    sink = hall.join()
    sink.events()
    hall.rules.add(_rule(1))
    hall.rules.remove(["rule_1"])
    await _turn()
    assert sink.events() == []


async def test_heartbeats_come_at_their_pace(hall: Hall) -> None:
    """Each says the epoch and what is pending; nothing is signed while nobody follows."""
    hall.statements.trouble = Code.INTERNAL
    hall.time.advance(1.0)
    await _turn()
    hall.statements.trouble = None
    sink = hall.join()
    sink.events()
    for _ in range(3):
        hall.time.advance(1.0)
        await _turn()
    hall.rules.add(_rule(None, "a"))
    hall.feed.beat()
    assert _kinds(sink) == [("heartbeat", 0)] * 3 + [("rule", None), ("heartbeat", 0)]
    assert hall.events.lines == []


async def test_more_news_than_are_told_one_by_one_are_a_snapshot(hall: Hall) -> None:
    """At most so many statements are signed in one go."""
    sink = hall.join()
    sink.events()
    for number in range(1, MOST_AT_ONCE + 1):
        hall.rules.add(_rule(number))
    await _turn()
    assert _kinds(sink) == [("rule", number) for number in range(1, MOST_AT_ONCE + 1)]
    for number in range(MOST_AT_ONCE + 1, 2 * MOST_AT_ONCE + 2):
        hall.rules.add(_rule(number))
    await _turn()
    assert _kinds(sink) == [("snapshot", 2 * MOST_AT_ONCE + 1)]


async def test_more_pending_rules_than_can_be_named_are_a_snapshot_at_each_beat(hall: Hall) -> None:
    """It keeps a view as young as a heartbeat does."""
    sink = hall.join()
    sink.events()
    hall.statements.most_pending = 1
    hall.rules.add(_rule(None, "a"))
    hall.rules.add(_rule(None, "b"))
    hall.feed.beat()
    assert _kinds(sink) == [("rule", None), ("rule", None), ("snapshot", 0)]


async def test_what_cannot_be_signed_is_told_as_soon_as_it_can(hall: Hall) -> None:
    """Nobody is told half of it: no heartbeat before, then all of it. The log says so once."""
    sink = hall.join()
    sink.events()
    hall.statements.trouble = Code.INTERNAL
    hall.rules.add(_rule(1))
    for _ in range(3):
        hall.feed.beat()
    assert sink.events() == []
    assert [line["code"] for line in hall.events.of("feed.failed")] == ["internal"]
    with pytest.raises(BrokerError):
        hall.join()
    assert hall.feed.followers == 1
    hall.statements.trouble = None
    hall.feed.beat()
    assert _kinds(sink) == [("snapshot", 1), ("heartbeat", 1)]


async def test_nothing_is_confirmed_by_rules_that_may_be_old(hall: Hall) -> None:
    """Another process may have made a rule: what is known is told, but nothing says that it is all."""
    sink = hall.join()
    sink.events()
    hall.freshness.stale = True
    for number in range(1, 4):
        hall.rules.add(_rule(number))
        hall.time.advance(1.0)
        await _turn()
    assert _kinds(sink) == [("rule", 1), ("rule", 2), ("rule", 3)]
    for number in range(4, MOST_AT_ONCE + 10):
        hall.rules.add(_rule(number))
    await _turn()
    assert sink.events() == []
    assert {line["code"] for line in hall.events.of("feed.failed")} == {"rules_stale"}
    hall.freshness.stale = False
    hall.time.advance(1.0)
    await _turn()
    assert _kinds(sink) == [("snapshot", MOST_AT_ONCE + 9), ("heartbeat", MOST_AT_ONCE + 9)]


async def test_who_resumes_gets_statements_that_are_not_about_to_expire(hall: Hall) -> None:
    """A rule of a while ago is stated anew for whoever missed it."""
    sink = hall.join()
    hall.rules.add(_rule(1))
    await _turn()
    sink.events()
    hall.clock.time += REUSED_SECONDS - 1
    [(_, early, _), _] = hall.join(after=0).events()
    hall.clock.time += 2
    [(_, late, _), _] = hall.join(after=0).events()
    assert (early.issued_at, late.issued_at) == (int(hall.clock.time - REUSED_SECONDS - 1), int(hall.clock.time))


async def test_only_so_many_rules_are_kept(hall: Hall) -> None:
    """Whoever was away for longer gets a snapshot."""
    for number in range(1, 5 * MOST_AT_ONCE):
        hall.rules.add(_rule(number))
    hall.feed.beat()
    last = 5 * MOST_AT_ONCE - 1
    assert len(hall.feed._recent._stated) < 2 * MOST_AT_ONCE
    assert len(hall.join(after=last - MOST_AT_ONCE).events()) == MOST_AT_ONCE + 1
    assert _kinds(hall.join(after=last - MOST_AT_ONCE - 1))[0] == ("snapshot", last)


async def test_who_leaves_too_much_unread_is_dropped_and_the_others_are_told(hall: Hall) -> None:
    """Nobody waits for anybody."""
    slow, quick = hall.join(agent="a"), hall.join(agent="b")
    slow.unread = 2 * MAX_UNREAD
    hall.rules.add(_rule(1))
    await _turn()
    assert (slow.over, quick.over) == ("dropped", None)
    assert _kinds(quick)[-1] == ("rule", 1)
    assert (hall.feed.followers, hall.meter.dropped) == (1, {"slow": 1})


async def test_who_reads_too_slowly_is_dropped_after_a_while(hall: Hall) -> None:
    """A large snapshot may take its time, but not for ever; having read everything gives new time."""
    large, better = hall.join(agent="a"), hall.join(agent="b")
    for number in range(1, 3000):
        hall.rules.add(_rule(number))
    large.reads = better.reads = False
    hall.feed.beat()
    assert large.unread == better.unread > MAX_UNREAD
    for step in range(int(PATIENCE_SECONDS)):
        hall.time.elapsed += 1
        better.unread = 0 if step == 5 else 1
        hall.feed.beat()
        assert large.over is None
    hall.time.elapsed += 2
    hall.feed.beat()
    assert (large.over, better.over) == ("dropped", None)


async def test_tokens_are_looked_at_before_anything_is_sent(hall: Hall) -> None:
    """Whoever's token is revoked is not told by what; whoever's has expired hears nothing more."""
    victim, other = hall.join(agent="victim", epoch=0), hall.join(agent="other", epoch=0)
    victim.events()
    hall.rules.add(_rule(1, agent="victim"))
    await _turn()
    assert (victim.over, victim.events(), other.over) == ("ended", [], None)
    hall.clock.time += 601
    hall.feed.beat()
    assert other.over == "ended"
    assert hall.meter.dropped == {"revoked": 1, "expired": 1}
    assert hall.feed.followers == 0


async def test_room_is_for_all_and_for_each(hall: Hall) -> None:
    """One agent leaves some for others; who leaves makes room; a stop leaves none."""
    first = hall.join(agent="a")
    for _ in range(2):
        hall.join(agent="a")
    for agent, code in (("a", Code.RATE_LIMITED), ("b", None), ("b", Code.OVERLOADED)):
        if code is None:
            hall.join(agent=agent)
            continue
        with pytest.raises(BrokerError) as caught:
            hall.join(agent=agent)
        assert caught.value.code is code
    hall.feed.leave(first)
    hall.feed.leave(first)
    second = hall.join(agent="a")
    second.unread = 1
    hall.feed.end()
    assert second.over == "dropped"
    with pytest.raises(BrokerError):
        hall.feed.check_room("c")
