"""Revoking: one rule ends any set of credentials at once; a block also refuses new ones (law 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from broker.background import Background
from broker.core.change import BlockInForce, Change, LiftBlock
from broker.core.entry import Kind, entry
from broker.core.errors import BrokerError, Code, EpochMoved, GuardFailed, Refused, Unavailable
from broker.core.revoking import BlockFor, Making, Numbers, Order, check_text, making
from broker.core.rules import Block, Rule
from broker.core.selector import Selector
from broker.ports import Caller, Clock, Events, Hits, Ids, Ledger, Meter, Records, Revocations, Siblings

__all__ = ["BlockFor", "Order", "Outcome", "Revocation"]

COUNTING_BOUND: Final = 0.002
"""Seconds that an answer waits for the count of what a rule hit. The rule itself never waits for it."""

LOOKUP_BOUND: Final = 0.05
"""Seconds that a revocation waits to learn whether it was made before. A slow store must not delay it: the guard in the
transaction is what makes an idempotency key exact, the look-up only answers a repeated request sooner."""

TELL_SECONDS: Final = 0.05
"""How long a rule may take to become durable before the other processes are told of it; then the ledger tells them."""

MAX_ATTEMPTS: Final = 1000
"""How often one rule is given the next number because others got in between, before it is left to be written later."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a revocation did. ``hits`` is None if not counted yet; ``durable`` False means: in force in memory."""

    rule: Rule
    block: Block | None
    hits: Hits | None
    durable: bool


