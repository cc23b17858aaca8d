"""Collect what the accepted changes of a batch write, and write it table by table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from broker.core.change import (
    AcceptRestore,
    AddBlock,
    AddEnrollment,
    AddRule,
    Change,
    EnrollmentOpen,
    ErasePersonal,
    IdempotencyFresh,
    LiftBlock,
    PutAgent,
    PutKey,
    RegisteredAgent,
    RemoveAgent,
    RemoveEntries,
    StoredKey,
    Unused,
)
from broker.core.entry import Kind
from broker.core.errors import Code, Unavailable
from broker.core.rules import Block, Rule
from broker.ledger import schema
from broker.ledger.databases import statements
from broker.ledger.keeping.forgetting import forget
from broker.ledger.rows import agent_row, block_row, key_row, rule_row
from broker.ledger.writing.approval_book import latest_vote_end
from broker.ledger.writing.guards import counted
from broker.ledger.writing.lease_book import hold_running, latest_end
from broker.ledger.writing.task_book import TaskBook


@dataclass(slots=True)
class Writes:
    """Everything that a batch writes besides its entries. Later changes win where they name the same row."""

    single_use: dict[bytes, int] = field(default_factory=dict)
    rates: Counter[tuple[str, int]] = field(default_factory=Counter)
    idempotency: dict[str, IdempotencyFresh] = field(default_factory=dict)
    enrollments: dict[bytes, AddEnrollment | None] = field(default_factory=dict)
    uninvited: set[str] = field(default_factory=set)
    agents: dict[str, RegisteredAgent | None] = field(default_factory=dict)
    keys: dict[str, StoredKey] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    blocks: dict[str, Block] = field(default_factory=dict)
    lifted: dict[str, float] = field(default_factory=dict)
    erased: list[int] = field(default_factory=list)
    accepted: list[AcceptRestore] = field(default_factory=list)
    archived: list[RemoveEntries] = field(default_factory=list)

    def collect(self, change: Change) -> None:
        """Take up what one accepted change writes, its guards included: some are used up by it."""
        for guard in change.guards:
            match guard:
                case Unused():
                    self.single_use[guard.key] = guard.expires_at
                case IdempotencyFresh():
                    self.idempotency[guard.key] = guard
                case EnrollmentOpen(code_digest):
                    self.enrollments[code_digest] = None
                case _:
                    pass  # used up by nothing, or kept in the books of tasks, approvals and leases
        self.rates.update(counted(change))
        if change.writes:
            self._collect_writes(change)
            self.accepted += [write for write in change.writes if isinstance(write, AcceptRestore)]
            self.archived += [write for write in change.writes if isinstance(write, RemoveEntries)]

    def _collect_writes(self, change: Change) -> None:
        for write in change.writes:
            match write:
                case AddRule(rule) | AcceptRestore(rule):
                    self.rules.append(rule)
                case AddBlock(block):
                    self.blocks[block.id] = block
                case LiftBlock(block_id, at):
                    self.lifted[block_id] = at
                case PutAgent(agent):
                    self.agents[agent.name] = agent
                case RemoveAgent(name):
                    self.agents[name] = None
                    self._uninvite(name)
                case AddEnrollment(code_digest):
                    self.enrollments[code_digest] = write
                case PutKey(key):
                    self.keys[key.kid] = key
                case ErasePersonal(places):
                    self.erased += places
                case _:
                    pass  # kept in the books of tasks, approvals and leases

    def _uninvite(self, name: str) -> None:
        """Close every enrolment code for a name, those of this batch included."""
        self.uninvited.add(name)
        for code_digest, added in self.enrollments.items():
            if added is not None and added.name == name:
                self.enrollments[code_digest] = None

    def end_rules(self, connection: Connection, margin: float) -> None:
        """Set when the rules end: ``margin`` seconds after the last credential that they could hit has expired.

        A rule for one token ends with that token, whose descendants live no longer (law 4), and with the leases that
        were taken with it and the requests that were approved with it: else agents that give their own tokens back
        would fill the list of live rules for as long as anybody's longest token lives.
        """
        latest = max(latest_committed_expiry(connection), latest_end(connection), latest_vote_end(connection))
        tokens = {rule.selector.token for rule in self.rules if rule.selector.token is not None}
        single = _expiries(connection, tokens)
        for token in single:
            single[token] = max(single[token], latest_end(connection, token), latest_vote_end(connection, token))
        self.rules = [
            replace(
                rule, ends_at=max(single.get(rule.selector.token or "", latest), rule.at, rule.ends_at or 0) + margin
            )
            for rule in self.rules
        ]

    def end_task_rules(self, tasks: TaskBook | None, margin: float) -> None:
        """Let rules that are about a task as such end with the last grant of its tree, as far as it is stored."""
        ended: list[Rule] = []
        for rule in self.rules:
            facts = rule.selector.facts()
            held = None if tasks is None or len(facts) != 1 or facts[0][0] != "task" else tasks.held(facts[0][1])
            earlier = None if held is None else max(held, rule.at) + margin
            ended.append(
                rule if earlier is None or rule.ends_at is None else replace(rule, ends_at=min(rule.ends_at, earlier))
            )
        self.rules = ended

    def write(self, connection: Connection) -> None:
        """Execute everything, one statement for each kind that occurs."""
        if self.single_use:
            statements.of(connection).insert_single_use(connection, list(self.single_use.items()))
        if self.rates:
            statements.of(connection).add_rates(connection, self.rates)
        if self.rules:
            connection.execute(insert(schema.rules), [rule_row(rule) for rule in self.rules])
        self._write_blocks(connection)
        for accepted in self.accepted:
            _write_accepted(connection, accepted)
        if self.idempotency:
            self._write_idempotency(connection)
        if self.agents:
            rows = [agent_row(agent) for agent in self.agents.values() if agent is not None]
            _replace(connection, schema.agents.c.name, list(self.agents), rows)
        self._write_enrollments(connection)
        if self.keys:
            _replace(connection, schema.keys.c.kid, list(self.keys), [key_row(key) for key in self.keys.values()])
        if self.erased:
            forget(connection, self.erased)
        for archived in self.archived:
            _remove_entries(connection, archived)

    def _write_blocks(self, connection: Connection) -> None:
        if self.blocks:
            _replace(connection, schema.blocks.c.id, list(self.blocks), [block_row(b) for b in self.blocks.values()])
        if self.lifted:
            lift = update(schema.blocks).where(schema.blocks.c.id == bindparam("lifted"))
            rows = [{"lifted": block_id, "lifted_at": at} for block_id, at in self.lifted.items()]
            connection.execute(lift.values(lifted_at=bindparam("lifted_at")), rows)

    def _write_idempotency(self, connection: Connection) -> None:
        rows = [
            {"key": use.key, "fingerprint": use.fingerprint, "ref": use.ref, "expires_at": use.expires_at}
            for use in self.idempotency.values()
        ]
        _replace(connection, schema.idempotency.c.key, list(self.idempotency), rows)

    def _write_enrollments(self, connection: Connection) -> None:
        if self.uninvited:
            connection.execute(delete(schema.enrollments).where(schema.enrollments.c.name.in_(self.uninvited)))
        if not self.enrollments:
            return
        rows = [
            {
                "code_digest": added.code_digest,
                "name": added.name,
                "created_by": added.created_by,
                "expires_at": added.expires_at,
            }
            for added in self.enrollments.values()
            if added is not None
        ]
        _replace(connection, schema.enrollments.c.code_digest, list(self.enrollments), rows)


def _write_accepted(connection: Connection, accepted: AcceptRestore) -> None:
    """Remember what is known of the ledger that is lost, and hold what the older one takes for running leases."""
    rule, table = accepted.rule, schema.accepted_heads
    for head in accepted.heads:
        same = (table.c.size == head.size) & (table.c.root == head.root)
        connection.execute(delete(table).where(same))
        connection.execute(insert(table).values(size=head.size, root=head.root, rule=rule.number))
    hold_running(connection, rule)


def _remove_entries(connection: Connection, archived: RemoveEntries) -> None:
    """Remove the entries that were archived, if they are the first ones and all there, else raise."""
    removed = connection.execute(delete(schema.entries).where(schema.entries.c.seq < archived.end)).rowcount
    if removed != archived.end - archived.first:
        msg = f"the entries {archived.first} to {archived.end - 1} are not the first ones that there are"
        raise Unavailable(Code.LEDGER_CORRUPT, msg)


def latest_committed_expiry(connection: Connection) -> float:
    """Return when the longest-lived token that was ever committed expires; the index on expiry answers at once."""
    table = schema.entries.c
    latest = connection.scalar(select(func.max(table.expires_at)).where(table.kind == Kind.TOKEN_ISSUED.value))
    return float(latest or 0)


def _expiries(connection: Connection, tokens: Collection[str]) -> dict[str, float]:
    """Return when each of these tokens expires, as far as they were committed."""
    if not tokens:
        return {}
    table = schema.entries.c
    query = select(table.ref, table.expires_at).where(table.ref.in_(tokens), table.kind == Kind.TOKEN_ISSUED.value)
    return {ref: float(expires_at) for ref, expires_at in connection.execute(query) if expires_at is not None}


def _replace(connection: Connection, key: Any, names: list[Any], rows: list[dict[str, Any]]) -> None:  # noqa: ANN401
    """Remove the rows of these names, then insert those that shall be there."""
    connection.execute(delete(key.table).where(key.in_(names)))
    if rows:
        connection.execute(insert(key.table), rows)
