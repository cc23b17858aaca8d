"""Tasks, their budgets and their actions inside one transaction: what a batch names is loaded, judged, changed, stored.

The changes of a batch see each other exactly as if each had been a transaction of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, func, insert, or_, select, update

from broker.core.action import NOT_DONE
from broker.core.change import (
    ActionUnsettled,
    AddAction,
    AddRule,
    Change,
    CloseTask,
    Guard,
    Heartbeat,
    OpenTask,
    RaiseBudget,
    Refund,
    SettleAction,
    Spend,
    TaskHoldsNothing,
    TaskOpen,
    TaskUnclosed,
    Write,
)
from broker.core.errors import Code, GuardFailed
from broker.core.task import Task, TaskState
from broker.ledger import schema
from broker.ledger.writing.task_nodes import Account, Node, ReservedAction
from broker.ledger.writing.task_rows import action_row, below, chunks, load_tasks, read_action, read_tasks, task_row

TASK_GUARDS: Final = (TaskOpen, TaskUnclosed, TaskHoldsNothing, Spend, ActionUnsettled)
TASK_WRITES: Final = (AddRule, OpenTask, CloseTask, Heartbeat, RaiseBudget, Refund, AddAction, SettleAction)


class TaskBook:
    """The tasks and actions that a batch is about."""

    def __init__(self) -> None:
        """Nothing is loaded."""
        self._nodes: dict[str, Node] = {}
        self._actions: dict[str, ReservedAction] = {}
        self._held: dict[str, float] = {}

    @classmethod
    def load(cls, connection: Connection, guards: Sequence[Guard], writes: Sequence[Write]) -> TaskBook:
        """Read everything that these guards and writes name."""
        book = cls()
        book._load_actions(connection, guards, writes)
        named = set(_named(guards, writes)) | {known.action.task for known in book._actions.values()}
        book._load_nodes(connection, named)
        book._load_nodes(connection, {parent for node in book._nodes.values() for parent in node.task.path})
        for closing in [write.task_id for write in writes if isinstance(write, CloseTask)]:
            book._load_subtree(connection, closing)
        quiet = [guard.task_id for guard in guards if isinstance(guard, TaskHoldsNothing)]
        for task_id in {*quiet, *_revoked(writes)}:
            book._held[task_id] = tree_holds_until(connection, task_id)
        return book

    def held(self, task_id: str) -> float | None:
        """Return when the last grant of a stored task's tree expires, those of this batch included; None if unknown."""
        if task_id not in self._nodes:
            return None
        return max([self._held.get(task_id, 0), *(node.holds_until for node in self._tree(task_id))])

    def left(self, task_id: str, resource: str) -> int | None:
        """Return how many of a resource a task may still use, as of this batch; None if that is not limited."""
        node = self._nodes.get(task_id)
        account = None if node is None else node.accounts.get(resource)
        return None if account is None else account.left

    # --- judging ----------------------------------------------------------------------------------------------------

    def judge(self, change: Change) -> GuardFailed | None:
        """Return why a change may not be applied, or None."""
        implicit: dict[str, Task] = {}
        for guard in change.guards:
            failed: GuardFailed | None = None
            match guard:
                case TaskOpen():
                    failed = self._judge_open(guard, implicit)
                case TaskUnclosed():
                    failed = self._judge_unclosed(guard)
                case TaskHoldsNothing(task_id, at):
                    failed = self._judge_quiet(task_id, at)
                case Spend():
                    failed = self._judge_spend(guard, implicit.get(guard.task_id))
                case ActionUnsettled():
                    failed = self._judge_action(guard)
                case _:
                    pass
            if failed is not None:
                return failed
        failures = (self._judge_opening(write.task) for write in change.writes if isinstance(write, OpenTask))
        return next((failed for failed in failures if failed is not None), None)

    def _judge_open(self, guard: TaskOpen, implicit: dict[str, Task]) -> GuardFailed | None:
        node = self._nodes.get(guard.task_id)
        if node is None:
            if guard.implicit is None:
                return _not_open("there is no such task")
            implicit[guard.task_id] = guard.implicit
            node = Node.new(guard.implicit)
        ended = node.state().ended(guard.at)
        return None if ended is None else _not_open(f"the task has ended: {ended}")

    def _judge_unclosed(self, guard: TaskUnclosed) -> GuardFailed | None:
        node = self._nodes.get(guard.task_id)
        if node is None or node.closed_at is not None:
            return _not_open("there is no such task" if node is None else "the task is closed")
        is_over = guard.over_at is None or node.state().ended(guard.over_at) is not None
        return None if is_over else _not_open("the time of the task is not over")

    def _judge_quiet(self, task_id: str, at: float) -> GuardFailed | None:
        held = self.held(task_id)
        return GuardFailed(Code.CONFLICT, "the task holds living grants") if held is not None and held > at else None

    def _judge_spend(self, guard: Spend, implicit: Task | None) -> GuardFailed | None:
        node = self._nodes.get(guard.task_id)
        if node is None:
            if implicit is None:
                return _not_open("there is no such task")
            node = Node.new(implicit)
        account = node.accounts.get(guard.resource)
        left = account.left if account is not None else 0 if guard.limited else guard.count
        return None if guard.count <= left else _used_up(guard.resource, left)

    def _judge_action(self, guard: ActionUnsettled) -> GuardFailed | None:
        known = self._actions.get(guard.action_id)
        if known is None or known.action.by != guard.by:
            return GuardFailed(Code.NOT_FOUND, "no such action was reserved")
        if known.outcome is not None:
            return GuardFailed(Code.CONFLICT, "the action was settled already")
        return GuardFailed(Code.CONFLICT, "too late to settle it") if known.action.settle_by <= guard.at else None

    def _judge_opening(self, task: Task) -> GuardFailed | None:
        if task.id in self._nodes:
            return GuardFailed(Code.CONFLICT, "a task of this id exists already")
        parent = self._parent(task)
        if parent is None:
            return _not_open("there is no such parent task") if task.path else None
        limits = task.budget.limits()
        for resource, account in parent.accounts.items():
            if resource not in limits and not (
                parent.task.budget.actions is not None and resource.startswith("action:")
            ):
                return _used_up(resource, account.left, "the parent limits it: say how many")
        for resource, limit in limits.items():
            reserving = parent.accounts.get(resource)
            if reserving is None and not parent.task.budget.limits_resource(resource):
                continue
            left = 0 if reserving is None else reserving.left
            if limit > left:
                return _used_up(resource, left, "the parent has no more")
        if parent.task.budget.actions is not None and task.budget.actions is None:
            return _used_up("actions", 0, "the parent limits them: say which")
        return None

    # --- changing ---------------------------------------------------------------------------------------------------

    def apply(self, change: Change) -> None:
        """Take up what a change does that was found good."""
        for guard in change.guards:
            match guard:
                case TaskOpen(task_id, _, implicit, holds_until):
                    if task_id not in self._nodes and implicit is not None:
                        self._nodes[task_id] = Node.new(implicit)
                    node = self._nodes[task_id]
                    if holds_until > node.holds_until:
                        node.holds_until, node.changed = holds_until, True
                case Spend(task_id, resource, count):
                    account = self._nodes[task_id].accounts.get(resource)
                    if account is not None:
                        account.move(used=count)
                case _:
                    pass
        for write in change.writes:
            self._apply(write)

    def _apply(self, write: Write) -> None:
        match write:
            case OpenTask(task):
                self._open(task)
            case CloseTask():
                self._close(write)
            case Heartbeat(task_id, at):
                node = self._nodes[task_id]
                node.heartbeat_at, node.changed = max(node.heartbeat_at, at), True
            case RaiseBudget():
                self._raise(write)
            case AddAction(action):
                self._actions[action.id] = ReservedAction(action)
            case SettleAction():
                self._settle(write)
            case Refund():
                self._refund(write)
            case _:
                pass

    def _open(self, task: Task) -> None:
        self._nodes[task.id] = Node.new(task)
        parent = self._parent(task)
        for resource, limit in task.budget.limits().items():
            if parent is not None and resource in parent.accounts:
                parent.accounts[resource].move(reserved=limit)

    def _close(self, write: CloseTask) -> None:
        root = self._nodes.get(write.task_id)
        if root is None or root.closed_at is not None:
            return  # a rule may name a task that was never stored, or that is over
        closing = [node for node in self._tree(write.task_id) if node.closed_at is None]
        # From the leaves up, so that what each used is in all that are above it, as if they had been closed one by one.
        for node in sorted(closing, key=lambda node: len(node.task.path), reverse=True):
            self._fold(node)
            node.closed_at, node.closed_because, node.changed = write.at, write.because, True

    def _fold(self, node: Node) -> None:
        """Add what a task used to its parent, and give back the rest of what was reserved for it."""
        parent = self._parent(node.task)
        for resource, mine in node.accounts.items():
            if parent is not None and resource in parent.accounts:
                parent.accounts[resource].move(used=mine.used, reserved=-mine.limit)

    def _raise(self, write: RaiseBudget) -> None:
        node = self._nodes[write.task_id]
        node.accounts.setdefault(write.resource, Account(0)).move(limit=write.count)
        for ancestor in self._ancestors(node.task):
            if write.resource in ancestor.accounts or ancestor.task.budget.limits_resource(write.resource):
                account = ancestor.accounts.setdefault(write.resource, Account(0))
                account.move(limit=write.count, reserved=write.count)

    def _settle(self, write: SettleAction) -> None:
        known = self._actions[write.action_id]
        known.outcome, known.result, known.settled_at = write.outcome, write.result, write.at
        if write.outcome != NOT_DONE:
            return
        self._refund(Refund(known.action.task, f"action:{known.action.name}", known.action.count))

    def _refund(self, write: Refund) -> None:
        node: Node | None = self._nodes.get(write.task_id)
        # What a closed task used was added to its parent; there it is taken back, too, and so on up to an open one.
        while node is not None and write.resource in node.accounts:
            node.accounts[write.resource].move(used=-write.count)
            node = None if node.closed_at is None else self._parent(node.task)

    # --- storing ----------------------------------------------------------------------------------------------------

    def flush(self, connection: Connection) -> None:
        """Write what has changed."""
        new = [node for node in self._nodes.values() if not node.stored]
        if new:
            connection.execute(insert(schema.tasks), [task_row(node.state()) for node in new])
        changed = [node for node in self._nodes.values() if node.stored and node.changed]
        if changed:
            connection.execute(_UPDATE_TASK, [_changes(node) for node in changed])
        self._flush_accounts(connection)
        self._flush_actions(connection)

    def _flush_accounts(self, connection: Connection) -> None:
        rows = [
            (account, {"t": node.task.id, "r": resource, "l": account.limit, "u": account.used, "v": account.reserved})
            for node in self._nodes.values()
            for resource, account in node.accounts.items()
        ]
        added = [row for account, row in rows if not account.stored]
        if added:
            connection.execute(_ADD_BUDGET, added)
        changed = [row for account, row in rows if account.stored and account.changed]
        if changed:
            connection.execute(_UPDATE_BUDGET, changed)

    def _flush_actions(self, connection: Connection) -> None:
        new = [known for known in self._actions.values() if not known.stored]
        if new:
            rows = [
                {**action_row(k.action), "outcome": k.outcome, "result": k.result, "settled_at": k.settled_at}
                for k in new
            ]
            connection.execute(insert(schema.actions), rows)
        settled = [known for known in self._actions.values() if known.stored and known.outcome is not None]
        if settled:
            rows = [{"i": k.action.id, "o": k.outcome, "r": k.result, "s": k.settled_at} for k in settled]
            connection.execute(_SETTLE, rows)

    # --- the tree ---------------------------------------------------------------------------------------------------

    def _parent(self, task: Task) -> Node | None:
        return self._nodes.get(task.path[-1]) if task.path else None

    def _ancestors(self, task: Task) -> Iterator[Node]:
        return (self._nodes[ancestor] for ancestor in task.path if ancestor in self._nodes)

    def _tree(self, task_id: str) -> list[Node]:
        return [node for node in self._nodes.values() if task_id in (node.task.id, *node.task.path)]

    def _load_nodes(self, connection: Connection, ids: Iterable[str]) -> None:
        missing = [task_id for task_id in ids if task_id not in self._nodes]
        self._take(load_tasks(connection, missing))

    def _load_subtree(self, connection: Connection, task_id: str) -> None:
        root = self._nodes.get(task_id)
        if root is None:
            return
        query = select(schema.tasks).where(below(root.task), schema.tasks.c.closed_at.is_(None))
        self._take(read_tasks(connection, connection.execute(query).all()))

    def _take(self, states: Iterable[TaskState]) -> None:
        for state in states:
            self._nodes.setdefault(state.task.id, Node.of(state))

    def _load_actions(self, connection: Connection, guards: Sequence[Guard], writes: Sequence[Write]) -> None:
        ids = {guard.action_id for guard in guards if isinstance(guard, ActionUnsettled)}
        ids |= {write.action_id for write in writes if isinstance(write, SettleAction)}
        for some in chunks(list(ids)):
            for row in connection.execute(select(schema.actions).where(schema.actions.c.id.in_(some))):
                state = read_action(row)
                self._actions[state.action.id] = ReservedAction(
                    state.action, state.outcome, state.result, state.settled_at, stored=True
                )


