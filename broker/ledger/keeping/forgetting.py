"""Forget what is personal: the rows in which it is gone then, those of state included."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, func, literal, select, update

from broker.core.entry import Kind
from broker.core.personal import PERSONAL
from broker.ledger import schema
from broker.ledger.databases.expressions import member
from broker.ledger.rows import read_object
from broker.ledger.writing.task_rows import chunks

_LEASE: Final = "lease."
_GRANTS: Final = frozenset({Kind.TOKEN_ISSUED.value, Kind.LEASE_INTENDED.value})
_entries: Final = schema.entries
_table: Final = schema.entries.c
_encode: Final = msgspec.json.Encoder(order="sorted").encode


def forget(connection: Connection, places: Sequence[int]) -> None:
    """Take away the personal members of entries, and what state still has of the things that they record."""
    for some in chunks(places):
        here = _table.seq.in_(some)
        by_kind: dict[str, list[str]] = {}
        query = select(_table.kind, _table.ref, member(_table.body, "approval"))
        for kind, ref, approval in connection.execute(query.where(here, _table.ref.is_not(None))):
            by_kind.setdefault(_LEASE if kind.startswith(_LEASE) else kind, []).append(ref)
            if kind in _GRANTS and approval is not None:  # what went ahead without asking has no request of its own
                by_kind.setdefault(Kind.APPROVAL_REQUESTED.value, []).append(approval)
        left = member(_table.body, "lineage")
        connection.execute(update(_entries).where(here).values(personal=None, lineage=left))
        for kind, refs in by_kind.items():
            if (clear := _STATE.get(kind)) is not None:
                clear(connection, refs)


def _clear_tasks(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(update(schema.tasks).where(schema.tasks.c.id.in_(ids)).values(purpose="", labels="{}"))


def _clear_actions(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(update(schema.actions).where(schema.actions.c.id.in_(ids)).values(target=None, result=None))


def _clear_rules(connection: Connection, ids: Sequence[str]) -> None:
    rules, blocks = schema.rules, schema.blocks
    numbers = select(rules.c.number).where(rules.c.id.in_(ids))
    connection.execute(update(blocks).where(blocks.c.rule.in_(numbers)).values(reason=""))
    connection.execute(update(rules).where(rules.c.id.in_(ids)).values(reason=""))


def _clear_leases(connection: Connection, ids: Sequence[str]) -> None:
    table = schema.leases
    fact = literal("\nagent=").concat(table.c.on_behalf_of).concat("\n")
    other = (table.c.id.in_(ids), table.c.on_behalf_of != table.c.agent)
    connection.execute(
        update(table).where(*other).values(on_behalf_of="", facts=func.replace(table.c.facts, fact, "\n"))
    )
    connection.execute(update(table).where(table.c.id.in_(ids)).values(note=None))


def _clear_approvals(connection: Connection, ids: Sequence[str]) -> None:
    approvals, votes = schema.approvals, schema.votes
    for row in connection.execute(select(approvals.c.id, approvals.c.request).where(approvals.c.id.in_(ids))).all():
        request = _encode(_without_people(row.request)).decode()
        connection.execute(update(approvals).where(approvals.c.id == row.id).values(request=request))
    for vote in connection.execute(select(votes).where(votes.c.approval.in_(ids))).all():
        this = (votes.c.approval == vote.approval, votes.c.approver == vote.approver)
        said = _encode({**read_object(vote.vote), "reason": ""}).decode()
        connection.execute(update(votes).where(*this).values(vote=said))


def _without_people(stored: str) -> dict[str, Any]:
    request = read_object(stored)
    asked = {name: value for name, value in request["asked"].items() if name not in PERSONAL}
    return {**request, "asked": asked, "purpose": None, "reason": None, "chain": [], "task_owner": None}


_STATE: Final[Mapping[str, Callable[[Connection, Sequence[str]], None]]] = {
    Kind.TASK_OPENED.value: _clear_tasks,
    Kind.ACTION_RESERVED.value: _clear_actions,
    Kind.ACTION_SETTLED.value: _clear_actions,
    Kind.RULE_ADDED.value: _clear_rules,
    Kind.APPROVAL_REQUESTED.value: _clear_approvals,
    Kind.APPROVAL_VOTED.value: _clear_approvals,
    Kind.APPROVAL_REVIEWED.value: _clear_approvals,
    _LEASE: _clear_leases,
}
"""By kind of the entry that is erased, what of the thing that it records is cleared."""
