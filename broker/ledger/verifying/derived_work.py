"""What the tables of tasks, actions and approvals must hold, derived from the entries alone.

Rows that are gone were forgotten in time, which is no error. A row that no entry recorded, or that says something else,
is one: somebody could otherwise open a task again, or approve a request, by writing into the database.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, select

from broker.core.approval import APPROVED, DENIED, PENDING, REVIEWED, UNREVIEWED, USED
from broker.core.entry import Kind
from broker.ledger import schema
from broker.ledger.writing.task_rows import path_text

_KINDS: Final = frozenset(
    {
        Kind.TASK_OPENED,
        Kind.TASK_CLOSED,
        Kind.RULE_ADDED,
        Kind.ACTION_RESERVED,
        Kind.ACTION_SETTLED,
        Kind.APPROVAL_REQUESTED,
        Kind.APPROVAL_VOTED,
        Kind.APPROVAL_REVIEWED,
        Kind.BUDGET_RAISED,
        Kind.TOKEN_ISSUED,
        Kind.LEASE_INTENDED,
    }
)
_BY_REF: Final = _KINDS - {Kind.RULE_ADDED, Kind.TOKEN_ISSUED, Kind.LEASE_INTENDED, Kind.BUDGET_RAISED}
"""Those that are about what their reference names, and about nothing else."""


@dataclass(slots=True)
class _Approval:
    """A request as its entries tell it."""

    digest: object
    quorum: object
    state: str
    votes: dict[str, object] = field(default_factory=dict)
    agreed: int = 0


class DerivedWork:
    """Follows the entries in their order, then compares the tables with what they come to."""

    def __init__(self) -> None:
        """Nothing is recorded yet."""
        self._tasks: dict[str, tuple[object, object, str]] = {}
        self._closed: set[str] = set()
        self._actions: dict[str, tuple[object, object, object]] = {}
        self._outcomes: dict[str, object] = {}
        self._approvals: dict[str, _Approval] = {}
        self.stored: Container[str] | None = None
        """The tasks, actions and approvals to remember; None: all of them."""

    def take(self, members: Mapping[str, Any]) -> None:
        """Take up an entry."""
        kind, ref = members["kind"], str(members.get("ref"))
        if kind not in _KINDS or (kind in _BY_REF and self.stored is not None and ref not in self.stored):
            return
        match kind:
            case Kind.TASK_OPENED:
                path = members.get("path", [])
                self._tasks[ref] = (
                    members.get("agent"),
                    members.get("deadline"),
                    path_text([str(one) for one in path]),
                )
            case Kind.TASK_CLOSED:
                self._closed.add(ref)
            case Kind.RULE_ADDED if "closes" in members:
                self._closed.add(str(members["closes"]))
            case Kind.ACTION_RESERVED:
                self._actions[ref] = (members.get("task"), members.get("action"), members.get("count"))
            case Kind.ACTION_SETTLED:
                self._outcomes[ref] = members.get("outcome")
            case Kind.TOKEN_ISSUED | Kind.LEASE_INTENDED | Kind.BUDGET_RAISED:
                self._use(members)
            case _:
                self._take_approval(kind, ref, members)

    def _take_approval(self, kind: str, ref: str, members: Mapping[str, Any]) -> None:
        if kind == Kind.APPROVAL_REQUESTED:
            self._approvals[ref] = _Approval(members.get("digest"), members.get("quorum"), PENDING)
        known = self._approvals.get(ref)
        if known is None:
            return
        if kind == Kind.APPROVAL_VOTED:
            known.votes[str(members.get("by"))] = members.get("approve")
            known.agreed += members.get("approve") is True
            if members.get("approve") is not True:
                known.state = DENIED
            elif known.agreed == known.quorum:
                known.state = APPROVED
        elif kind == Kind.APPROVAL_REVIEWED:
            known.votes[str(members.get("by"))] = True
            known.state = REVIEWED

    def _use(self, members: Mapping[str, Any]) -> None:
        """Take up that an approval was used, or that something was taken without one."""
        approval = members.get("approval")
        if approval is None or (self.stored is not None and approval not in self.stored):
            return
        if "break_glass" in members:
            self._approvals[str(approval)] = _Approval(None, None, UNREVIEWED)
        elif (known := self._approvals.get(str(approval))) is not None:
            known.state = USED

    def compare(self, connection: Connection, *, whole: bool) -> Iterator[str]:
        """Yield what the tables say differently; see :meth:`broker.ledger.verifying.derived.Derived.compare`."""
        yield from self._compare_tasks(connection, whole=whole)
        yield from self._compare_actions(connection, whole=whole)
        yield from self._compare_approvals(connection, whole=whole)

    def _compare_tasks(self, connection: Connection, *, whole: bool) -> Iterator[str]:
        table = schema.tasks.c
        query = select(table.id, table.owner, table.deadline, table.path, table.implicit, table.closed_at)
        for row in connection.execute(query):
            recorded = self._tasks.get(row.id)
            if recorded is None and not whole:
                continue
            if recorded is None:
                if not row.implicit:
                    yield f"the task {row.id!r} is among the tasks, but no entry opened it"
                recorded = (row.owner, row.deadline, row.path)
            if recorded != (row.owner, row.deadline, row.path):
                yield f"the task {row.id!r} differs from what was recorded when it was opened"
            closed = any(task in self._closed for task in (row.id, *row.path.split("/")))
            if closed != (row.closed_at is not None):
                was = "was closed, but is open" if closed else "is closed, but no entry closed it,"
                yield f"the task {row.id!r} {was} in the tasks"

    def _compare_actions(self, connection: Connection, *, whole: bool) -> Iterator[str]:
        table = schema.actions.c
        for row in connection.execute(select(table.id, table.task, table.name, table.count, table.outcome)):
            if row.id not in self._actions and not whole:
                continue
            if self._actions.get(row.id) != (row.task, row.name, row.count):
                yield f"the action {row.id!r} is not one that was recorded"
            elif self._outcomes.get(row.id) != row.outcome:
                yield f"the action {row.id!r} has another outcome than was recorded"

    def _compare_approvals(self, connection: Connection, *, whole: bool) -> Iterator[str]:
        votes: dict[str, dict[str, object]] = {}
        cast = schema.votes.c
        for approval, approver, approve in connection.execute(select(cast.approval, cast.approver, cast.approve)):
            votes.setdefault(approval, {})[approver] = approve
        table = schema.approvals.c
        for row in connection.execute(select(table.id, table.digest, table.quorum, table.state)):
            known = self._approvals.get(row.id)
            if known is None and not whole:
                continue
            if known is None:
                yield f"the request for approval {row.id!r} is among the approvals, but no entry recorded it"
                continue
            taken = known.digest is None  # its entry is the token's, which does not repeat what was asked
            if row.state != known.state or votes.get(row.id, {}) != known.votes:
                yield f"the request for approval {row.id!r} is {row.state}, which is not what its entries come to"
            elif not taken and (row.digest, row.quorum) != (known.digest, known.quorum):
                yield f"the request for approval {row.id!r} differs from what was recorded"
