"""Revoking: one rule ends any set of credentials at once; a block also refuses new ones (law 3)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import msgspec

from broker.core.change import (
    AddBlock,
    AddRule,
    BlockInForce,
    Change,
    EpochIs,
    Guard,
    IdempotencyFresh,
    LiftBlock,
    Write,
)
from broker.core.entry import Entry, Kind, entry
from broker.core.errors import BrokerError, Code, EpochMoved, GuardFailed, Refused, Unavailable
from broker.core.rules import Block, Rule
from broker.core.selector import Selector
from broker.ports import Caller, Clock, Events, Hits, Ids, Ledger, Meter, Records, Revocations

COUNTING_BOUND: Final = 0.01
"""Seconds that an answer waits for the count of what a rule hit. The rule itself never waits for it."""

IDEMPOTENCY_SECONDS: Final = 24 * 3600
MAX_REASON: Final = 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BlockFor:
    """A block to be made with a rule: until a time (Unix seconds), or until it is lifted."""

    until: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What an operator wants revoked. ``by`` is the operator's agent id."""

    selector: Selector
    reason: str
    by: str
    incident: str | None = None
    block: BlockFor | None = None
    idempotency_key: str | None = None

    def fingerprint(self) -> str:
        """Return a digest of what is asked, to tell a repeated request from a different one under the same key."""
        block = None if self.block is None else [self.block.until]
        asked = [self.selector.to_dict(), self.reason, self.incident, block]
        return hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a revocation did. ``hits`` is None while the count goes on; ``durable`` False means: in force in memory."""

    rule: Rule
    block: Block | None
    hits: Hits | None
    durable: bool


class Revocation:
    """Makes rules and blocks, lifts blocks, and previews."""

    def __init__(
        self,
        *,
        revocations: Revocations,
        ledger: Ledger,
        records: Records,
        clock: Clock,
        ids: Ids,
        meter: Meter,
        events: Events,
    ) -> None:
        """``revocations`` are the rules in force in this process."""
        self._revocations = revocations
        self._ledger = ledger
        self._records = records
        self._clock = clock
        self._ids = ids
        self._meter = meter
        self._events = events
        self._unwritten: dict[str, Callable[[int], Change]] = {}
        self._running: set[asyncio.Task[Any]] = set()

    async def preview(self, selector: Selector) -> Hits:
        """Count what a rule with this selector would kill now. Changes nothing."""
        return await self._records.hits(selector, self._clock.now())

    async def revoke(self, order: Order, caller: Caller) -> Outcome:
        """Revoke, and return once the rule is durable, or once it is clear that it cannot be written now.

        The rule is in force in this process before anything is written, and stays so whatever happens to the caller
        or the ledger (law 1). Raises ``Refused`` for a reused idempotency key.
        """
        now = self._clock.now()
        _check_text("reason", order.reason)
        _check_text("incident", order.incident or "-")
        if order.block is not None and order.block.until is not None and order.block.until <= now:
            raise Refused(Code.MALFORMED_REQUEST, "block.until: must be in the future")
        earlier = await self._earlier(order)
        if earlier is not None:
            return earlier
        rule = Rule(
            id=self._ids.new("rule"),
            selector=order.selector,
            number=None,
            at=now,
            by=order.by,
            reason=order.reason,
            incident=order.incident,
        )
        block = None
        if order.block is not None:
            block = Block(
                id=self._ids.new("blk"),
                selector=order.selector,
                rule=None,
                at=now,
                by=order.by,
                reason=order.reason,
                until=order.block.until,
            )
        return await self._uninterrupted(self._enforce(order, rule, block, caller))

    async def lift(self, block_id: str, *, by: str, reason: str, caller: Caller) -> None:
        """End a block; tokens that its rule killed stay dead. Raises ``GuardFailed`` (``NOT_FOUND``)."""
        now = self._clock.now()
        _check_text("reason", reason)
        record = entry(Kind.BLOCK_LIFTED, now, ref=block_id, by=by, reason=reason, **caller.members())
        change = Change(record, (BlockInForce(block_id),), (LiftBlock(block_id, now),))
        await self._uninterrupted(self._ledger.commit(change))

    async def write_pending(self) -> int:
        """Try to write the rules that could not be made durable; returns how many still are not."""
        for rule_id, change_at in list(self._unwritten.items()):
            rule = self._revocations.rules.get(rule_id)
            if rule is not None and rule.number is not None:
                del self._unwritten[rule_id]
                continue
            try:
                await self._commit(change_at)
            except Unavailable:
                break
            del self._unwritten[rule_id]
            self._events.info("rule.written_late", rule=rule_id)
        return len(self._unwritten)

    async def outcome(self, rule: Rule) -> Outcome:
        """Return the full outcome of a rule that was made before."""
        blocks = (block for block in self._revocations.blocks.live(self._clock.now()) if block.rule == rule.number)
        hits = await self._records.hits(rule.selector, rule.at, before=rule.number)
        return Outcome(rule=rule, block=next(blocks, None), hits=hits, durable=rule.number is not None)

    async def _enforce(self, order: Order, rule: Rule, block: Block | None, caller: Caller) -> Outcome:
        self._revocations.rules.add(rule)
        if block is not None:
            self._revocations.blocks.add(block)

        def change_at(number: int) -> Change:
            return _change(order, replace(rule, number=number), block and replace(block, rule=number), caller)

        try:
            await self._commit(change_at)
        except GuardFailed:
            self._revocations.rules.remove([rule.id])
            if block is not None:
                self._revocations.blocks.lift(block.id)
            raise
        except Unavailable as error:
            self._unwritten[rule.id] = change_at
            self._meter.revoked(durable=False)
            self._events.error("rule.not_durable", rule=rule.id, code=error.code.value)
            return Outcome(rule=rule, block=block, hits=None, durable=False)
        self._meter.revoked(durable=True)
        committed = self._revocations.rules.get(rule.id) or rule
        return Outcome(rule=committed, block=block, hits=await self._count(committed), durable=True)

    async def _commit(self, change_at: Callable[[int], Change]) -> None:
        while True:
            try:
                await self._ledger.commit(change_at(self._revocations.rules.epoch + 1))
            except EpochMoved:
                continue
            return

    async def _count(self, rule: Rule) -> Hits | None:
        counting = self._start(self._records.hits(rule.selector, rule.at, before=rule.number))
        done, _ = await asyncio.wait({counting}, timeout=COUNTING_BOUND)
        if not done:
            return None
        try:
            return counting.result()
        except BrokerError:
            return None

    async def _earlier(self, order: Order) -> Outcome | None:
        """Return the outcome of an earlier request with the same idempotency key."""
        if order.idempotency_key is None:
            return None
        try:
            known = await self._records.idempotent(_scoped(order))
        except Unavailable:
            return None  # revoking comes first; twice is harmless
        if known is None:
            return None
        if known.fingerprint != order.fingerprint():
            text = "this Idempotency-Key was used for another request"
            raise Refused(Code.IDEMPOTENCY_KEY_REUSED, text)
        rule = self._revocations.rules.get(known.ref) or await self._recorded_rule(known.ref)
        return await self.outcome(rule)

    async def _recorded_rule(self, rule_id: str) -> Rule:
        record = await self._records.record_of(rule_id)
        rule = None if record is None else await self._records.rule(record.members["number"])
        if rule is None:
            raise Unavailable(Code.LEDGER_CORRUPT, "the ledger knows the request but not its rule")
        return rule

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run to the end, whatever happens to the caller; the set keeps a running task from being collected."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _uninterrupted(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.shield(self._start(work))


def _change(order: Order, rule: Rule, block: Block | None, caller: Caller) -> Change:
    if rule.number is None:
        msg = "a rule is written with its number"
        raise ValueError(msg)
    guards: tuple[Guard, ...] = (EpochIs(rule.number - 1),)
    if order.idempotency_key is not None:
        expires_at = int(rule.at) + IDEMPOTENCY_SECONDS
        guards = (*guards, IdempotencyFresh(_scoped(order), order.fingerprint(), rule.id, expires_at))
    writes: tuple[Write, ...] = (AddRule(rule),) if block is None else (AddRule(rule), AddBlock(block))
    return Change(_rule_entry(rule, block, caller), guards, writes, urgent=True)


def _rule_entry(rule: Rule, block: Block | None, caller: Caller) -> Entry:
    described = (
        None if block is None else {"id": block.id, **({} if block.until is None else {"until": int(block.until)})}
    )
    return entry(
        Kind.RULE_ADDED,
        rule.at,
        ref=rule.id,
        number=rule.number,
        selector=rule.selector.to_dict(),
        by=rule.by,
        reason=rule.reason,
        incident=rule.incident,
        block=described,
        **caller.members(),
    )


def _scoped(order: Order) -> str:
    """Idempotency keys of different operators never meet."""
    return hashlib.sha256(f"revocations\n{order.by}\n{order.idempotency_key}".encode()).hexdigest()


def _check_text(name: str, text: str) -> None:
    if not 0 < len(text) <= MAX_REASON or not text.isprintable() or text.isspace():
        msg = f"{name}: must be 1 to {MAX_REASON} printable characters on one line"
        raise Refused(Code.MALFORMED_REQUEST, msg)
