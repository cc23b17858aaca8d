"""Judge the guards of a whole batch: what is committed is read once for each kind, the rest is decided in memory.

A :class:`View` is what guards look at: the state before the batch, plus what earlier changes of the batch did to it. So
the changes of a batch see each other exactly as if each had been a transaction of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from sqlalchemy import Connection, select

from broker.core.change import (
    RATE_STEP,
    AcceptRestore,
    AddBlock,
    AddEnrollment,
    AddRule,
    AgentAbsent,
    BlockInForce,
    Change,
    EnrollmentOpen,
    EpochIs,
    Guard,
    IdempotencyFresh,
    LiftBlock,
    PutAgent,
    RateWithin,
    RemoveAgent,
    Unused,
    Write,
)
from broker.core.errors import BrokerError, Code, EpochMoved, GuardFailed
from broker.ledger import schema
from broker.ledger.databases import statements
from broker.ledger.writing.approval_book import APPROVAL_GUARDS, APPROVAL_WRITES, ApprovalBook
from broker.ledger.writing.lease_book import LEASE_GUARDS, LEASE_WRITES, LeaseBook
from broker.ledger.writing.task_book import TASK_GUARDS, TASK_WRITES, TaskBook

_MINUTE: Final = 60
_MILLISECONDS: Final = 1000

Verdict = BrokerError | EpochMoved | None
"""Why a change is refused, or None if all its guards hold."""

G = TypeVar("G", bound=Guard)


@dataclass(slots=True)
class View:
    """What guards look at. Only what the batch's guards name is loaded; the rest of the state is not here."""

    epoch: int
    used: set[bytes] = field(default_factory=set)
    rates: dict[str, dict[int, int]] = field(default_factory=dict)
    agents: set[str] = field(default_factory=set)
    enrollments: dict[bytes, tuple[str, float]] = field(default_factory=dict)
    blocks: set[str] = field(default_factory=set)
    rules: set[str] = field(default_factory=set)
    idempotency: dict[str, tuple[str, float]] = field(default_factory=dict)
    tasks: TaskBook | None = None
    approvals: ApprovalBook | None = None
    leases: LeaseBook | None = None

    def note(self, change: Change) -> None:
        """Take up what a change does that was found good."""
        for key, step in counted(change):
            window = self.rates.setdefault(key, {})
            window[step] = window.get(step, 0) + 1
        for guard in change.guards:
            match guard:
                case Unused():
                    self.used.add(guard.key)
                case EnrollmentOpen(code_digest):
                    self.enrollments.pop(code_digest, None)
                case IdempotencyFresh():
                    self.idempotency[guard.key] = (guard.fingerprint, guard.expires_at)
                case _:
                    pass
        if change.writes:
            self._note_writes(change)
        for book in self.books():
            book.apply(change)

    def flush(self, connection: Connection) -> None:
        """Write what the books have changed."""
        for book in self.books():
            book.flush(connection)

    def open_books(self, connection: Connection, guards: Sequence[Guard], writes: Sequence[Write]) -> None:
        """Load the books that these guards and writes are about."""
        if _any(guards, TASK_GUARDS) or _any(writes, TASK_WRITES):
            self.tasks = TaskBook.load(connection, guards, writes)
        if _any(guards, APPROVAL_GUARDS) or _any(writes, APPROVAL_WRITES):
            self.approvals = ApprovalBook.load(connection, guards, writes)
        if _any(guards, LEASE_GUARDS) or _any(writes, LEASE_WRITES):
            self.leases = LeaseBook.load(connection, guards, writes)

    def books(self) -> Iterator[TaskBook | ApprovalBook | LeaseBook]:
        """Yield the books that the batch needs."""
        for book in (self.tasks, self.approvals, self.leases):
            if book is not None:
                yield book

    def _note_writes(self, change: Change) -> None:
        for write in change.writes:
            match write:
                case AddRule(rule):
                    self.epoch += 1
                    self.rules.add(rule.id)
                case AcceptRestore(rule):
                    self.epoch = max(self.epoch, rule.number or 0)
                    self.rules.add(rule.id)
                case AddBlock(block):
                    self.blocks.add(block.id)
                case LiftBlock(block_id):
                    self.blocks.discard(block_id)
                case PutAgent(agent):
                    self.agents.add(agent.name)
                case RemoveAgent(name):
                    self.agents.discard(name)
                    self.enrollments = {code: known for code, known in self.enrollments.items() if known[0] != name}
                case AddEnrollment(code_digest, name, _, expires_at):
                    self.enrollments[code_digest] = (name, expires_at)
                case _:
                    pass


