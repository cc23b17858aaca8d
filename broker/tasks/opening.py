"""Opening tasks: who may, in what, and the one change that does it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from broker.core.bounds import revoking
from broker.core.change import Change, EpochIs, Guard, IdempotencyFresh, OpenTask, RateWithin, TaskOpen
from broker.core.claims import AccessClaims
from broker.core.errors import Code, EpochMoved, GuardFailed, Refused, too_many_rules
from broker.core.policy import Policy, Role
from broker.core.revoking import IDEMPOTENCY_SECONDS
from broker.core.task import Balance, TaskState
from broker.core.task_opening import Opening, TaskWish
from broker.core.task_reach import Reach
from broker.ports import Caller, Ids, Ledger, Records, Revocations
from broker.tasks.records import opened_entry
from broker.tasks.sight import Sight, not_found

MAX_ATTEMPTS: Final = 16
"""How often opening is decided again because revocations got in between, before the caller is told to come back."""


@dataclass(frozen=True, slots=True)
class _Key:
    """An idempotency key, scoped to its caller, with the request that it stands for."""

    digest: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A request to open a task: everything about it that stays the same when it is decided again."""

    id: str
    wish: TaskWish
    claims: AccessClaims
    caller: Caller
    key: _Key | None
    now: float


class Openings:
    """Opens tasks."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        records: Records,
        sight: Sight,
        revocations: Revocations,
        policy: Callable[[], Policy],
        ids: Ids,
    ) -> None:
        """``revocations`` are the rules in force in this process; ``policy`` returns the one in force."""
        self._ledger = ledger
        self._records = records
        self._sight = sight
        self._revocations = revocations
        self._policy = policy
        self._ids = ids

    async def open(
        self, wish: TaskWish, claims: AccessClaims, caller: Caller, key: str | None, now: float
    ) -> TaskState:
        """Open a task at ``now``; see :meth:`Tasks.open`."""
        wish = wish.checked(self._policy().broker_audience)
        keyed = None if key is None else _key(key, claims, wish)
        attempt = _Attempt(self._ids.new("task"), wish, claims, caller, keyed, now)
        for _ in range(MAX_ATTEMPTS):
            if keyed is not None and (earlier := await self._earlier(keyed)) is not None:
                return earlier
            try:
                return await self._open(attempt)
            except EpochMoved:
                continue
            except GuardFailed as failed:
                if failed.code is not Code.IDEMPOTENCY_KEY_IN_USE:
                    raise  # else the same request was sooner: its task is the answer
        raise too_many_rules()

    async def _open(self, attempt: _Attempt) -> TaskState:
        """Decide once and open. Raises ``EpochMoved`` if the rules changed before it was durable."""
        claims, now = attempt.claims, attempt.now
        epoch = self._revocations.rules.epoch  # before anything is looked at that a rule could change
        reach = await self._sight.reach(claims)
        parent = await self._parent(reach, attempt.wish.parent)
        self._check_standing(reach, parent, now)
        policy = self._policy()
        role = _role_of(policy, claims)
        opening = Opening(id=attempt.id, owner=reach.agent, role=role, policy=policy, parent=parent, now=now)
        task = opening.task(attempt.wish)
        guards = (EpochIs(epoch), *_guards(attempt, role, task.path))
        record = opened_entry(task, claims, policy.digest, attempt.caller)
        await self._ledger.commit(Change(record, guards, (OpenTask(task),)))
        limits = task.budget.limits().items()
        balances = {resource: Balance(limit=limit, used=0, reserved=0) for resource, limit in limits}
        return TaskState(task=task, heartbeat_at=now, balances=balances)

    async def _parent(self, reach: Reach, task_id: str | None) -> TaskState | None:
        """Return the task to open another one in. A token of a task opens none above or beside it."""
        if task_id is None:
            if reach.claims.agents:
                text = "a token that was handed on opens tasks only within its own task: name that as parent"
                raise Refused(Code.TASK_CEILING, text)
            return None
        state = await self._sight.visible(task_id, reach)
        if task_id != reach.claims.task and not await self._sight.governs(reach, state.task):
            raise Refused(Code.TASK_CEILING, "parent: a task is opened within one's own task, or by an owner above it")
        return state

    def _check_standing(self, reach: Reach, parent: TaskState | None, now: float) -> None:
        """Raise ``Refused`` if the caller was revoked meanwhile, or if an operator blocked or revoked what it does."""
        claims, revocations = reach.claims, self._revocations
        if revocations.rules.killer(claims.facts(""), claims.epoch) is not None:
            raise Refused(Code.TOKEN_REVOKED, "the token has been revoked")
        above = () if parent is None else (*parent.task.path, parent.task.id)
        if revoking(revocations.rules, above) is not None:
            raise Refused(Code.TASK_NOT_OPEN, "parent: the task is not open (revoked)")
        block = revocations.blocks.refusing(reach.facts().union(("task", task) for task in above), now)
        if block is not None:
            raise Refused(Code.BLOCKED, f"blocked by an operator: {block.id}")

    async def _earlier(self, keyed: _Key) -> TaskState | None:
        known = await self._records.idempotent(keyed.digest)
        if known is None:
            return None
        if known.fingerprint != keyed.fingerprint:
            raise Refused(Code.IDEMPOTENCY_KEY_REUSED, "this Idempotency-Key was used for another request")
        state = await self._records.task(known.ref)
        if state is None:
            raise not_found()
        return state


def _guards(attempt: _Attempt, role: Role, path: tuple[str, ...]) -> tuple[Guard, ...]:
    agent, now, key = attempt.claims.client_id, attempt.now, attempt.key
    guards: tuple[Guard, ...] = (RateWithin(f"tasks/{agent}", role.limits.tasks_per_minute, now),)
    if path:
        guards = (*guards, TaskOpen(path[-1], now))
    if key is not None:
        fresh = IdempotencyFresh(key.digest, key.fingerprint, attempt.id, int(now) + IDEMPOTENCY_SECONDS)
        guards = (*guards, fresh)
    return guards


def _role_of(policy: Policy, claims: AccessClaims) -> Role:
    role = policy.roles.get(claims.role)
    if role is None:
        raise Refused(Code.NO_ROLE, "the policy does not have the role of this token any more")
    return role


def _key(key: str, claims: AccessClaims, wish: TaskWish) -> _Key:
    """Keys of different agents never meet, nor those that one agent uses on behalf of different others."""
    named = f"tasks\n{claims.client_id}\n{claims.sub}\n{key}"
    return _Key(hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest(), wish.fingerprint())
