"""Count what a selector covers that is still alive: previews, and what a rule has hit.

A token counts if it was issued, has not expired, and no rule that is live kills it already. With few live rules all of
that is one statement, which runs outside the interpreter lock. With many, the candidates are looked up one by one in an
index of the rules, in pieces, so that the event loop never waits long for the lock.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import isinf
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, distinct, false, func, not_, or_, select, true

from broker.core.entry import Kind
from broker.core.rules import Rule, RuleIndex
from broker.core.selector import Fact, Selector, fact_line
from broker.ledger import schema
from broker.ledger.databases.expressions import has_scope, has_text
from broker.ledger.reading import lease_records
from broker.ports import Hits

RULES_IN_SQL: Final = 40
"""Up to how many live rules become part of the statement."""

_PIECE: Final = 500
_PAUSE: Final = 0.001
_table: Final = schema.entries.c
_EQUAL: Final = {
    "token": _table.ref,
    "task": _table.task,
    "agent": _table.agent,
    "role": _table.role,
    "issuer": _table.issuer,
    "audience": _table.audience,
    "tier": _table.tier,
}
FACTS: Final = (*_EQUAL.values(), _table.scope, _table.key, _table.bound_key, _table.lineage, _table.epoch)
"""The columns that say what kills a token."""


def count(
    connection: Connection,
    selector: Selector,
    now: float,
    before: int | None,
    live: Sequence[Rule],
    *,
    rules_in_sql: int = RULES_IN_SQL,
) -> Hits:
    """Count live tokens and leases under a selector.

    ``before`` leaves out what is of that epoch or later, and rules from it on: the question then is what *that* rule
    hit, what lived just before it.
    """
    leases = lease_records.hits(connection, selector, before)
    candidates = [_table.kind == Kind.TOKEN_ISSUED.value, _table.expires_at > now, _covered(selector)]
    if before is not None:
        candidates.append(_table.epoch < before)
    rules = (rule for rule in live if before is None or rule.rank < before)
    if len(live) > rules_in_sql:
        return replace(_count_one_by_one(connection, candidates, rules), leases=leases)
    candidates += [not_(killed(rule)) for rule in rules]
    query = select(
        func.count(),
        func.count(distinct(_table.task)),
        func.count(distinct(_table.agent)),
        func.max(_table.expires_at),
    ).where(*candidates)
    tokens, tasks, agents, latest = connection.execute(query).one()
    return Hits(tokens, tasks, agents, latest, leases)


def supposed(selectors: Sequence[Selector], now: float) -> tuple[Rule, ...]:
    """Return rules with these selectors as if they had been made just now, for :func:`count` to leave out."""
    return tuple(Rule(f"supposed_{place}", each, None, now, "", "") for place, each in enumerate(selectors))


def _count_one_by_one(connection: Connection, candidates: Sequence[ColumnElement[bool]], rules: Iterable[Rule]) -> Hits:
    tokens, latest = 0, None
    tasks: set[str | None] = set()
    agents: set[str | None] = set()
    index: RuleIndex | None = None  # which is worth making only if there is a token to look up
    for row in in_pieces(connection, select(_table.expires_at, *FACTS).where(*candidates)):
        index = RuleIndex(rules) if index is None else index
        if index.killer(facts_of(row), row.epoch) is None:
            tokens += 1
            tasks.add(row.task)
            agents.add(row.agent)
            latest = row.expires_at if latest is None else max(latest, row.expires_at)
    return Hits(tokens, len(tasks - {None}), len(agents - {None}), latest)


def in_pieces(connection: Connection, query: Select[Any]) -> Iterator[Row[Any]]:
    """Yield rows with pauses in between, in which the event loop gets the interpreter lock."""
    for piece in connection.execute(query).partitions(_PIECE):
        yield from piece
        time.sleep(_PAUSE)


def _covered(selector: Selector) -> ColumnElement[bool]:
    if selector.everything:
        return true()
    return and_(*(_has(name, value) for name, value in selector.facts()))


def _has(name: str, value: str) -> ColumnElement[bool]:
    """Return the condition that a token has a fact, as :meth:`AccessClaims.facts` would say."""
    own = _has_itself(name, value)
    return false() if own is None else or_(own, has_text(_table.lineage, fact_line((name, value))))


def _has_itself(name: str, value: str) -> ColumnElement[bool] | None:
    """Return the condition that a token has a fact of its own; None for what no token has: a lease, a secret."""
    if name in _EQUAL:
        return _EQUAL[name] == value
    if name == "key":
        return or_(_table.key == value, _table.bound_key == value)
    return has_scope(_table.scope, value) if name == "scope" else None


def killed(rule: Rule) -> ColumnElement[bool]:
    """Return the condition that a rule kills a token."""
    covered = _covered(rule.selector)
    hit = covered if isinf(rule.rank) else and_(_table.epoch < rule.rank, covered)
    # What a token does not have is NULL, and so would be the negation of asking for it.
    return func.coalesce(hit, false())


def facts_of(row: Row[Any]) -> frozenset[Fact]:
    """Return the facts of a token from a row with :data:`FACTS`."""
    single = [(name, getattr(row, column.name)) for name, column in _EQUAL.items()]
    keys = [("key", row.key), ("key", row.bound_key)]
    scopes = [("scope", scope) for scope in (row.scope or "").split(" ")]
    inherited = [(name, value) for name, _, value in (line.partition("=") for line in (row.lineage or "").split("\n"))]
    return frozenset((name, value) for name, value in (*single, *keys, *scopes, *inherited) if value)
