"""Gather what the ledger holds of a token, a lease, a task, an approval or a rule, for its story."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from sqlalchemy import Connection, select

from broker.core.entry import RULES, Kind
from broker.core.inquiry import EntryFilter
from broker.core.story import Happened, Story, above, facts_of, rule_of, tell
from broker.ledger import schema
from broker.ledger.reading.inquiries import find
from broker.ledger.reading.records import ENTRY, read_record, record_of
from broker.ledger.rows import MAX_PAGE
from broker.ports import Record

MAX_ENTRIES: Final = 2000
"""How many entries a story is gathered from; what is needed to understand them comes in addition."""

MAX_PAGES: Final = 20
"""How many times :data:`broker.ledger.reading.inquiries.LOOKED_THROUGH` entries are looked through at most."""

MAX_RULES: Final = 1000
_ROUNDS: Final = 4
_PIECE: Final = 500
_LEASE_KINDS: Final = tuple(kind.value for kind in Kind if kind.startswith("lease."))

_table: Final = schema.entries.c


def story(connection: Connection, ref: str) -> Story | None:
    """Return the story of what a reference names; None if the ledger does not know it."""
    first = record_of(connection, ref)
    told = {} if first is None else {first.seq: _happened(first)}
    cut = False
    if first is not None and first.members["kind"] in RULES:
        told |= {entry.seq: entry for entry in _ended_by(connection, first)}
    for wanted in _questions(ref, first):
        found, more = _gathered(connection, wanted)
        told |= found
        cut = cut or more
    if not told:
        return None
    _complete(connection, told)
    return tell(ref, told.values(), _rules_after(connection, told.values()), cut=cut)


def _questions(ref: str, first: Record | None) -> Iterator[EntryFilter]:
    """Yield what to look for, by what the reference is of."""
    kind = None if first is None else first.members["kind"]
    if first is None or kind == Kind.TASK_OPENED:
        yield EntryFilter(task=ref)  # a task that was not opened, but came with a token, has no entry of its own
    elif kind == Kind.TOKEN_ISSUED:
        yield EntryFilter(token=ref)
    elif kind in _LEASE_KINDS:
        yield EntryFilter(lease=ref)
    elif kind == Kind.APPROVAL_REQUESTED:
        yield EntryFilter(approval=ref)
    elif kind in RULES:
        selector = first.members.get("selector", {})
        for name in ("task", "token", "lease"):
            if name in selector:
                yield EntryFilter(**{name: selector[name]})


def _gathered(connection: Connection, wanted: EntryFilter) -> tuple[dict[int, Happened], bool]:
    told: dict[int, Happened] = {}
    after = -1
    for _ in range(MAX_PAGES):
        page = find(connection, wanted, after, min(MAX_PAGE, MAX_ENTRIES - len(told)))
        told |= {record.seq: _happened(record) for record in page.records}
        if page.next is None:
            return told, False
        after = page.next
        if len(told) >= MAX_ENTRIES:
            break
    return told, True


def _ended_by(connection: Connection, rule: Record) -> Iterator[Happened]:
    """Yield the tokens that a rule ended while they lived: the index on their ends finds them."""
    made = rule_of(rule.members)
    ends_at = select(schema.rules.c.ends_at).where(schema.rules.c.number == made.number).scalar_subquery()
    query = ENTRY.where(
        _table.kind == Kind.TOKEN_ISSUED.value,
        _table.expires_at.between(int(made.at), ends_at),
        _table.seq < rule.seq,
        _table.epoch < made.number,
    )
    left = MAX_ENTRIES
    for row in connection.execute(query.order_by(_table.expires_at).limit(10 * MAX_ENTRIES)):
        record = read_record(*row)
        if left and made.selector.selects(facts_of(record.members)):
            left -= 1
            yield _happened(record)


def _complete(connection: Connection, told: dict[int, Happened]) -> None:
    """Add what entries came of, up to the first task, and what is recorded of each under the same reference."""
    known: set[str] = set()
    for _ in range(_ROUNDS):
        wanted = set(_needed(told.values())) - known
        if not wanted:
            return
        known |= wanted
        for entry in _by_refs(connection, sorted(wanted)):
            told.setdefault(entry.seq, entry)


def _needed(entries: Iterable[Happened]) -> Iterator[str]:
    for entry in entries:
        yield from above(entry.members)
        approval = entry.members.get("approval")
        yield from (ref for ref in (entry.ref, approval) if isinstance(ref, str))


def _by_refs(connection: Connection, refs: list[str]) -> Iterator[Happened]:
    for start in range(0, len(refs), _PIECE):
        wanted = _table.ref.in_(refs[start : start + _PIECE])
        query = ENTRY.where(wanted).order_by(_table.seq).limit(MAX_ENTRIES)
        yield from (_happened(read_record(*row)) for row in connection.execute(query))


def _rules_after(connection: Connection, entries: Iterable[Happened]) -> Iterator[Happened]:
    """Yield the entries of rules that could have ended any of the tokens, and what is recorded of each."""
    epochs = [entry.members.get("epoch", 0) for entry in entries if entry.members["kind"] == Kind.TOKEN_ISSUED]
    rules = [entry.members.get("rule") for entry in entries if entry.members["kind"] == Kind.LEASE_ENDED]
    first = min([*epochs, *(number - 1 for number in rules if isinstance(number, int))], default=None)
    if first is None:
        return
    table = schema.rules.c
    ids = connection.scalars(select(table.id).where(table.number > first).order_by(table.number).limit(MAX_RULES)).all()
    yield from _by_refs(connection, list(ids))


def _happened(record: Record) -> Happened:
    return Happened(record.seq, record.members)
