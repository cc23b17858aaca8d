"""Telling everybody who follows: rules at once, heartbeats at their pace, and to newcomers where things stand.

Rules go out in the turn of the event loop after the one that put them in force, or in a storm a moment later, so that
many that come together are sent together. What is sent is always the whole difference from what was sent before; when
that cannot be said, or would be too much, everybody gets a snapshot.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from broker.background import Background
from broker.core.errors import BrokerError, Code, Unavailable
from broker.core.pacing import Timing
from broker.core.rules import Rule
from broker.feed.event import HEARTBEAT, RETRY, RULE, SNAPSHOT, event
from broker.feed.follower import SLOW, Follower, Sink, follower_of
from broker.feed.recent import MOST_AT_ONCE, Recent, Stated
from broker.ports import Admitted, Clock, Events, FeedMeter, Freshness, Revocations, Statements

RETRY_SECONDS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedBounds:
    """How often a heartbeat is sent (seconds), and how many may follow: of all agents together, and of one."""

    heartbeat_seconds: float = 1.0
    streams: int = 2048
    streams_per_agent: int = 1024


class Feed:
    """The feed of one process. Belongs to one event loop."""

    def __init__(  # noqa: PLR0913 - a composition root passes each port by name
        self,
        *,
        revocations: Revocations,
        freshness: Freshness,
        statements: Statements,
        bounds: FeedBounds,
        clock: Clock,
        timing: Timing,
        meter: FeedMeter,
        events: Events,
    ) -> None:
        """``revocations`` are the rules in force in this process; nobody is told anything before :meth:`start`."""
        self._revocations = revocations
        self._freshness = freshness
        self._statements = statements
        self._bounds = bounds
        self._clock = clock
        self._timing = timing
        self._meter = meter
        self._events = events
        self._followers: dict[Sink, Follower] = {}
        self._per_agent: Counter[str] = Counter()
        self._recent = Recent()
        self._news: list[Stated] = []
        self._stated = ("", b"")
        self._gap = False
        self._broken_at = -1
        self._failing = False
        self._ended = False
        self._scheduled = False
        self._free_at = 0.0
        self._background = Background()

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to listen for rules, and to beat."""
        self._revocations.rules.watch(self._in_force)
        self._background.begin(self._beat_on())

    def end(self) -> None:
        """Send everybody away, so that they go elsewhere; nobody may follow any more."""
        self._ended = True
        for follower in tuple(self._followers.values()):
            if follower.sink.unread:
                follower.sink.drop()
            else:
                follower.sink.end()

    async def close(self) -> None:
        """End, and stop to beat."""
        self.end()
        await self._background.cancel()

    @property
    def followers(self) -> int:
        """How many follow."""
        return len(self._followers)

    # --- those who follow -------------------------------------------------------------------------------------------

    def check_room(self, agent: str) -> None:
        """Raise ``BrokerError`` unless one more of an agent may follow: ``RATE_LIMITED``, ``OVERLOADED``."""
        if self._per_agent[agent] >= self._bounds.streams_per_agent:
            raise BrokerError(Code.RATE_LIMITED, "this agent follows too often already", retry_after=RETRY_SECONDS)
        if self._ended or len(self._followers) >= self._bounds.streams:
            raise Unavailable(Code.OVERLOADED, "too many follow the feed", retry_after=RETRY_SECONDS)

    def join(self, sink: Sink, admitted: Admitted, after: int | None) -> None:
        """Tell a newcomer where things stand, and from then on everything: no rule falls in between.

        It gets the rules ``after`` an epoch that it has, if they are here without a gap, else a snapshot; then a
        heartbeat. The rules must be fresh when this is called. Raises ``BrokerError`` like :meth:`check_room`, or if
        nothing can be signed.
        """
        self.check_room(admitted.agent.id)
        self._tell_news()  # whatever follows must follow on what the newcomer is told here
        now = self._clock.now()
        missed = None if after is None else self._missed(after, now)
        start = self._snapshot(now) if missed is None else missed
        follower = follower_of(sink, admitted)
        heartbeat = self._heartbeat(now)
        for part in (RETRY, start, heartbeat):  # a large snapshot is the same bytes for everybody
            follower.tell(part)
        self._followers[sink] = follower
        self._per_agent[follower.agent] += 1

    def leave(self, sink: Sink) -> None:
        """Forget one who has gone, or has never come."""
        follower = self._followers.pop(sink, None)
        if follower is None:
            return
        self._per_agent[follower.agent] -= 1
        if not self._per_agent[follower.agent]:
            del self._per_agent[follower.agent]

    # --- telling ----------------------------------------------------------------------------------------------------

    def beat(self) -> None:
        """Tell what is new, and that this is all."""
        self._tell_news()
        if self._gap or not self._followers:
            return
        try:
            self._tell(HEARTBEAT, self._heartbeat(self._clock.now()))
        except BrokerError as error:
            self._failed(error)

    async def _beat_on(self) -> None:
        while True:
            await self._timing.sleep(self._bounds.heartbeat_seconds)
            await self._once_fresh(self.beat)

    async def _once_fresh(self, tell: Callable[[], None]) -> None:
        """Tell what makes views younger once everything is known that any process has committed, else tell nothing."""
        try:
            await self._freshness.ensure()
            tell()
        except BrokerError as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001 - those who follow refuse when they hear nothing; it must go on
            self._events.error("feed.failed", exc_info=error)

    def _in_force(self, rule: Rule, before: int) -> None:
        """A rule has come into force, or has got its number."""
        if rule.number is None:
            self._news.append(Stated(rule, before))
        elif rule.number > before:
            self._news.append(self._recent.add(rule, before))
        else:
            self._lose_track()
        if not self._scheduled and self._followers:
            self._scheduled = True
            pause = max(0.0, self._free_at - self._timing.elapsed())
            asyncio.get_running_loop().call_later(pause, self._tell_soon)

    def _tell_soon(self) -> None:
        """Send the news: rules at once, a snapshot only if it is as new as it says."""
        self._scheduled = False
        if self._needs_snapshot():
            self._background.begin(self._once_fresh(self._tell_and_pause))
        else:
            self._tell_and_pause()

    def _tell_and_pause(self) -> None:
        """Send the news, then pause for as long as that took: a storm of rules leaves half of the time to others."""
        began = self._timing.elapsed()
        self._tell_news()
        ended = self._timing.elapsed()
        self._free_at = ended + (ended - began)

    def _tell_news(self) -> None:
        """Send what came into force since the last time."""
        snapshot = self._needs_snapshot()
        news, self._news = self._news, []
        if not self._followers:
            self._gap = False  # whoever comes is told where things stand
            return
        try:
            if snapshot:
                self._tell(SNAPSHOT, self._snapshot(self._clock.now()))
                self._gap = False
            elif news:
                self._tell_rules(news)
        except BrokerError as error:
            self._gap = True
            self._failed(error)
        else:
            self._failing = False

    def _needs_snapshot(self) -> bool:
        return self._gap or len(self._news) > MOST_AT_ONCE

    def _tell_rules(self, news: list[Stated]) -> None:
        """Send rules one by one: those with numbers in their order, then those that still have none."""
        now, rules = self._clock.now(), self._revocations.rules
        numbered = [stated for stated in news if stated.rule.number is not None]
        still = (rules.get(stated.rule.id) for stated in news if stated.rule.number is None)
        pending = [Stated(rule, rules.epoch) for rule in still if rule is not None and rule.number is None]
        told = [stated.event(self._statements.rule, now) for stated in (*numbered, *pending)]
        if told:
            self._tell(RULE, b"".join(told), len(told))

    def _tell(self, name: str, data: bytes, count: int = 1) -> None:
        """Send something to everybody whose token is good, and who reads."""
        now, elapsed, rules = self._clock.now(), self._timing.elapsed(), self._revocations.rules
        told = 0
        for follower in tuple(self._followers.values()):
            why = follower.why_over(rules, now) or (SLOW if follower.is_slow(elapsed) else None)
            if why is None:
                follower.tell(data)
                told += 1
            else:
                self.leave(follower.sink)
                follower.leave(why)
                self._meter.unfollowed(why)
        self._meter.fed(name, told * count)

    def _lose_track(self) -> None:
        """Take note that something is new that cannot be told as the next rule."""
        self._gap = True
        self._broken_at = self._revocations.rules.epoch
        self._recent.clear()

    def _failed(self, error: BrokerError) -> None:
        """Say once that nobody can be told anything; they refuse by themselves meanwhile."""
        if not self._failing:
            self._events.error("feed.failed", code=error.code.value)
        self._failing = True

    # --- what is told -----------------------------------------------------------------------------------------------

    def _missed(self, after: int, now: float) -> bytes | None:
        """Return the rules after an epoch, or None if they cannot be told one by one."""
        if after <= self._broken_at:
            return None
        rules = self._revocations.rules
        numbered = [] if after == rules.epoch else self._recent.after(after)
        pending = rules.pending()
        if numbered is None or len(numbered) + len(pending) > MOST_AT_ONCE:
            return None
        stated = (*numbered, *(Stated(rule, rules.epoch) for rule in pending))
        return b"".join(one.event(self._statements.rule, now) for one in stated)

    def _snapshot(self, now: float) -> bytes:
        statement = self._statements.snapshot(now)
        if self._stated[0] is not statement:
            self._stated = (statement, event(SNAPSHOT, statement, self._revocations.rules.epoch))
        return self._stated[1]

    def _heartbeat(self, now: float) -> bytes:
        """Return what says that this is all: a snapshot does, if there are more pending rules than can be named."""
        try:
            return event(HEARTBEAT, self._statements.heartbeat(now))
        except Unavailable as error:
            if error.code is not Code.OVERLOADED:
                raise
            return self._snapshot(now)