def tree_holds_until(connection: Connection, task_id: str) -> float:
    """Return when the last grant of a task and of all below it expires, open or closed; 0 if there never was one."""
    known = load_tasks(connection, [task_id])
    if not known:
        return 0
    table = schema.tasks.c
    query = select(func.max(table.holds_until)).where(or_(table.id == task_id, below(known[0].task)))
    latest = float(connection.scalar(query) or 0)
    # The token that an implicit task was made for is not one of its grants; the task ends with it.
    return max(latest, known[0].task.deadline) if known[0].task.implicit else latest


def _named(guards: Sequence[Guard], writes: Sequence[Write]) -> Iterator[str]:
    for guard in guards:
        if isinstance(guard, TaskOpen | TaskUnclosed | TaskHoldsNothing | Spend):
            yield guard.task_id
    for write in writes:
        match write:
            case OpenTask(task):
                yield task.id
                yield from task.path
            case CloseTask(task_id) | Heartbeat(task_id) | RaiseBudget(task_id) | Refund(task_id):
                yield task_id
            case _:
                pass
    yield from _revoked(writes)


def _revoked(writes: Sequence[Write]) -> Iterator[str]:
    """Yield the tasks that rules of the batch are about as such."""
    for write in writes:
        if isinstance(write, AddRule) and len(facts := write.rule.selector.facts()) == 1 and facts[0][0] == "task":
            yield facts[0][1]


