"""Apply a batch of changes inside one transaction: judge each, write what was accepted, move the head."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy import Connection

from broker.core.change import Change, PutAgent, Receipt, RemoveAgent, Spend
from broker.core.entry import Kind
from broker.core.errors import BrokerError, Code, EpochMoved, Unavailable
from broker.core.personal import SALT_SIZE
from broker.ledger.databases import statements
from broker.ledger.reading import records
from broker.ledger.rows import entry_row
from broker.ledger.sharing.head import Head
from broker.ledger.sharing.memory import Effects
from broker.ledger.writing.guards import View, judge, load_view
from broker.ledger.writing.writes import Writes

Outcome = Receipt | BrokerError | EpochMoved
"""What became of one change."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change that waits for its transaction, with the row of its entry made beforehand."""

    change: Change
    row: tuple[Any, ...]

    @classmethod
    def of(cls, change: Change) -> Self:
        """Hash and arrange the entry now, so that the transaction does not have to."""
        return cls(change, entry_row(change, secrets.token_bytes(SALT_SIZE)))


@dataclass(frozen=True, slots=True)
class Written:
    """What a batch comes to, once its transaction is durable."""

    outcomes: tuple[Outcome, ...]
    head: Head
    effects: Effects


def write_batch(connection: Connection, head: Head, proposals: Sequence[Proposal], margin: float) -> Written:
    """Judge and apply changes in their order; a refused one leaves no trace and does not disturb the others.

    ``margin`` is in seconds: how long rules outlive the tokens that they hit.
    """
    view = load_view(connection, [proposal.change for proposal in proposals], head.epoch)
    writes = Writes()
    outcomes: list[Outcome] = []
    rows: list[tuple[Any, ...]] = []
    accepted: list[Change] = []
    for proposal in proposals:
        verdict = judge(view, proposal.change)
        if verdict is None:
            view.note(proposal.change)
            writes.collect(proposal.change)
            seq = head.size + len(rows)
            rows.append((seq, *proposal.row))
            accepted.append(proposal.change)
            outcomes.append(Receipt(seq, view.epoch, _left(view, proposal.change)))
        else:
            outcomes.append(verdict)
    if not rows:
        return Written(tuple(outcomes), head, Effects(head.size))
    statements.of(connection).insert_entries(connection, rows)
    view.flush(connection)
    if writes.rules:
        # After all of that: the tokens, leases and votes of this very batch count, too.
        writes.end_rules(connection, margin)
        writes.end_task_rules(view.tasks, margin)
    writes.write(connection)
    frontier, nodes = head.frontier.extend([row[1] for row in rows])
    statements.of(connection).insert_nodes(connection, nodes)
    effects = _effects(connection, frontier.size, writes, accepted)
    new = Head(frontier, view.epoch, frontier.size if _counts(effects, accepted) else head.changed)
    _move(connection, head, new)
    return Written(tuple(outcomes), new, effects)


def _left(view: View, change: Change) -> int | None:
    """Return what a change has left of what it spent."""
    if view.tasks is None:
        return None
    spent = [guard for guard in change.guards if isinstance(guard, Spend)]
    return view.tasks.left(spent[0].task_id, spent[0].resource) if spent else None


def _move(connection: Connection, old: Head, new: Head) -> None:
    nodes = new.frontier.to_bytes()
    moved = statements.of(connection).move_head(connection, new.size, nodes, new.epoch, new.changed, expected=old.size)
    if not moved:
        raise Unavailable(Code.LEDGER_CORRUPT, "the ledger's head moved inside a transaction")


def _effects(connection: Connection, size: int, writes: Writes, accepted: Sequence[Change]) -> Effects:
    return Effects(
        size,
        rules=tuple(writes.rules),
        blocks=tuple(writes.blocks.values()),
        lifted=tuple(writes.lifted),
        agents=any(isinstance(write, PutAgent | RemoveAgent) for change in accepted for write in change.writes),
        keys=tuple(records.keys(connection)) if writes.keys else None,
    )


def _counts(effects: Effects, accepted: Sequence[Change]) -> bool:
    """Whether other processes have to load something because of these changes; see ``Head.changed``."""
    if effects != Effects(effects.size):
        return True
    return any(change.entry.columns.kind == Kind.POLICY_LOADED for change in accepted)
