"""Law 4 for tasks: whatever is wished for, a task is within its role, and a sub-task within its parent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.errors import BrokerError, Code
from broker.core.implicit_task import default_budget
from broker.core.policy.model import AudienceAllow, Limits, Role, ScopeAllow, SecretAllow, SecretRef, Tier
from broker.core.task import ACTION, DEFAULT_TASK_TTL, Balance, Budget, Task, TaskState
from broker.core.task_opening import Opening, TaskWish
from tests.support.world import API, policy

NOW = 1_795_300_000.25
AUDIENCES = {"https://a.example": ("a:1", "a:2", "a:3"), "https://b.example": ("b:1", "b:2"), API: ("tasks:open",)}
SECRETS = ("db", "mail")
ACTIONS = ("refund", "close", "send")
TIER = Tier(name="t", rank=0, max_ttl=900)
POLICY = policy()
EXPECTED = {
    Code.SCOPE_NOT_ALLOWED,
    Code.AUDIENCE_NOT_ALLOWED,
    Code.TASK_CEILING,
    Code.BUDGET_USED_UP,
    Code.TASK_NOT_OPEN,
}

EVERYTHING = st.just(AUDIENCES)

counts = st.integers(0, 6)
actions = st.none() | st.dictionaries(st.sampled_from(ACTIONS), counts)
wide = st.none() | st.none() | st.integers(4, 20)
wide_actions = st.none() | st.none() | st.dictionaries(st.sampled_from(ACTIONS), st.integers(4, 20), min_size=2)


@st.composite
def ceilings(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    """Some scopes of some audiences, never none."""
    named = draw(st.lists(st.sampled_from(list(AUDIENCES)), min_size=1, unique=True))
    return {
        audience: tuple(sorted(draw(st.sets(st.sampled_from(AUDIENCES[audience]), min_size=1)))) for audience in named
    }


@st.composite
def roles(draw: st.DrawFn) -> Role:
    """A role with some grants and limits."""
    line = ScopeAllow(tier=TIER, ttl=300, path="p")
    secret = {
        name: SecretAllow(secret=SecretRef(name=name, backend="b", tier=TIER, settings={}), ttl=300, path="p")
        for name in draw(st.just(SECRETS) | st.sets(st.sampled_from(SECRETS)))
    }
    limits = Limits(
        tokens_per_minute=60,
        task_ttl=draw(st.none() | st.integers(1, 7200) | st.just(7200)),
        tokens_per_task=draw(wide),
        actions=draw(wide_actions),
        idle_timeout=draw(st.none() | st.none() | st.integers(10, 600)),
    )
    allowed = {
        audience: AudienceAllow(scopes=dict.fromkeys(listed, line))
        for audience, listed in draw(EVERYTHING | ceilings()).items()
    }
    return Role(name="r", members=(), audiences=allowed, secrets=secret, limits=limits)


@st.composite
def wishes(draw: st.DrawFn) -> TaskWish:
    """A wish that may go beyond anything."""
    wish = TaskWish(
        purpose="some work",
        ttl=draw(st.none() | st.integers(1, 8000) | st.integers(1, 600)),
        scopes=draw(st.none() | ceilings()),
        secrets=draw(st.none() | st.lists(st.sampled_from(SECRETS), min_size=1)),
        budget=Budget(
            tokens=draw(st.none() | counts | counts), leases=draw(st.none() | counts | counts), actions=draw(actions)
        ),
        idle_timeout=draw(st.none() | st.integers(10, 700)),
    )
    return wish.checked(API)


@st.composite
def parents(draw: st.DrawFn) -> TaskState:
    """A stored task with part of its budget gone."""
    budget = Budget(tokens=draw(wide), leases=draw(wide), actions=draw(wide_actions))
    task = Task(
        id="task_parent",
        owner="a",
        role="r",
        purpose="p",
        opened_at=NOW - 100,
        deadline=int(NOW) + draw(st.integers(-5, 4000) | st.just(9000)),
        scopes=draw(st.none() | EVERYTHING | ceilings()),
        secrets=draw(st.none() | st.just(SECRETS[:1])),
        budget=budget,
        path=("task_root",),
    )
    balances = {}
    for resource, limit in budget.limits().items():
        used = draw(st.integers(0, limit))
        balances[resource] = Balance(limit=limit, used=used, reserved=draw(st.integers(0, limit - used)))
    return TaskState(task=task, heartbeat_at=NOW, balances=balances)


def _opened(wish: TaskWish, role: Role, parent: TaskState | None) -> Task | None:
    """Return the task, or None if it is refused for one of the reasons that there are."""
    opening = Opening(id="task_new", owner="a", role=role, policy=POLICY, parent=parent, now=NOW)
    try:
        return opening.task(wish)
    except BrokerError as error:
        if error.code not in (EXPECTED if parent is None else EXPECTED | {Code.TASK_MALFORMED}):
            raise
    return None


def _within(limit: int | None, ceiling: int | None) -> bool:
    return ceiling is None or (limit is not None and limit <= ceiling)


@given(wish=wishes(), role=roles(), parent=st.none() | parents())
def test_a_task_is_within_its_role(wish: TaskWish, role: Role, parent: TaskState | None) -> None:
    """In its scopes and secrets as far as it names them, in its time and its idle time-out, in its budget."""
    task = _opened(wish, role, parent)
    if task is None:
        return
    usual = default_budget(role.limits)
    assert NOW < task.deadline <= NOW + (role.limits.task_ttl or DEFAULT_TASK_TTL)
    assert _within(task.idle_timeout, role.limits.idle_timeout)
    assert _within(task.budget.tokens, usual.tokens)
    for audience, listed in (wish.scopes or {}).items():
        assert set(listed) <= set(role.audiences[audience].scopes)
    assert set(wish.secrets or ()) <= set(role.secrets)
    if usual.actions is not None:
        assert task.budget.actions is not None
        assert all(count <= usual.actions.get(name, 0) for name, count in task.budget.actions.items())


@settings(max_examples=300)
@given(wish=wishes(), role=roles(), parent=parents())
def test_a_task_in_a_task_is_within_it(wish: TaskWish, role: Role, parent: TaskState) -> None:
    """It ends no later, allows no scope and no secret that the parent does not, and takes no more than is left."""
    task = _opened(wish, role, parent)
    if task is None:
        return
    outer = parent.task
    assert outer.deadline > NOW
    assert task.deadline <= outer.deadline
    assert task.path == ("task_root", "task_parent")
    for audience, listed in AUDIENCES.items():
        for scope in listed:
            assert outer.allows(audience, (scope,)) or not task.allows(audience, (scope,))
    assert outer.secrets is None or (task.secrets is not None and set(task.secrets) <= set(outer.secrets))
    for resource in ("tokens", "leases"):
        balance = parent.balances.get(resource)
        assert _within(getattr(task.budget, resource), None if balance is None else balance.left)
    if outer.budget.actions is not None:
        assert task.budget.actions is not None
        for name, count in task.budget.actions.items():
            balance = parent.balances.get(ACTION + name)
            assert count <= (0 if balance is None else balance.left)


@given(wish=wishes(), role=roles())
def test_what_is_wished_for_is_what_one_gets(wish: TaskWish, role: Role) -> None:
    """A wish is never quietly cut: it is granted as it is, or refused."""
    task = _opened(wish, role, None)
    if task is None:
        return
    assert wish.ttl is None or task.deadline == int(NOW) + wish.ttl
    assert wish.scopes is None or task.scopes == wish.scopes
    assert wish.secrets is None or task.secrets == tuple(wish.secrets)
    assert wish.idle_timeout is None or task.idle_timeout == wish.idle_timeout
    for asked, got in (
        (wish.budget.tokens, task.budget.tokens),
        (wish.budget.leases, task.budget.leases),
        (wish.budget.actions, task.budget.actions),
    ):
        assert asked is None or got == asked


@given(wish=wishes(), changes=st.fixed_dictionaries({}, optional={"ttl": st.just(1), "purpose": st.just("another")}))
def test_fingerprints_tell_wishes_apart(wish: TaskWish, changes: dict[str, Any]) -> None:
    """The same wish has the same fingerprint, in whatever order it was written; another one has another."""
    other = replace(wish, **changes)
    assert (other.fingerprint() == wish.fingerprint()) == (other == wish)
    if wish.scopes is not None:
        turned = replace(
            wish, scopes={audience: wish.scopes[audience][::-1] for audience in reversed(list(wish.scopes))}
        )
        assert turned.checked(API).fingerprint() == wish.fingerprint()
