"""Following rules until nobody accepts any more what they hit: waiting for that, telling of it, recording it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import replace
from math import inf
from typing import Final

from broker.background import Background
from broker.core.change import Change
from broker.core.errors import BrokerError, Unavailable
from broker.core.pacing import Timing
from broker.core.propagation import Moments, Present, Propagation, Ranking, Unknown, propagation_of
from broker.core.rules import Rule
from broker.core.tally import Places
from broker.ports import Events, Ledger, Presence, PresenceMeter, Revocations
from broker.propagation.followed import Followed
from broker.propagation.own_replica import OwnReplica
from broker.propagation.records import propagated_entry

LOOK_SECONDS: Final = 0.02
"""How often it is looked who has applied a rule, while somebody waits or it is young."""

YOUNG_SECONDS: Final = 2.0

SLOW_LOOK_SECONDS: Final = 1.0
"""How often it is looked otherwise."""

SHARE: Final = 5
"""A pause between two looks is as many times longer than the last look took: looking is a small part of the work."""

RECORD_SECONDS: Final = 60.0
"""When it is recorded how far a rule has got, although somebody may still accept what it hits."""

MAX_FOLLOWED: Final = 1_000
"""How many rules are followed at once (law 11): of more, nothing is recorded, but they can be waited for."""

REMEMBERED: Final = 1_000

ANSWER_SECONDS: Final = 0.5
"""How long an answer waits to learn who has applied a rule. A slow store must not delay a revocation."""

NOT_DURABLE: Final = "the rule is in force here, but not written yet: nobody can acknowledge it"


class Propagations:
    """Follows the rules that are made in this process, and says of all others how far they are."""

    def __init__(
        self,
        *,
        presence: Presence,
        revocations: Revocations,
        ledger: Ledger,
        own: OwnReplica,
        timing: Timing,
        meter: PresenceMeter,
        events: Events,
    ) -> None:
        """``revocations`` are the rules in force in this process, ``own`` is the replica that it belongs to."""
        self._presence = presence
        self._revocations = revocations
        self._ledger = ledger
        self._own = own
        self._timing = timing
        self._meter = meter
        self._events = events
        self._moments = Moments(revocations.rules.epoch, timing.elapsed())
        self._followed: dict[int, Followed] = {}
        self._done: OrderedDict[int, Propagation] = OrderedDict()
        self._news = asyncio.Event()
        self._looking = False
        self._places = Places()
        self._background = Background()
        self._forget_before: float | None = None

    # --- what others call -------------------------------------------------------------------------------------------

    def made(self, rule: Rule) -> None:
        """Follow a rule that was committed in this process just now, until its outcome is recorded."""
        self._heard()
        self._follow(rule, own=True)

    def news(self) -> None:
        """Look at once: somebody has applied something."""
        self._news.set()

    async def of(self, rule: Rule) -> Propagation | Unknown:
        """Return how far a rule has got. Once it is applied, it stays so."""
        if rule.number is None:
            return Unknown(NOT_DURABLE)
        done = self._done.get(rule.number)
        if done is not None:
            return done
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                seen = self._judged(rule.number, await self.present())
        except Unavailable as error:
            return Unknown(f"who has applied it is not known: {error.public}")
        except TimeoutError:
            return Unknown("who has applied it is not known: the ledger is not read in time")
        followed = self._followed.get(rule.number)
        return seen if followed is None else replace(seen, slowest=followed.slowest)

    async def ahead(self) -> Propagation | Unknown:
        """Return whom a rule would have to get to: it is as if it was made and nobody had heard of it."""
        try:
            present = await self.present()
        except Unavailable as error:
            return Unknown(f"who is there is not known: {error.public}")
        replicas, verifiers = len(present.replicas), len(present.verifiers)
        return Propagation(
            applied=False, replicas=replicas, replicas_applied=0, verifiers=verifiers, verifiers_applied=0
        )

    async def awaited(self, rule: Rule, seconds: float, by: str) -> Propagation | Unknown:
        """Return how far a rule has got as soon as it is applied, or after so many seconds.

        ``by`` is who waits. Where too many wait already, this one does not: revoking is never refused for that.
        """
        number = rule.number
        if seconds > 0 and number is not None and number not in self._done:
            with self._places.taking(by) as has_place:
                followed = self._follow(rule, own=False, at_most=inf) if has_place else None
                if followed is not None:
                    await self._wait(number, followed, seconds)
        return await self.of(rule)

    async def present(self) -> Present:
        """Return everybody who is known, this replica as it is now. Raises ``Unavailable``."""
        own, there = self._own.now(), await self._presence.present()
        known = next((each.known for each in there.replicas if each.id == own.id), own.known)
        others = [each for each in there.replicas if each.id != own.id]
        return Present([replace(own, known=known), *others], there.verifiers)

    # --- what is done again and again -------------------------------------------------------------------------------

    async def step(self) -> None:
        """Take note of rules that others made, and tell of this replica. Raises ``Unavailable``."""
        self._heard()
        await self._own.step()

    async def measure(self) -> None:
        """Show who is there and how far behind they are. Raises ``Unavailable``."""
        self._meter.present_are(await self.present(), self._revocations.rules.epoch)

    async def forget_silent(self, seconds: float) -> int:
        """Forget whoever is silent for longer than that; return how many. Raises ``Unavailable``.

        Only whoever was so at the last call as well: a clock that jumps ahead makes nobody look silent.
        """
        before, self._forget_before = self._forget_before, await self._presence.moment() - seconds
        return 0 if before is None else await self._presence.forget_silent(min(before, self._forget_before))

    async def close(self) -> None:
        """Record of every rule that is still followed how far it has got."""
        await self._background.cancel()
        if self._followed:
            try:
                await self._look(ending=True)
            except Unavailable as error:
                self._events.error("propagation.not_recorded", code=error.code.value)
        await self._own.leave()

    # --- following --------------------------------------------------------------------------------------------------

    def _heard(self) -> None:
        self._moments.note(self._revocations.rules.epoch, self._timing.elapsed())

    def _since(self, number: int) -> float:
        return self._moments.since(number, self._timing.elapsed())

    def _judged(self, number: int, present: Present) -> Propagation:
        self._heard()
        return propagation_of(number, self._since(number), present)

    def _follow(self, rule: Rule, *, own: bool, at_most: float = MAX_FOLLOWED) -> Followed | None:
        number = rule.number
        if number is None:
            return None
        followed = self._followed.get(number)
        if followed is not None:
            return followed
        if len(self._followed) >= at_most:
            return None
        followed = self._followed[number] = Followed(rule, own)
        self.news()
        if not self._looking:
            self._looking = True
            self._background.begin(self._go_on())
        return followed

    async def _wait(self, number: int, followed: Followed, seconds: float) -> None:
        followed.waiting += 1
        self.news()
        try:
            async with asyncio.timeout(seconds):
                await followed.done.wait()
        except TimeoutError:
            pass
        finally:
            followed.waiting -= 1
            if not (followed.own or followed.waiting) and len(self._followed) > MAX_FOLLOWED:
                self._followed.pop(number, None)

    async def _go_on(self) -> None:
        """Look again and again, as long as a rule is followed."""
        try:
            while self._followed:
                self._news.clear()
                began = self._timing.elapsed()
                try:
                    await self._look()
                except Unavailable:
                    await self._timing.sleep(SLOW_LOOK_SECONDS)
                    self._give_up()
                    continue
                await self._pause(self._timing.elapsed() - began)
        finally:
            self._looking = False

    async def _pause(self, took: float) -> None:
        """Wait until it is time to look again; news end that sooner, but not so soon that nothing else gets done."""
        least = min(SHARE * took, SLOW_LOOK_SECONDS)
        await self._timing.sleep(least)
        hurry = any(each.waiting or self._since(number) < YOUNG_SECONDS for number, each in self._followed.items())
        pause = LOOK_SECONDS if hurry else SLOW_LOOK_SECONDS
        try:
            async with asyncio.timeout(max(0.0, pause - least)):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _look(self, *, ending: bool = False) -> None:
        """See how far each rule has got; what has come to its end is remembered, recorded, and told to who waits.

        A rule that is made meanwhile has to wait for the next look: this one may not see who came before that rule.
        """
        looked_for = list(self._followed.items())
        present = await self.present()
        ranking = Ranking(present)
        self._heard()
        ended: list[tuple[Followed, int, float]] = []
        for number, followed in looked_for:
            since = self._since(number)
            followed.looked(ranking.behind(number), since)
            followed.shared |= not present.is_alone
            late = not followed.waiting and since >= RECORD_SECONDS
            if ranking.is_applied(number, since) or ending or late:
                ended.append((followed, number, since))
        own: list[tuple[Rule, Propagation]] = []
        for followed, number, since in ended:
            seen = replace(propagation_of(number, since, present), slowest=followed.slowest)
            self._end(number, followed, seen)
            if followed.own and followed.shared:
                own.append((followed.rule, seen))
            await asyncio.sleep(0)  # many may end at once, and others are to get on
        await asyncio.gather(*(self._record(rule, seen) for rule, seen in own))

    def _end(self, number: int, followed: Followed, seen: Propagation) -> None:
        self._followed.pop(number, None)
        if seen.applied:
            self._done[number] = seen
            if len(self._done) > REMEMBERED:
                self._done.popitem(last=False)
            if followed.own and followed.shared:
                self._meter.propagated(self._since(number))
        followed.done.set()

    def _give_up(self) -> None:
        """Follow no longer what was looked for in vain for too long."""
        for number in [number for number in self._followed if self._since(number) >= RECORD_SECONDS]:
            self._followed.pop(number).done.set()
            self._events.error("propagation.not_recorded", rule=number)

    async def _record(self, rule: Rule, seen: Propagation) -> None:
        record = propagated_entry(rule, seen, self._timing.wall())
        try:
            await self._background.to_the_end(self._ledger.commit(Change(record)))
        except BrokerError as error:
            self._events.error("propagation.not_recorded", rule=rule.id, code=error.code.value)
