"""Catch up with what other processes have written: that it continues what is known here, and what it changed."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, select

from broker.core.entry import Kind, decode
from broker.core.errors import BrokerError, Code, Unavailable
from broker.core.merkle import verify_consistency
from broker.core.rules import Rule
from broker.ledger import schema, tree
from broker.ledger.databases import statements
from broker.ledger.reading import records
from broker.ledger.rows import read_rule
from broker.ledger.sharing.head import Head
from broker.ledger.sharing.memory import Effects, blocks_in_force

_FEW: Final = 1024
"""As many new leaves are added one by one; of more, the stored tree has to prove that it continues the known one."""


def require_continuation(connection: Connection, known: Head, found: Head) -> None:
    """Raise :class:`Unavailable` (``LEDGER_CORRUPT``) unless what was found is the known ledger, with more entries.

    Else it must not be built upon.
    """
    if not _continues(connection, known, found):
        text = "the ledger is not the one that this process wrote; it must be checked and the broker restarted"
        raise Unavailable(Code.LEDGER_CORRUPT, text)


def changes(connection: Connection, epoch: int, size: int, found: Head, now: float) -> Effects:
    """Return what changed of what is kept in memory, for whoever knows the rules to ``epoch`` and ``size`` entries.

    Costs nothing unless something did.

    Raises :class:`Unavailable` (``LEDGER_CORRUPT``) if rules are missing.
    """
    if found.changed <= size:
        return Effects(found.size)
    return Effects(
        found.size,
        rules=_rules(connection, epoch, found.epoch),
        blocks=blocks_in_force(connection, now),
        are_all_blocks=True,
        agents=True,
        keys=tuple(records.keys(connection)),
        policy=_policy(connection, size),
    )


def _continues(connection: Connection, known: Head, found: Head) -> bool:
    if found.size <= known.size or found.epoch < known.epoch or not known.changed <= found.changed <= found.size:
        return found == known
    if found.changed <= known.size and found.epoch != known.epoch:
        return False
    if found.size - known.size <= _FEW:
        leaves = statements.of(connection).leaf_hashes(connection, known.size, found.size)
        if leaves is not None:  # else they are archived already
            return known.frontier.append(leaves) == found.frontier
    try:
        proof = tree.consistency(connection, known.size, found.size)
    except BrokerError:
        return False
    return verify_consistency(known.size, known.frontier.root(), found.size, found.frontier.root(), proof)


def _rules(connection: Connection, epoch: int, found: int) -> tuple[Rule, ...]:
    """Return the rules above an epoch, all of which must be there: they count up by one while a broker runs."""
    table = schema.rules
    query = select(table).where(table.c.number > epoch).order_by(table.c.number)
    rules = tuple(read_rule(row) for row in connection.execute(query))
    if [rule.number for rule in rules] != list(range(epoch + 1, found + 1)):
        raise Unavailable(Code.LEDGER_CORRUPT, "the ledger is damaged: it counts rules that are missing")
    return rules


def _policy(connection: Connection, size: int) -> str | None:
    """Return the digest of the policy that was recorded last, if that was done since there were ``size`` entries."""
    table = schema.entries.c
    query = select(table.body).where(table.seq >= size, table.kind == Kind.POLICY_LOADED.value)
    body = connection.scalar(query.order_by(table.seq.desc()).limit(1))
    return None if body is None else str(decode(body)["policy"])
