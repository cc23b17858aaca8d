"""What a task leaves of a grant: never more than its ceiling, never longer than it is open."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from broker.core.errors import Code
from broker.core.grant import Decision, Denied, Granted, NeedsApproval
from broker.core.rules import Rule, RuleIndex
from broker.core.task import Task


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


def revoking(rules: RuleIndex, tasks: Iterable[str]) -> Rule | None:
    """Return a live rule that is about one of these tasks as such, so that nothing more may be granted in it.

    A rule that names a task among other things, or everything, ends tokens of the task, but not the task.
    """
    rule = rules.killer([("task", task) for task in tasks], 0)
    return None if rule is None or rule.selector.everything else rule


def _bounded(granted: Granted, task: Task, now: float) -> Granted | Denied:
    if not task.allows(granted.audience, granted.scopes):
        return Denied(Code.TASK_CEILING, "the task was opened for less than this")
    left = int(task.deadline - now)
    if left < 1:
        return Denied(Code.TASK_NOT_OPEN, "the task is over")
    return granted if granted.ttl <= left else replace(granted, ttl=left)