def counted(change: Change) -> Iterable[tuple[str, int]]:
    """Return the (key, step) pairs in which a change counts: once for each key, however many guards name it."""
    return {
        guard.key: (guard.key, _step(guard.at)) for guard in change.guards if isinstance(guard, RateWithin)
    }.values()


def load_view(connection: Connection, changes: Sequence[Change], epoch: int) -> View:
    """Read what the guards of a batch look at: one statement for each kind that occurs."""
    guards = [guard for change in changes for guard in change.guards]
    writes = [write for change in changes for write in change.writes]
    view = View(epoch)
    view.open_books(connection, guards, writes)
    if unused := _of(Unused, guards):
        view.used = statements.of(connection).used_keys(connection, [guard.key for guard in unused])
    if rates := _of(RateWithin, guards):
        oldest = _last_uncounted_step(min(guard.at for guard in rates))
        view.rates = statements.of(connection).rate_counts(connection, list({guard.key for guard in rates}), oldest)
    if absent := _of(AgentAbsent, guards):
        names = schema.agents.c.name
        view.agents = set(connection.scalars(select(names).where(names.in_([guard.name for guard in absent]))))
    if in_force := _of(BlockInForce, guards):
        view.blocks = _blocks_in_force(connection, [guard.block_id for guard in in_force])
    if enrollments := _of(EnrollmentOpen, guards):
        view.enrollments = _open_enrollments(connection, [guard.code_digest for guard in enrollments])
    if fresh := _of(IdempotencyFresh, guards):
        view.idempotency = _idempotency(connection, [guard.key for guard in fresh])
    if added := [write.rule.id for write in writes if isinstance(write, AddRule)]:
        view.rules = set(connection.scalars(select(schema.rules.c.id).where(schema.rules.c.id.in_(added))))
    return view


def judge(view: View, change: Change) -> Verdict:
    """Return why a change may not be applied to what the view shows, or None."""
    # First the epoch: a decision on stale rules is made again, whatever else is wrong with it (law 2).
    epoch = view.epoch
    for guard in change.guards:
        if isinstance(guard, EpochIs) and guard.epoch != epoch:
            return EpochMoved()
    if change.writes and (verdict := _rules_fit(view, change)) is not None:
        return verdict
    for guard in change.guards:
        verdict = _judge(view, guard, change.entry.columns.at / _MILLISECONDS)
        if verdict is not None:
            return verdict
    verdicts = (book.judge(change) for book in view.books())
    return next((verdict for verdict in verdicts if verdict is not None), None)


def _judge(view: View, guard: Guard, at: float) -> Verdict:
    match guard:
        case EpochIs():
            return None
        case RateWithin():
            return _within_rate(view, guard)
        case Unused(what=what):
            return _replayed(what) if guard.key in view.used else None
        case IdempotencyFresh():
            return _fresh(view.idempotency.get(guard.key), guard.fingerprint, at)
        case AgentAbsent() | EnrollmentOpen() | BlockInForce():
            return _judge_existence(view, guard)
        case _:
            return None  # the books judge it


def _judge_existence(view: View, guard: AgentAbsent | EnrollmentOpen | BlockInForce) -> GuardFailed | None:
    match guard:
        case AgentAbsent(name):
            if name in view.agents:
                return GuardFailed(Code.CONFLICT, "an agent of this name is registered already")
        case EnrollmentOpen(code_digest, name, now):
            known = view.enrollments.get(code_digest)
            if known is None or known[0] != name or known[1] <= now:
                return GuardFailed(Code.ENROLLMENT_INVALID, "the enrolment code is not valid")
        case BlockInForce(block_id):
            if block_id not in view.blocks:
                return GuardFailed(Code.NOT_FOUND, "there is no such block in force")
    return None


