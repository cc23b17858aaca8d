"""Opening a task: what somebody wishes for, and the task that it comes to within a role and a parent task."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from broker.core.audience import canonical_audience
from broker.core.errors import Code, Malformed, Refused
from broker.core.implicit_task import default_budget
from broker.core.lifetime import MAX_SECONDS, format_duration
from broker.core.policy import Policy, Role
from broker.core.policy.operator_scopes import BROKER
from broker.core.scope import MAX_SCOPES, parse_scopes
from broker.core.task import (
    ACTION,
    DEFAULT_TASK_TTL,
    LEASES,
    MAX_TASK_DEPTH,
    TOKENS,
    Budget,
    Task,
    TaskState,
    check_labels,
    check_purpose,
    is_action_name,
    looks_like_instructions,
    parse_task_id,
)

MAX_COUNT: Final = 1_000_000_000
"""The most of anything that a budget may hold."""

MAX_AUDIENCES: Final = 16
MAX_NAMES: Final = 64
"""The most secrets, and the most actions, that one task may name."""

MIN_IDLE: Final = 10
"""Seconds: the shortest idle time-out. A heartbeat must have time to arrive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskWish:
    """What a task is to be; whatever is None was left to the role, or to the parent task.

    ``ttl`` and ``idle_timeout`` are in seconds; ``scopes`` are by audience; ``parent`` is the id of the task that this
    one is to be a part of.
    """

    purpose: str
    ttl: int | None = None
    scopes: Mapping[str, Sequence[str]] | None = None
    secrets: Sequence[str] | None = None
    budget: Budget = field(default_factory=Budget)
    labels: Mapping[str, str] = field(default_factory=dict)
    idle_timeout: int | None = None
    parent: str | None = None

    def checked(self, broker_audience: str) -> TaskWish:
        """Return the wish in the one form in which it is compared and stored. Raises ``Malformed``.

        ``broker_audience`` is what ``broker`` stands for among the audiences.
        """
        _check_seconds("ttl", self.ttl, 1)
        _check_seconds("idle_timeout", self.idle_timeout, MIN_IDLE)
        _check_budget(self.budget)
        return replace(
            self,
            purpose=check_purpose(self.purpose),
            scopes=None if self.scopes is None else _checked_scopes(self.scopes, broker_audience),
            secrets=None if self.secrets is None else _checked_names("secrets", self.secrets),
            labels=check_labels(self.labels),
            parent=None if self.parent is None else parse_task_id(self.parent),
        )

    def fingerprint(self) -> str:
        """Return a digest of what is asked, to tell a repeated request from a different one under the same key."""
        return hashlib.sha256(msgspec.json.encode(msgspec.to_builtins(self), order="sorted")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Who opens a task, under which role, below which task, at which time (Unix seconds)."""

    id: str
    owner: str
    role: Role
    policy: Policy
    parent: TaskState | None
    now: float

    def task(self, wish: TaskWish) -> Task:
        """Return the task that a checked wish comes to.

        Raises ``Refused``: ``SCOPE_NOT_ALLOWED`` or ``AUDIENCE_NOT_ALLOWED`` for what the role does not allow,
        ``TASK_CEILING`` for what the parent or the role's limits do not, ``BUDGET_USED_UP`` for more than the parent
        has left, ``TASK_NOT_OPEN`` for a parent that has ended; or ``Malformed`` if a number must be named.
        """
        return Task(
            id=self.id,
            owner=self.owner,
            role=self.role.name,
            purpose=wish.purpose,
            opened_at=self.now,
            deadline=self._deadline(wish.ttl),
            scopes=self._scopes(wish.scopes),
            secrets=self._secrets(wish.secrets),
            budget=self._budget(wish.budget),
            labels=wish.labels,
            path=self._path(),
            idle_timeout=self._idle_timeout(wish.idle_timeout),
            flagged=looks_like_instructions(wish.purpose),
        )

    def _path(self) -> tuple[str, ...]:
        if self.parent is None:
            return ()
        path = (*self.parent.task.path, self.parent.task.id)
        if len(path) > MAX_TASK_DEPTH:
            raise Refused(Code.TASK_CEILING, f"parent: tasks are nested {MAX_TASK_DEPTH} deep at most")
        return path

    def _deadline(self, ttl: int | None) -> int:
        longest = self.role.limits.task_ttl or DEFAULT_TASK_TTL
        if ttl is not None and ttl > longest:
            text = f"ttl: a task of the role {self.role.name} is open for {format_duration(longest)} at most"
            raise Refused(Code.TASK_CEILING, text)
        deadline = int(self.now) + (ttl or longest)
        if self.parent is None:
            return deadline
        if (why := self.parent.ended(self.now)) is not None:
            raise Refused(Code.TASK_NOT_OPEN, f"parent: the task is not open ({why})")
        end = self.parent.task.deadline
        if ttl is not None and deadline > end:
            raise Refused(Code.TASK_CEILING, f"ttl: the parent task ends before that, in {int(end - self.now)} seconds")
        return min(deadline, end)

    def _idle_timeout(self, asked: int | None) -> int | None:
        longest = self.role.limits.idle_timeout
        if asked is None or longest is None:
            return asked or longest
        if asked > longest:
            text = f"idle_timeout: at most {format_duration(longest)} in the role {self.role.name}"
            raise Refused(Code.TASK_CEILING, text)
        return asked

    def _givers(self) -> tuple[Role, ...]:
        """Return the roles whose grants a ceiling may speak of.

        They are the role itself and those that it may have work done by with their own grants: a coordinator that can
        do nothing itself must be able to say what its workers may do. A ceiling grants nothing.
        """
        delegates = self.role.may_delegate_to
        own = (self.policy.roles[name] for name in delegates if delegates[name].own_grants)
        return (self.role, *own)

    def _scopes(self, asked: Mapping[str, Sequence[str]] | None) -> Mapping[str, tuple[str, ...]] | None:
        ceiling = None if self.parent is None else self.parent.task.scopes
        if asked is None:
            return ceiling
        for audience, scopes in asked.items():
            allowed = [giver.audiences[audience] for giver in self._givers() if audience in giver.audiences]
            if not allowed:
                raise Refused(Code.AUDIENCE_NOT_ALLOWED, f"scopes: the role allows nothing at {audience}")
            missing = [scope for scope in scopes if not any(scope in allow.scopes for allow in allowed)]
            if missing:
                raise Refused(Code.SCOPE_NOT_ALLOWED, f"scopes: not allowed to this role: {_listed(missing)}")
            if ceiling is not None and (beyond := _beyond(scopes, ceiling.get(audience, ()))):
                raise Refused(Code.TASK_CEILING, f"scopes: the parent task does not allow: {_listed(beyond)}")
        return {audience: tuple(scopes) for audience, scopes in asked.items()}

    def _secrets(self, asked: Sequence[str] | None) -> tuple[str, ...] | None:
        ceiling = None if self.parent is None else self.parent.task.secrets
        if asked is None:
            return ceiling
        allowed = {name for giver in self._givers() for name in giver.secrets}
        if missing := _beyond(asked, allowed):
            raise Refused(Code.SCOPE_NOT_ALLOWED, f"secrets: not allowed to this role: {_listed(missing)}")
        if ceiling is not None and (beyond := _beyond(asked, ceiling)):
            raise Refused(Code.TASK_CEILING, f"secrets: the parent task does not allow: {_listed(beyond)}")
        return tuple(asked)

    def _budget(self, asked: Budget) -> Budget:
        usual = default_budget(self.role.limits)
        return Budget(
            tokens=self._count(TOKENS, asked.tokens, usual.tokens),
            leases=self._count(LEASES, asked.leases, usual.leases),
            actions=self._actions(asked.actions, usual.actions),
        )

    def _count(self, resource: str, asked: int | None, usual: int | None) -> int | None:
        left = self._left(resource)
        if asked is None:
            if left is not None:
                text = f"budget.{resource}: say how many; the parent task has {left} left to give"
                raise Malformed(text, Code.TASK_MALFORMED)
            return usual
        self._check_count(resource, asked, left, usual)
        return asked

    def _actions(self, asked: Mapping[str, int] | None, usual: Mapping[str, int] | None) -> Mapping[str, int] | None:
        is_limited = self.parent is not None and self.parent.task.budget.actions is not None
        if asked is None:
            return {} if is_limited else usual
        for name, count in asked.items():
            left = (self._left(ACTION + name) or 0) if is_limited else None
            most = None if usual is None else usual.get(name, 0)
            self._check_count(f"actions.{name}", count, left, most)
        return dict(asked)

    def _left(self, resource: str) -> int | None:
        """Return what the parent has left to give, None if it does not limit that."""
        balance = None if self.parent is None else self.parent.balances.get(resource)
        return None if balance is None else balance.left

    def _check_count(self, name: str, asked: int, left: int | None, most: int | None) -> None:
        if left is not None and asked > left:
            raise Refused(Code.BUDGET_USED_UP, f"budget.{name}: the parent task has {left} left to give")
        if most is not None and asked > most:
            raise Refused(Code.TASK_CEILING, f"budget.{name}: at most {most} in a task of the role {self.role.name}")


def _check_seconds(name: str, seconds: int | None, least: int) -> None:
    if seconds is not None and not least <= seconds <= MAX_SECONDS:
        raise Malformed(f"{name}: must be {least} to {MAX_SECONDS} seconds", Code.TASK_MALFORMED)


def _check_budget(budget: Budget) -> None:
    actions = budget.actions or {}
    if len(actions) > MAX_NAMES:
        raise Malformed(f"budget.actions: at most {MAX_NAMES}", Code.TASK_MALFORMED)
    if not all(map(is_action_name, actions)):
        text = (
            "budget.actions: a name has 1 to 128 ASCII letters, digits and . _ : / - (a letter or digit at both ends)"
        )
        raise Malformed(text, Code.TASK_MALFORMED)
    for resource, count in budget.limits().items():
        if isinstance(count, bool) or not 0 <= count <= MAX_COUNT:
            text = f"budget: {resource} must be a whole number from 0 to {MAX_COUNT}"
            raise Malformed(text, Code.TASK_MALFORMED)


def _checked_scopes(scopes: Mapping[str, Sequence[str]], broker_audience: str) -> Mapping[str, tuple[str, ...]]:
    if not 0 < len(scopes) <= MAX_AUDIENCES:
        raise Malformed(f"scopes: name 1 to {MAX_AUDIENCES} audiences, or leave it out", Code.TASK_MALFORMED)
    checked: dict[str, tuple[str, ...]] = {}
    for named, listed in scopes.items():
        audience = broker_audience if named == BROKER else canonical_audience(named, "scopes")
        if audience in checked:
            raise Malformed("scopes: an audience is named twice", Code.TASK_MALFORMED)
        if not listed:
            raise Malformed("scopes: name at least one scope for each audience", Code.TASK_MALFORMED)
        checked[audience] = parse_scopes(" ".join(_one_by_one(listed)))
    if sum(map(len, checked.values())) > MAX_SCOPES:
        raise Malformed(f"scopes: at most {MAX_SCOPES} in all", Code.TASK_MALFORMED)
    return checked


def _one_by_one(listed: Sequence[str]) -> Sequence[str]:
    """Refuse a list in which one item holds several scopes: it would read as another list than it is."""
    if any(" " in scope for scope in listed):
        raise Malformed("scopes: one scope in each item of a list", Code.SCOPE_MALFORMED)
    return listed


def _checked_names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    if not 0 < len(names) <= MAX_NAMES:
        raise Malformed(f"{what}: name 1 to {MAX_NAMES}, or leave it out", Code.TASK_MALFORMED)
    return tuple(sorted(set(names)))


def _beyond(asked: Iterable[str], ceiling: Collection[str]) -> list[str]:
    return [name for name in asked if name not in ceiling]


def _listed(names: Sequence[str]) -> str:
    """Name what of the caller's own request was not allowed; a long list is cut."""
    shown = " ".join(ascii(name)[1:-1][:128] for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")  # noqa: PLR2004 - as many as are shown
