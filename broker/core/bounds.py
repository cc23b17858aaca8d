"""What a task leaves of a grant: never more than its ceiling, never longer than it is open."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from broker.core.errors import Code
from broker.core.grant import Decision, Denied, Granted, NeedsApproval
from broker.core.policy import Role
from broker.core.rules import Rule, RuleIndex
from broker.core.task import Task

_TASK_NEEDED: Final = Denied(Code.TASK_REQUIRED, "this role works in tasks that were opened: open one and name it")


def within_task(decision: Decision, task: Task | None, now: float) -> Decision:
    """Return the decision as the task bounds it at ``now`` (Unix seconds); no task bounds nothing."""
    if task is None:
        return decision
    match decision:
        case Denied():
            return decision
        case Granted():
            return _bounded(decision, task, now)
        case NeedsApproval():
            granted = _bounded(decision.granted, task, now)
            return replace(decision, granted=granted) if isinstance(granted, Granted) else granted


def unopened(role: Role | None, task: Task) -> Denied | None:
    """Return why a role that works only in tasks that were opened grants nothing in this one, or None."""
    return _TASK_NEEDED if role is not None and role.explicit_tasks and task.implicit else None


def revoking(rules: RuleIndex, ids: Iterable[str], field: str = "task") -> Rule | None:
    """Return a live rule that is about one of these tasks as such, so that nothing more may be granted in it.

    A rule that names a task among other things, or everything, ends tokens of the task, but not the task. With another
    ``field``, such as ``token``, the ids are of those.
    """
    rule = rules.killer([(field, each) for each in ids], 0)
    return None if rule is None or rule.selector.everything else rule


def _bounded(granted: Granted, task: Task, now: float) -> Granted | Denied:
    if not task.allows(granted.audience, granted.scopes):
        return Denied(Code.TASK_CEILING, "the task was opened for less than this")
    left = int(task.deadline - now)
    if left < 1:
        return Denied(Code.TASK_NOT_OPEN, "the task is over")
    return granted if granted.ttl <= left else replace(granted, ttl=left)
