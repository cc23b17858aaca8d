"""An order to revoke: what an operator asks for, checked completely, and the one change that carries it out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from broker.core.change import (
    AddBlock,
    AddRule,
    Change,
    CloseTask,
    EpochIs,
    Guard,
    IdempotencyFresh,
    TaskUnclosed,
    Write,
)
from broker.core.entry import Entry, Kind, entry
from broker.core.errors import Code, Refused
from broker.core.rules import Block, Rule
from broker.core.selector import Selector
from broker.core.visible import is_visible

IDEMPOTENCY_SECONDS: Final = 24 * 3600
"""How long an idempotency key is remembered."""

MAX_REASON: Final = 1000
"""The longest reason or incident, in characters."""

REVOKED: Final = "revoked"
"""Why a task ended that an operator revoked."""

OVER: Final = frozenset({"deadline", "idle"})
"""Why a task ends by itself."""

MAX_TIME: Final = 253_402_300_799
"""The last second of the year 9999 (Unix seconds): no block ends later; it is lifted or stays."""


@dataclass(frozen=True, slots=True)
class BlockFor:
    """A block to be made with a rule: until a time (Unix seconds), or for some seconds, or until it is lifted.

    The two are kept apart so that a request that says ``for: 1h`` is the same request when it is repeated.
    """

    until: float | None = None
    seconds: float | None = None

    def end(self, now: float) -> float | None:
        """Return when a block that is made ``now`` ends. Raises ``Refused`` if that is not a time to come."""
        if self.until is None and self.seconds is None:
            return None
        if self.until is not None and self.seconds is not None:
            raise Refused(Code.MALFORMED_REQUEST, "block: give until or for, not both")
        end = self.until if self.seconds is None else now + self.seconds
        if end is None or not math.isfinite(end) or not now < end <= MAX_TIME:
            raise Refused(Code.MALFORMED_REQUEST, "block: must end in the future, by the year 9999")
        return end


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What somebody wants revoked. ``by`` is their agent id.

    ``closes`` is set by whoever closes the task that the selector names, and says why it ends: then the rule is only
    made if nobody closed the task before.
    """

    selector: Selector
    reason: str
    by: str
    incident: str | None = None
    block: BlockFor | None = None
    idempotency_key: str | None = None
    closes: str | None = None

    def closing(self) -> tuple[str, str] | None:
        """Return the task that ends with the rule, and why: a rule that names a task and nothing else ends it."""
        task = self.selector.task
        if task is None or len(self.selector.facts()) > 1:
            return None
        return task, self.closes or REVOKED

    def check(self) -> None:
        """Raise ``Refused`` (``MALFORMED_REQUEST``) for a reason or an incident that could not be read back safely."""
        check_text("reason", self.reason)
        if self.incident is not None:
            check_text("incident", self.incident)

    def fingerprint(self) -> str:
        """Return a digest of what is asked, to tell a repeated request from a different one under the same key."""
        block = None if self.block is None else [self.block.until, self.block.seconds]
        asked = [self.selector.to_dict(), self.reason, self.incident, block]
        return hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()

    def scoped_key(self) -> str | None:
        """Return the idempotency key under which this is recorded: keys of different operators never meet."""
        if self.idempotency_key is None:
            return None
        named = f"revocations\n{self.by}\n{self.idempotency_key}"
        return hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Making:
    """A rule on its way from an order to the ledger. ``origin`` is what is recorded of where the order came from."""

    order: Order
    rule: Rule
    block: Block | None
    origin: Mapping[str, str]

    def change(self, number: int, *, keyed: bool = True) -> Change:
        """Return the change that makes it rule ``number``; ``keyed`` says that it is only made if nobody did before.

        That is: its idempotency key must be fresh, and a task that it is to close must not be closed.
        """
        rule = replace(self.rule, number=number)
        block = None if self.block is None else replace(self.block, rule=number)
        guards: tuple[Guard, ...] = (EpochIs(number - 1),)
        key = self.order.scoped_key()
        if keyed and key is not None:
            expires_at = int(rule.at) + IDEMPOTENCY_SECONDS
            guards = (*guards, IdempotencyFresh(key, self.order.fingerprint(), rule.id, expires_at))
        closing = self.order.closing()
        if keyed and closing is not None and self.order.closes is not None:
            guards = (*guards, TaskUnclosed(closing[0], over_at=rule.at if closing[1] in OVER else None))
        writes: tuple[Write, ...] = (AddRule(rule),) if block is None else (AddRule(rule), AddBlock(block))
        if closing is not None:
            writes = (*writes, CloseTask(closing[0], rule.at, closing[1]))
        return Change(_entry(rule, block, closing, self.origin), guards, writes, urgent=True)


class Numbers:
    """Numbers for rules that are on their way to the ledger together, so that one transaction can take them all.

    Each builds on the one before. When one fails, those that were given out on top of it fail as well, and each asks
    for another number; they start over together, at the epoch. Not thread-safe: it belongs to one event loop.
    """

    def __init__(self) -> None:
        """No number is given out."""
        self._last = 0
        self._round = 0

    def next(self, epoch: int) -> tuple[int, int]:
        """Return the next number after ``epoch`` and all that were given out, and the round that it belongs to."""
        self._last = max(self._last, epoch) + 1
        return self._last, self._round

    def failed(self, round_number: int) -> None:
        """A number of this round was not used: start over, unless another failure of the round did so already."""
        if round_number == self._round:
            self._round += 1
            self._last = 0


def making(order: Order, *, rule_id: str, block_id: str, now: float, origin: Mapping[str, str]) -> Making:
    """Check an order completely, so that nothing can fail between its taking effect and its being written.

    Raises ``Refused`` (``MALFORMED_REQUEST``). ``block_id`` is used only if a block is ordered.
    """
    order.check()
    rule = Rule(
        id=rule_id,
        selector=order.selector,
        number=None,
        at=now,
        by=order.by,
        reason=order.reason,
        incident=order.incident,
    )
    block = None
    if order.block is not None:
        until = order.block.end(now)
        block = Block(block_id, order.selector, rule=None, at=now, by=order.by, reason=order.reason, until=until)
    made = Making(order, rule, block, origin)
    made.change(1)  # an entry that cannot be encoded fails here, not after the rule is in force
    return made


def check_text(name: str, text: str) -> None:
    """Raise ``Refused`` (``MALFORMED_REQUEST``) unless the text is one line that says something."""
    if not 0 < len(text) <= MAX_REASON or not is_visible(text) or text.isspace():
        msg = f"{name}: must be 1 to {MAX_REASON} printable characters on one line"
        raise Refused(Code.MALFORMED_REQUEST, msg)


def _entry(rule: Rule, block: Block | None, closing: tuple[str, str] | None, origin: Mapping[str, str]) -> Entry:
    closes, because = closing or (None, None)
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
        closes=closes,
        because=because,
        **origin,
    )
