"""Stand-ins for the ports that behave as the ports promise, and break on demand."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import count
from typing import Any, TypeVar

from broker.core.action import ActionState
from broker.core.approval import ApprovalState
from broker.core.change import (
    RATE_STEP,
    ActionUnsettled,
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
    PutKey,
    RateWithin,
    Receipt,
    RegisteredAgent,
    RemoveAgent,
    Spend,
    StoredKey,
    TaskHoldsNothing,
    TaskOpen,
    TaskUnclosed,
    Unused,
    Write,
)
from broker.core.entry import Entry, Kind, decode
from broker.core.errors import BrokerError, Code, EpochMoved, GuardFailed, Refused, Unavailable
from broker.core.identity import Agent
from broker.core.merkle import Frontier, consistency_proof, inclusion_proof, leaf_hash, root_of
from broker.core.personal import MEMBER, SALT_SIZE, merged, read_personal
from broker.core.revoking import Making
from broker.core.rules import Block, Rule, RuleIndex
from broker.core.selector import Fact, Selector
from broker.core.task import Task, TaskState
from broker.core.usage import Usage
from broker.ports import (
    Authenticated,
    Caller,
    Hits,
    Idempotent,
    Record,
    Revocations,
    TreeHead,
    UnverifiedAssertion,
)

T = TypeVar("T")

NOW = 1_795_300_000.25
RULE_MARGIN = 300.0
CALLER = Caller(address="192.0.2.7", request_id="req_1", trace_id="4bf92f3577b34da6a3ce929d0e0e4736")


class FakeClock:
    """A wall clock that moves when it is told to."""

    def __init__(self, time: float = NOW) -> None:
        self.time = time

    def now(self) -> float:
        return self.time


class CountingIds:
    """Names that never repeat, whoever makes them, and can be told apart by eye."""

    _numbers = count(1)

    def new(self, prefix: str) -> str:
        return f"{prefix}_{next(self._numbers):026d}"

    def secret(self) -> str:
        return f"one-time-code-{next(self._numbers)}"


@dataclass
class RecordingMeter:
    """Keeps what was counted."""

    tokens: list[tuple[str, str]] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    revocations: list[bool] = field(default_factory=list)
    consents: Counter[str] = field(default_factory=Counter)
    leases: Counter[tuple[str, str]] = field(default_factory=Counter)
    endings: list[float] = field(default_factory=list)

    def issued(self, role: str, method: str) -> None:
        self.tokens.append((role, method))

    def refused(self, code: str) -> None:
        self.refusals[code] += 1

    def revoked(self, *, durable: bool) -> None:
        self.revocations.append(durable)

    def consent(self, event: str) -> None:
        self.consents[event] += 1

    def lease(self, event: str, backend: str) -> None:
        self.leases[event, backend] += 1

    def lease_ended(self, backend: str, seconds: float) -> None:
        self.endings.append(seconds)


@dataclass
class RecordingNotifier:
    """Keeps what people would have been told."""

    told: list[tuple[ApprovalState, str]] = field(default_factory=list)

    def approval(self, state: ApprovalState, event: str) -> None:
        self.told.append((state, event))


@dataclass
class RecordingEvents:
    """Keeps what was logged."""

    logged: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def info(self, event: str, **members: Any) -> None:  # noqa: ANN401 - the port's signature
        self.logged.append(("info", event, members))

    def error(self, event: str, **members: Any) -> None:  # noqa: ANN401 - the port's signature
        self.logged.append(("error", event, members))

    def names(self) -> list[str]:
        """Return the events in their order."""
        return [event for _, event, _ in self.logged]


class FakeAuthenticator:
    """Knows some assertions by heart. Those made with ``single_use`` bring the guard that uses them up."""

    def __init__(self) -> None:
        self._known: dict[str, Authenticated] = {}
        self.failure: BrokerError | None = None

    def knows(
        self, agent: Agent, assertion: str, *, single_use: bool = True, expires_at: int = int(NOW) + 300
    ) -> UnverifiedAssertion:
        """Make an assertion that authenticates ``agent``."""
        digest = hashlib.sha256(assertion.encode())
        guards: tuple[Guard, ...] = (Unused(digest.digest(), expires_at, "assertion"),) if single_use else ()
        self._known[assertion] = Authenticated(
            agent=agent,
            method="private_key_jwt" if single_use else "platform",
            digest=digest.hexdigest(),
            guards=guards,
            assertion_id=f"jti-{digest.hexdigest()[:8]}" if single_use else None,
            key="assertion-key",
        )
        return UnverifiedAssertion(assertion)

    async def authenticate(self, assertion: UnverifiedAssertion, now: float) -> Authenticated:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        known = self._known.get(assertion.token)
        if known is None:
            raise Refused(Code.ASSERTION_INVALID, "the assertion is not valid")
        return known


class Fault(Enum):
    """How a commit fails: both look the same to the caller, ``LEDGER_UNAVAILABLE``."""

    NOT_APPLIED = "failed and not applied"
    APPLIED = "failed but applied"


def ledger_down() -> Unavailable:
    """Return what callers of a ledger that does not work get."""
    return Unavailable(Code.LEDGER_UNAVAILABLE, "the ledger cannot be used now: the disk is full")


class MemoryLedger:
    """The port ``Ledger`` in memory: serialisable, each change whole or not at all, rules published before answers.

    ``down`` fails everything; ``faults`` fail the next commits, one each. What was applied although it failed is
    published into ``revocations`` when the ledger is next used, as after a recovery. ``before`` holds things to do just
    before the next changes are judged, one each: what another process or request got in between. While there is an
    event ``held`` that is not set, commits wait for it, as for a disk that hangs.
    """

    def __init__(self, revocations: Revocations) -> None:
        self.revocations = revocations
        self.entries: list[Entry] = []
        self.epoch = 0
        self.down = False
        self.held: asyncio.Event | None = None
        self.faults: deque[Fault] = deque()
        self.before: deque[Callable[[], None]] = deque()
        self.attempts = 0
        self.used: dict[bytes, int] = {}
        self.counted: list[tuple[str, int]] = []
        self.agents: dict[str, RegisteredAgent] = {}
        self.enrollments: dict[bytes, AddEnrollment] = {}
        self.blocks: dict[str, Block] = {}
        self.rules: dict[int, Rule] = {}
        self.idempotency: dict[str, IdempotencyFresh] = {}
        self.keys: dict[str, StoredKey] = {}
        self._unpublished: list[Write] = []
        self.keys_follower: Callable[[Sequence[StoredKey]], None] = lambda _rows: None

    async def commit(self, change: Change) -> Receipt:
        """Apply a change in a turn of its own; cancelling the caller does not undo it."""
        if self.held is not None:
            await self.held.wait()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Receipt] = loop.create_future()
        loop.call_soon(self._answer, change, answer)
        return await answer

    def apply(self, change: Change) -> Receipt:
        """Apply a change now, as another process would. Raises what :meth:`commit` raises, but for faults."""
        self._publish()
        self._judge(change)
        self._used_up(change)
        for write in change.writes:
            self._write(write)
        self.entries.append(change.entry)
        return Receipt(len(self.entries) - 1, self.epoch)

    def kinds(self) -> list[str]:
        """Return the kinds of the entries in their order."""
        return [made.columns.kind for made in self.entries]

    def members(self, kind: Kind) -> list[dict[str, Any]]:
        """Return the members of all entries of a kind."""
        return [dict(_record(0, made).members) for made in self.entries if made.columns.kind == kind.value]

    def _answer(self, change: Change, answer: asyncio.Future[Receipt]) -> None:
        self.attempts += 1
        try:
            receipt = self._attempt(change)
        except (BrokerError, EpochMoved) as error:
            if not answer.done():
                answer.set_exception(error)
            return
        if not answer.done():
            answer.set_result(receipt)

    def _attempt(self, change: Change) -> Receipt:
        if self.before:
            self.before.popleft()()
        if self.down:
            raise ledger_down()
        fault = self.faults.popleft() if self.faults else None
        if fault is Fault.NOT_APPLIED:
            raise ledger_down()
        receipt = self.apply(change)
        if fault is Fault.APPLIED:
            raise ledger_down()
        self._publish()
        return receipt

    def _judge(self, change: Change) -> None:
        for guard in change.guards:
            if isinstance(guard, EpochIs) and guard.epoch != self.epoch:
                raise EpochMoved
        rules = [write.rule for write in change.writes if isinstance(write, AddRule)]
        if {rule.id for rule in rules} & {rule.id for rule in self.rules.values()}:
            raise GuardFailed(Code.CONFLICT, "this rule was committed before")
        numbers = [rule.number for rule in rules]
        if numbers != list(range(self.epoch + 1, self.epoch + 1 + len(numbers))):
            raise EpochMoved
        for guard in change.guards:
            self._judge_guard(guard)

    def _judge_guard(self, guard: Guard) -> None:
        match guard:
            case Unused(key, _, what) if key in self.used:
                raise GuardFailed(Code.PROOF_REPLAYED if what == "proof" else Code.ASSERTION_REPLAYED, "used before")
            case RateWithin(key, limit, at) if self._count(key, at) >= limit:
                raise GuardFailed(Code.RATE_LIMITED, f"no more than {limit} in a minute", retry_after=60)
            case AgentAbsent(name) if name in self.agents:
                raise GuardFailed(Code.CONFLICT, "an agent of this name is registered")
            case EnrollmentOpen(code_digest, name, now):
                known = self.enrollments.get(code_digest)
                if known is None or known.name != name or known.expires_at <= now:
                    raise GuardFailed(Code.ENROLLMENT_INVALID, "the code is not valid")
            case BlockInForce(block_id) if block_id not in self.blocks:
                raise GuardFailed(Code.NOT_FOUND, "there is no such block")
            case IdempotencyFresh(key, fingerprint) if key in self.idempotency:
                same = self.idempotency[key].fingerprint == fingerprint
                raise GuardFailed(Code.IDEMPOTENCY_KEY_IN_USE if same else Code.IDEMPOTENCY_KEY_REUSED, "used before")
            case TaskOpen(implicit=Task()):
                pass  # the task of a token that nobody opened one for is as good as stored
            case TaskOpen() | TaskUnclosed() | TaskHoldsNothing() | Spend() | ActionUnsettled():
                raise GuardFailed(Code.TASK_NOT_OPEN, "this ledger keeps no tasks")
            case _:
                pass

    def _count(self, key: str, at: float) -> int:
        return sum(1 for name, step in self.counted if name == key and (step + 1) * RATE_STEP > at - 60)

    def _used_up(self, change: Change) -> None:
        for guard in change.guards:
            match guard:
                case Unused(key, expires_at):
                    self.used[key] = expires_at
                case RateWithin(key, _, at):
                    self.counted.append((key, int(at // RATE_STEP)))
                case EnrollmentOpen(code_digest):
                    del self.enrollments[code_digest]
                case IdempotencyFresh(key):
                    self.idempotency[key] = guard
                case _:
                    pass

    def _write(self, write: Write) -> None:
        match write:
            case AddRule(rule):
                self.epoch += 1
                ends = max([rule.at, *(made.columns.expires_at or 0 for made in self.entries)]) + RULE_MARGIN
                self.rules[self.epoch] = replace(rule, ends_at=ends)
                write = AddRule(self.rules[self.epoch])
            case AddBlock(block):
                self.blocks[block.id] = block
            case LiftBlock(block_id):
                del self.blocks[block_id]
            case PutAgent(agent):
                self.agents[agent.name] = agent
            case RemoveAgent(name):
                self.agents.pop(name, None)
                self.enrollments = {code: known for code, known in self.enrollments.items() if known.name != name}
            case AddEnrollment(code_digest):
                self.enrollments[code_digest] = write
            case PutKey(key):
                self.keys[key.kid] = key
            case _:
                msg = f"this ledger keeps no tasks and approvals, so it cannot hold {type(write).__name__}"
                raise NotImplementedError(msg)
        self._unpublished.append(write)

    def _publish(self) -> None:
        for write in self._unpublished:
            match write:
                case AddRule(rule):
                    self.revocations.rules.add(rule)
                case AddBlock(block):
                    self.revocations.blocks.add(block)
                case LiftBlock(block_id):
                    self.revocations.blocks.lift(block_id)
                case PutKey():
                    self.keys_follower(tuple(self.keys.values()))
                case _:
                    pass
        self._unpublished.clear()


class AlwaysFresh:
    """The port ``Freshness`` of a process that shares its ledger with nobody."""

    async def ensure(self) -> None:
        """Nothing can have changed elsewhere."""


class MemoryRecords:
    """The port ``Records`` over a :class:`MemoryLedger`. ``down`` fails every read; ``gate`` holds them up."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self.down = False
        self.gate: asyncio.Event | None = None
        self.reads: Counter[str] = Counter()

    async def registered_agent(self, name: str) -> RegisteredAgent | None:
        await self._read("registered_agent")
        return self._ledger.agents.get(name)

    async def registered_agents(self) -> Sequence[RegisteredAgent]:
        await self._read("registered_agents")
        return [agent for _, agent in sorted(self._ledger.agents.items())]

    async def enrollment(self, code_digest: bytes, now: float) -> str | None:
        await self._read("enrollment")
        known = self._ledger.enrollments.get(code_digest)
        return None if known is None or known.expires_at <= now else known.name

    async def keys(self) -> Sequence[StoredKey]:
        await self._read("keys")
        return list(self._ledger.keys.values())

    async def rules(self, *, before: int | None = None, limit: int = 100) -> Sequence[Rule]:
        await self._read("rules")
        numbers = sorted((n for n in self._ledger.rules if before is None or n < before), reverse=True)
        return [self._ledger.rules[number] for number in numbers[:limit]]

    async def rule(self, number: int) -> Rule | None:
        await self._read("rule")
        return self._ledger.rules.get(number)

    async def hits(
        self, selector: Selector, now: float, *, before: int | None = None, apart_from: Sequence[Selector] = ()
    ) -> Hits:
        supposed = [Rule(f"supposed_{place}", each, None, now, "", "") for place, each in enumerate(apart_from)]
        known = (*self._ledger.revocations.rules.live(), *supposed)
        rules = RuleIndex(rule for rule in known if before is None or rule.rank < before)
        await self._read("hits")
        found = [
            token
            for token in (made.columns for made in self._ledger.entries if made.columns.kind == Kind.TOKEN_ISSUED)
            if (token.expires_at or 0) > now and (before is None or (token.epoch or 0) < before)
        ]
        live = [
            token
            for token in found
            if selector.selects(_facts(token)) and rules.killer(_facts(token), token.epoch or 0) is None
        ]
        return Hits(
            tokens=len(live),
            tasks=len({token.task for token in live}),
            agents=len({token.agent for token in live}),
            latest_expiry=max((token.expires_at or 0 for token in live), default=None),
        )

    async def record(self, seq: int) -> Record | None:
        await self._read("record")
        return self._record(seq) if 0 <= seq < len(self._ledger.entries) else None

    async def record_of(self, ref: str) -> Record | None:
        await self._read("record_of")
        places = (seq for seq, made in enumerate(self._ledger.entries) if made.columns.ref == ref)
        seq = next(places, None)
        return None if seq is None else self._record(seq)

    async def records(self, *, after: int = -1, limit: int = 100) -> Sequence[Record]:
        await self._read("records")
        return [self._record(seq) for seq in range(after + 1, len(self._ledger.entries))[:limit]]

    async def head(self) -> TreeHead:
        await self._read("head")
        leaves = self._leaves()
        return TreeHead(len(leaves), Frontier().append(leaves).root(), self._ledger.epoch)

    async def checkpoint(self) -> str:
        await self._read("checkpoint")
        raise Unavailable(Code.INTERNAL, "there is no key to sign checkpoints with")

    async def inclusion(self, seq: int, size: int) -> Sequence[bytes]:
        await self._read("inclusion")
        return inclusion_proof(self._subtree, seq, size)

    async def consistency(self, old: int, new: int) -> Sequence[bytes]:
        await self._read("consistency")
        return consistency_proof(self._subtree, old, new)

    async def recent(self, agent: str, limit: int = 10) -> Sequence[Record]:
        await self._read("recent")
        found = [record for record in await self.records(limit=1000) if record.members.get("agent") == agent]
        return found[::-1][:limit]

    async def latest(self, kind: str) -> Record | None:
        await self._read("latest")
        places = [seq for seq, made in enumerate(self._ledger.entries) if made.columns.kind == kind]
        return self._record(places[-1]) if places else None

    async def usage(self, since: float) -> Usage:
        await self._read("usage")
        return Usage(
            since=since,
            complete=False,
            scopes=(),
            secrets=(),
            agents=(),
            roles={},
            asked={},
            actions={},
            ceilings=frozenset(),
            secret_ceilings=frozenset(),
            delegations={},
            loads=(),
        )

    # This ledger keeps no tasks, actions and approvals; what is about them runs over the real one.

    async def task(self, task_id: str) -> TaskState | None:
        await self._read("task")
        return self._without(task_id)

    async def tasks(
        self,
        *,
        owner: str | None = None,
        below: str | None = None,
        open_at: float | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> Sequence[TaskState]:
        await self._read("tasks")
        self._without(owner, below, open_at, before, limit)
        return ()

    async def due_tasks(self, now: float, limit: int = 100) -> Sequence[TaskState]:
        await self._read("due_tasks")
        self._without(now, limit)
        return ()

    async def tree_holds_until(self, task_id: str) -> float:
        await self._read("tree_holds_until")
        self._without(task_id)
        return 0

    async def action(self, action_id: str) -> ActionState | None:
        await self._read("action")
        return self._without(action_id)

    async def actions(
        self, *, task: str | None = None, agent: str | None = None, before: str | None = None, limit: int = 100
    ) -> Sequence[ActionState]:
        await self._read("actions")
        self._without(task, agent, before, limit)
        return ()

    async def approval(self, approval_id: str) -> ApprovalState | None:
        await self._read("approval")
        return self._without(approval_id)

    async def pending_approval(self, digest: str, now: float) -> ApprovalState | None:
        await self._read("pending_approval")
        return self._without(digest, now)

    async def approvals(
        self, *, stored: str | None = None, before: str | None = None, limit: int = 100
    ) -> Sequence[ApprovalState]:
        await self._read("approvals")
        self._without(stored, before, limit)
        return ()

    @staticmethod
    def _without(*_asked: object) -> None:
        return None

    async def idempotent(self, key: str) -> Idempotent | None:
        await self._read("idempotent")
        known = self._ledger.idempotency.get(key)
        return None if known is None else Idempotent(known.fingerprint, known.ref)

    async def _read(self, name: str) -> None:
        self.reads[name] += 1
        await (asyncio.sleep(0) if self.gate is None else self.gate.wait())
        if self.down:
            raise ledger_down()

    def _record(self, seq: int) -> Record:
        return _record(seq, self._ledger.entries[seq])

    def _subtree(self, start: int, end: int) -> bytes:
        return root_of(self._leaves()[start:end])

    def _leaves(self) -> list[bytes]:
        return [leaf_hash(made.committed(bytes(SALT_SIZE))[0]) for made in self._ledger.entries]


def _record(seq: int, made: Entry) -> Record:
    body, stored = made.committed(bytes(SALT_SIZE))
    leaf = decode(body)
    opened = None if stored is None else read_personal(stored, leaf[MEMBER])
    return Record(seq, body, merged(leaf, None if opened is None else opened.members), opened)


def _facts(token: Any) -> frozenset[Fact]:  # noqa: ANN401 - columns of an entry
    single = (
        ("token", token.ref),
        ("task", token.task),
        ("agent", token.agent),
        ("role", token.role),
        ("issuer", token.issuer),
        ("audience", token.audience),
        ("tier", token.tier),
        ("key", token.key),
        ("key", token.bound_key),
    )
    scopes = (("scope", scope) for scope in (token.scope or "").split(" "))
    return frozenset((name, value) for name, value in (*single, *scopes) if value)


async def cancelled_after(work: Coroutine[Any, Any, T], turns: int) -> T | None:
    """Run ``work`` for some turns of the event loop, cancel it, and return its result, or None if it had none.

    Then whatever it started in the background is let come to its end.
    """
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return None
    finally:
        await settled()


async def settled() -> None:
    """Let everything that is ready to run come to its end."""
    for _ in range(100):
        await asyncio.sleep(0)


@dataclass
class ToldSiblings:
    """Implements ``Siblings``: knows what it was told, and what was settled, in order."""

    told: list[Making] = field(default_factory=list)
    settled_rules: list[str] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def tell(self, made: Making) -> None:
        """Hear it."""
        self.told.append(made)
        self.heard.set()

    async def settled(self, rule_id: str) -> None:
        """Hear it."""
        self.settled_rules.append(rule_id)