def _changes(node: Node) -> dict[str, object]:
    return {
        "i": node.task.id,
        "h": node.heartbeat_at,
        "u": node.holds_until,
        "c": node.closed_at,
        "b": node.closed_because,
    }


def _not_open(why: str) -> GuardFailed:
    return GuardFailed(Code.TASK_NOT_OPEN, why)


def _used_up(resource: str, left: int, why: str = "no more may be used") -> GuardFailed:
    return GuardFailed(Code.BUDGET_USED_UP, f"{resource.removeprefix('action:')}: {left} left, {why}")


_tasks: Final = schema.tasks
_UPDATE_TASK: Final = (
    update(_tasks)
    .where(_tasks.c.id == bindparam("i"))
    .values(
        heartbeat_at=bindparam("h"),
        holds_until=bindparam("u"),
        closed_at=bindparam("c"),
        closed_because=bindparam("b"),
    )
)
_budgets: Final = schema.budgets
_ADD_BUDGET: Final = insert(_budgets).values(
    task=bindparam("t"), resource=bindparam("r"), limit=bindparam("l"), used=bindparam("u"), reserved=bindparam("v")
)
_UPDATE_BUDGET: Final = (
    update(_budgets)
    .where(_budgets.c.task == bindparam("t"), _budgets.c.resource == bindparam("r"))
    .values(limit=bindparam("l"), used=bindparam("u"), reserved=bindparam("v"))
)
_actions: Final = schema.actions
_SETTLE: Final = (
    update(_actions)
    .where(_actions.c.id == bindparam("i"), _actions.c.outcome.is_(None))
    .values(outcome=bindparam("o"), result=bindparam("r"), settled_at=bindparam("s"))
)