class Revocation:
    """Makes rules and blocks, lifts blocks, and previews."""

    def __init__(  # noqa: PLR0913 - a composition root passes each port by name
        self,
        *,
        revocations: Revocations,
        siblings: Siblings,
        ledger: Ledger,
        records: Records,
        clock: Clock,
        ids: Ids,
        meter: Meter,
        events: Events,
    ) -> None:
        """``revocations`` are the rules in force in this process; ``siblings`` the other processes of the ledger."""
        self._siblings = siblings
        self._revocations = revocations
        self._ledger = ledger
        self._records = records
        self._clock = clock
        self._ids = ids
        self._meter = meter
        self._events = events
        self._tell: Callable[[Rule], None] = lambda _rule: None
        self._numbers = Numbers()
        self._unwritten: dict[str, Making] = {}
        self._others: set[str] = set()
        """Which of the unwritten rules another process writes."""
        self._shared: set[str] = set()
        self._late = asyncio.Lock()
        self._background = Background()

    def observe(self, made: Callable[[Rule], None]) -> None:
        """Tell ``made`` of each rule from now on, as soon as it is durable."""
        self._tell = made

    async def preview(self, selector: Selector) -> Hits:
        """Count what a rule with this selector would kill now. Changes nothing."""
        return await self._records.hits(selector, self._clock.now())

    async def revoke(self, order: Order, caller: Caller | None) -> Outcome:
        """Revoke, and return once the rule is durable, or once it is clear that it cannot be written now.

        The rule is in force in this process before anything is written, and stays so whatever happens to the caller
        or the ledger (law 1). Raises ``Refused`` for a reused idempotency key, and ``GuardFailed`` (``TASK_NOT_OPEN``)
        if the task that the order closes was closed before. ``caller`` is None for what the broker does by itself.
        """
        made = making(
            order,
            rule_id=self._ids.new("rule"),
            block_id=self._ids.new("blk"),
            now=self._clock.now(),
            origin={} if caller is None else caller.members(),
        )
        earlier = await self._earlier(order)
        return await self._background.to_the_end(self._enforce(made)) if earlier is None else earlier

    async def lift(self, block_id: str, *, by: str, reason: str, caller: Caller) -> None:
        """End a block; tokens that its rule killed stay dead. Raises ``GuardFailed`` (``NOT_FOUND``)."""
        now = self._clock.now()
        check_text("reason", reason)
        record = entry(Kind.BLOCK_LIFTED, now, ref=block_id, by=by, reason=reason, **caller.members())
        change = Change(record, (BlockInForce(block_id),), (LiftBlock(block_id, now),))
        if any(made.block is not None and made.block.id == block_id for made in self._unwritten.values()):
            await self.write_pending()  # what was never written cannot be recorded as lifted
        await self._background.to_the_end(self._ledger.commit(change))

    async def write_pending(self) -> int:
        """Try to write the rules that could not be made durable; returns how many still are not."""
        async with self._late:
            for rule_id, made in list(self._unwritten.items()):
                if rule_id in self._others:
                    continue
                try:
                    await self._background.to_the_end(self._write_late(made))
                except Unavailable:
                    break
                del self._unwritten[rule_id]
                self._told(made)
                await self._settle(rule_id)
                self._events.info("rule.written_late", rule=rule_id)
        return len(self._unwritten)

    def hear(self, made: Making, *, adopt: bool) -> None:
        """Put a rule in force that another process could not write; ``adopt`` says that it is for this one to write.

        It may have been written since: then it is in force with its number.
        """
        rule, block = made.rule, made.block
        self._unwritten[rule.id] = made
        if adopt:
            self._others.discard(rule.id)
            self._shared.add(rule.id)
        else:
            self._others.add(rule.id)
        if not self._is_written(made):
            self._revocations.rules.add(rule)
            if block is not None:
                self._revocations.blocks.add(block)

    def forget(self, rule_id: str) -> None:
        """Leave a rule that was heard to the ledger: by now it is written, or it was withdrawn."""
        if rule_id not in self._others:
            return
        self._others.discard(rule_id)
        made = self._unwritten.pop(rule_id)
        if not self._is_written(made):
            self._withdraw(made)

    async def outcome(self, rule: Rule) -> Outcome:
        """Return the full outcome of a rule that was made before, without ``hits`` if they cannot be counted now."""
        pending = self._unwritten.get(rule.id)
        if rule.number is None:
            return Outcome(rule=rule, block=None if pending is None else pending.block, hits=None, durable=False)
        blocks = (block for block in self._revocations.blocks.live(self._clock.now()) if block.rule == rule.number)
        return Outcome(rule=rule, block=next(blocks, None), hits=await self._count(rule, bound=None), durable=True)

    async def _enforce(self, made: Making) -> Outcome:
        """Put a rule in force, then write it: in this order, so that it acts whatever becomes of the ledger (law 1)."""
        rule, block = made.rule, made.block
        self._revocations.rules.add(rule)
        if block is not None:
            self._revocations.blocks.add(block)
        try:
            await self._commit_in_time(made)
        except GuardFailed as failed:
            self._withdraw(made)
            await self._settle(rule.id)
            if failed.code is not Code.IDEMPOTENCY_KEY_IN_USE:
                raise
            earlier = await self._earlier(made.order, bound=None)
            if earlier is None:
                raise
            return earlier
        except Unavailable as error:
            if not self._is_written(made):
                self._unwritten[rule.id] = made
                self._meter.revoked(durable=False)
                self._events.error("rule.not_durable", rule=rule.id, code=error.code.value)
                await self._share(made)
                return Outcome(rule=rule, block=block, hits=None, durable=False)
        except BaseException:
            self._unwritten[rule.id] = made  # not understood, so not known to be written: it is tried again
            await self._share(made)
            raise
        await self._settle(rule.id)
        self._meter.revoked(durable=True)
        return await self._made(self._told(made), block)

    def _told(self, made: Making) -> Rule:
        """Tell of a rule that is durable now; return it as it was written."""
        rule = self._revocations.rules.get(made.rule.id) or made.rule
        self._tell(rule)
        return rule

    async def _made(self, rule: Rule, block: Block | None) -> Outcome:
        if block is not None:
            block = self._revocations.blocks.get(block.id) or replace(block, rule=rule.number)
        return Outcome(rule=rule, block=block, hits=await self._count(rule), durable=True)

    def _withdraw(self, made: Making) -> None:
        """Take back a rule that repeats an earlier request (same idempotency key), which is in force."""
        self._revocations.rules.remove([made.rule.id])
        if made.block is not None:
            self._revocations.blocks.lift(made.block.id)

    async def _commit_in_time(self, made: Making) -> None:
        """Write a rule; if that takes long, it is told to the other processes meanwhile. Raises like a commit."""
        writing = self._background.start(self._commit(made))
        await asyncio.wait({writing}, timeout=TELL_SECONDS)
        if not writing.done():
            await self._share(made)
        await writing

    async def _share(self, made: Making) -> None:
        if made.rule.id not in self._shared:
            self._shared.add(made.rule.id)
            await self._siblings.tell(made)

    async def _settle(self, rule_id: str) -> None:
        if rule_id in self._shared:
            self._shared.discard(rule_id)
            await self._siblings.settled(rule_id)

    async def _commit(self, made: Making, *, keyed: bool = True) -> None:
        """Write a rule under the next number, unless it turns out to be written already.

        When a commit's outcome was unknown, the ledger puts what it finds on recovery into the shared rules; a rule
        that has its number by then must not be written a second time.
        """
        for _ in range(MAX_ATTEMPTS):
            if self._is_written(made):
                return
            number, round_number = self._numbers.next(self._revocations.rules.epoch)
            try:
                await self._ledger.commit(made.change(number, keyed=keyed))
            except EpochMoved:
                self._numbers.failed(round_number)
                continue
            except GuardFailed as failed:
                self._numbers.failed(round_number)
                if failed.code is not Code.CONFLICT:  # which says that this very rule is in the ledger
                    raise
            except BaseException:
                self._numbers.failed(round_number)
                raise
            return
        raise Unavailable(Code.OVERLOADED, "revocations are being made faster than this one can be written")

    async def _write_late(self, made: Making) -> None:
        try:
            await self._commit(made)
        except GuardFailed:
            if self._is_written(made):
                return
            # Its key went to another request meanwhile. The operator was told that this rule is in force: it stays.
            await self._commit(made, keyed=False)

    def _is_written(self, made: Making) -> bool:
        rule = self._revocations.rules.get(made.rule.id)
        return rule is not None and rule.number is not None

    async def _count(self, rule: Rule, *, bound: float | None = COUNTING_BOUND) -> Hits | None:
        try:
            return await self._within(bound, self._records.hits(rule.selector, rule.at, before=rule.number))
        except BrokerError:
            return None

    async def _earlier(self, order: Order, *, bound: float | None = LOOKUP_BOUND) -> Outcome | None:
        """Return the outcome of an earlier request with the same idempotency key, if that is known by ``bound``."""
        key = order.scoped_key()
        if key is None:
            return None
        for made in self._unwritten.values():
            if made.order.scoped_key() == key:
                _check_same(order, made.order.fingerprint())
                return Outcome(rule=made.rule, block=made.block, hits=None, durable=False)
        try:
            known = await self._within(bound, self._records.idempotent(key))
        except Unavailable:
            return None  # revoking comes first; twice is harmless
        if known is None:
            return None
        _check_same(order, known.fingerprint)
        rule = self._revocations.rules.get(known.ref) or await self._recorded_rule(known.ref)
        return await self.outcome(rule)

    async def _recorded_rule(self, rule_id: str) -> Rule:
        record = await self._records.record_of(rule_id)
        rule = None if record is None else await self._records.rule(record.members["number"])
        if rule is None:
            raise Unavailable(Code.LEDGER_CORRUPT, "the ledger knows the request but not its rule")
        return rule

    async def _within(self, bound: float | None, reading: Coroutine[Any, Any, T]) -> T | None:
        """Return what is read, or None if that takes longer than ``bound`` seconds: then it is not begun any more."""
        task = self._background.start(reading)
        done, _ = await asyncio.wait({task}, timeout=bound)
        if not done:
            task.cancel()
        return task.result() if done else None


def _check_same(order: Order, fingerprint: str) -> None:
    if order.fingerprint() != fingerprint:
        raise Refused(Code.IDEMPOTENCY_KEY_REUSED, "this Idempotency-Key was used for another request")