def _rules_fit(view: View, change: Change) -> Verdict:
    """Check that the rules of a change continue the epoch and are new."""
    epoch = view.epoch
    for write in change.writes:
        if isinstance(write, AddRule):
            if write.rule.id in view.rules:
                return GuardFailed(Code.CONFLICT, "this rule was committed before")
            epoch += 1
            if write.rule.number != epoch:
                return EpochMoved()
        elif isinstance(write, AcceptRestore) and (write.rule.number or 0) <= epoch:
            return EpochMoved()
    return None


def _within_rate(view: View, guard: RateWithin) -> GuardFailed | None:
    window = view.rates[guard.key]
    last = _last_uncounted_step(guard.at)
    count = sum(window[step] for step in window if step > last)
    if count < guard.limit:
        return None
    text = f"no more than {guard.limit} in a minute"
    return GuardFailed(Code.RATE_LIMITED, text, retry_after=_seconds_until_capacity(window, guard, last, count))


def _seconds_until_capacity(window: dict[int, int], guard: RateWithin, last: int, count: int) -> int:
    """Return when enough of the oldest sub-windows have passed for one more change, in whole seconds."""
    for step in sorted(window):
        if step > last:
            count -= window[step]
            if count < guard.limit:
                return max(1, math.ceil((step + 1) * RATE_STEP + _MINUTE - guard.at))
    return _MINUTE


def _replayed(what: str) -> GuardFailed:
    if what == "proof":
        return GuardFailed(Code.PROOF_REPLAYED, "this proof was used before")
    if what == "subject":
        return GuardFailed(Code.SUBJECT_TOKEN_INVALID, "subject_token: it was used before, and may be used once")
    return GuardFailed(Code.ASSERTION_REPLAYED, "this assertion was used before")


def _fresh(known: tuple[str, float] | None, fingerprint: str, at: float) -> GuardFailed | None:
    if known is None or known[1] <= at:
        return None
    if known[0] != fingerprint:
        return GuardFailed(Code.IDEMPOTENCY_KEY_REUSED, "this Idempotency-Key was used for another request")
    return GuardFailed(Code.IDEMPOTENCY_KEY_IN_USE, "a request with this Idempotency-Key was made already")


def _step(at: float) -> int:
    return int(at // RATE_STEP)


def _last_uncounted_step(at: float) -> int:
    """Return the youngest sub-window that is older than a minute as a whole: its end is not after ``at`` - 60."""
    return math.floor((at - _MINUTE) / RATE_STEP) - 1


def _of(kind: type[G], guards: Iterable[Guard]) -> list[G]:
    return [guard for guard in guards if isinstance(guard, kind)]


def _any(items: Iterable[object], kinds: tuple[type, ...]) -> bool:
    return any(type(item) in kinds for item in items)


def _blocks_in_force(connection: Connection, block_ids: Sequence[str]) -> set[str]:
    blocks = schema.blocks.c
    return set(connection.scalars(select(blocks.id).where(blocks.id.in_(block_ids), blocks.lifted_at.is_(None))))


def _open_enrollments(connection: Connection, digests: Sequence[bytes]) -> dict[bytes, tuple[str, float]]:
    table = schema.enrollments.c
    query = select(table.code_digest, table.name, table.expires_at).where(table.code_digest.in_(digests))
    return {digest: (name, expires_at) for digest, name, expires_at in connection.execute(query)}


def _idempotency(connection: Connection, keys: Sequence[str]) -> dict[str, tuple[str, float]]:
    table = schema.idempotency.c
    query = select(table.key, table.fingerprint, table.expires_at).where(table.key.in_(keys))
    return {key: (fingerprint, expires_at) for key, fingerprint, expires_at in connection.execute(query)}
