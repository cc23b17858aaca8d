"""What the other tables must hold, derived from the entries alone: rules, blocks, agents, the key ring, work."""

from __future__ import annotations

import base64
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Table, select

from broker.core.entry import Kind
from broker.core.errors import BrokerError
from broker.core.jwk import thumbprint
from broker.core.selector import parse_selector
from broker.ledger import schema
from broker.ledger.rows import read_object, read_selector
from broker.ledger.verifying.derived_leases import DerivedLeases
from broker.ledger.verifying.derived_work import DerivedWork
from broker.ledger.verifying.rule_ends import StoredEnd, early_ends

_MILLISECONDS: Final = 1000

BY_THEMSELVES: Final = frozenset(
    {Kind.TOKEN_REFUSED, Kind.ASSERTION_USED, Kind.STRANGERS_REFUSED, Kind.ACTION_REFUSED, Kind.LEASE_REFUSED}
)
"""The kinds of entries on which no other table depends; it does not on most tokens either."""


def bears_on_tables(members: Mapping[str, Any]) -> bool:
    """Return whether :meth:`Derived.take` would learn anything from an entry; of most entries it would not."""
    kind = members["kind"]
    return "approval" in members if kind == Kind.TOKEN_ISSUED else kind not in BY_THEMSELVES


@dataclass(slots=True)
class _Rule:
    """An entry that records a rule: its place and members, and the number that the rule must have."""

    seq: int
    number: int
    members: Mapping[str, Any]


@dataclass(slots=True)
class _Block:
    """The block that a ``rule.added`` entry made, and whether an entry lifted it."""

    rule: int
    made: Mapping[str, Any]
    selector: object
    lifted: bool = False


class Derived:
    """Follows the entries in their order, then compares the tables with what they come to."""

    def __init__(self) -> None:
        """Nothing is recorded yet, and everything is remembered."""
        self._rules: list[_Rule] = []
        self._blocks: dict[str, _Block] = {}
        self._agents: dict[str, str | None] = {}
        self._keys: dict[str, tuple[object, ...]] = {}
        self._heads: dict[tuple[object, object], int] = {}
        self._work = DerivedWork()
        self._leases = DerivedLeases()

    @property
    def epoch(self) -> int:
        """The number of the last rule that was recorded: they count up by one, but where a restore was accepted.

        From which number the first one counts, it says itself: earlier ones may be archived.
        """
        return self._rules[-1].number if self._rules else 0

    def remember(self, stored: Container[str] | None) -> None:
        """Remember of tasks, actions, approvals and leases from now on only those with these ids; None: all of them.

        Only what is stored is compared in the end. What was forgotten in time would fill the memory of a broker.
        """
        self._work.stored = self._leases.stored = stored

    def take(self, seq: int, members: Mapping[str, Any]) -> None:
        """Take up an entry."""
        self._work.take(members)
        self._leases.take(members)
        match members["kind"]:
            case Kind.RESTORE_ACCEPTED:
                self._rules.append(_Rule(seq, self._number_above(members.get("number")), members))
                self._take_heads(members.get("lost"))
            case Kind.RULE_ADDED:
                number = self.epoch + 1 if self._rules else self._number_above(members.get("number"))
                self._rules.append(_Rule(seq, number, members))
                block = members.get("block")
                if isinstance(block, Mapping):
                    self._blocks[str(block.get("id"))] = _Block(self.epoch, block, members.get("selector"))
            case Kind.BLOCK_LIFTED:
                if (known := self._blocks.get(str(members.get("ref")))) is not None:
                    known.lifted = True
            case Kind.AGENT_REGISTERED:
                self._agents[str(members.get("agent"))] = members.get("key")
            case Kind.AGENT_REMOVED:
                self._agents[str(members.get("agent"))] = None
            case Kind.KEYS_ROTATED:
                self._take_keys(members.get("keys"))
            case _:
                pass

    def _number_above(self, told: object) -> int:
        return told if type(told) is int and told > self.epoch else self.epoch + 1

    def _take_heads(self, lost: object) -> None:
        for head in lost if isinstance(lost, list) else ():
            if isinstance(head, Mapping):
                self._heads[head.get("size"), head.get("root")] = self.epoch

    def _take_keys(self, keys: object) -> None:
        for key in keys if isinstance(keys, list) else ():
            if isinstance(key, Mapping):
                self._keys[str(key.get("kid"))] = (key.get("use"), key.get("alg"), key.get("revoked"))

    def compare(self, connection: Connection, *, whole: bool = True) -> Iterator[str]:
        """Yield what the tables say differently, in plain words.

        Unless the entries were the ``whole``, from the first one on, nothing is said of rows of which earlier ones may
        have told.
        """
        yield from self._compare_rules(connection, whole=whole)
        yield from self._compare_blocks(connection, whole=whole)
        yield from self._compare_agents(connection, whole=whole)
        yield from self._compare_keys(connection, whole=whole)
        yield from self._compare_heads(connection, whole=whole)
        yield from self._work.compare(connection, whole=whole)
        yield from self._leases.compare(connection, whole=whole)

    def _is_told(self, number: int, *, whole: bool) -> bool:
        """Whether the entry of the rule with this number must be among those that were taken."""
        return whole or (bool(self._rules) and number >= self._rules[0].number)

    def _compare_rules(self, connection: Connection, *, whole: bool) -> Iterator[str]:
        if whole and self._rules and self._rules[0].number != 1 and self._rules[0].members["kind"] == Kind.RULE_ADDED:
            yield f"the first rule that was recorded is number {self._rules[0].number}"
        rows = _by(connection, schema.rules, "number")
        ends: list[StoredEnd] = []
        for rule in self._rules:
            number, row = rule.number, rows.pop(rule.number, None)
            if row is None:
                yield f"rule {number}, recorded by entry {rule.seq}, is missing from the rules"
                continue
            if wrong := _differences(number, rule.members, row):
                yield f"rule {number} differs from entry {rule.seq}, which recorded it, in: {', '.join(wrong)}"
            ends.append(StoredEnd(number, rule.seq, rule.members, row.ends_at))
        yield from (f"no entry recorded rule {number}" for number in rows if self._is_told(number, whole=whole))
        yield from early_ends(connection, ends)

    def _compare_blocks(self, connection: Connection, *, whole: bool) -> Iterator[str]:
        rows = _by(connection, schema.blocks, "id")
        for block_id, block in self._blocks.items():
            row = rows.pop(block_id, None)
            if row is None:
                yield f"the block that rule {block.rule} made is missing from the blocks"
                continue
            until = None if row.until is None else int(row.until)
            if not _same_selector(row.selector, block.selector) or until != block.made.get("until"):
                yield f"the block that rule {block.rule} made differs from what was recorded"
            if (row.lifted_at is not None) != block.lifted:
                was = "was lifted by no entry, but is" if row.lifted_at is not None else "was lifted, but is not"
                yield f"the block that rule {block.rule} made {was} in the blocks"
        for row in rows.values():
            if self._is_told(row.rule, whole=whole):
                yield f"no entry recorded the block with rule {row.rule}"

    def _compare_agents(self, connection: Connection, *, whole: bool) -> Iterator[str]:
        keys = {name: key for name, key in self._agents.items() if key is not None}
        rows = _by(connection, schema.agents, "name")
        stored = {name: row.key for name, row in rows.items() if whole or name in self._agents}
        for name in sorted(keys.keys() | stored.keys()):
            if name not in stored:
                yield f"the agent {name!r} was registered, but is missing from the agents"
            elif name not in keys:
                yield f"the agent {name!r} is among the agents, but no entry registered it"
            elif keys[name] != stored[name] or keys[name] != _thumbprint(rows[name].jwk):
                yield f"the agent {name!r} has another key than the one that was recorded"

    def _compare_keys(self, connection: Connection, *, whole: bool) -> Iterator[str]:
        rows = _by(connection, schema.keys, "kid")
        for kid in sorted(self._keys.keys() | rows.keys() if whole else self._keys):
            row = rows.get(kid)
            if row is None:
                yield f"the broker's key {kid!r} was recorded, but is missing from the keys"
            elif kid not in self._keys:
                yield f"the broker's key {kid!r} is among the keys, but no entry recorded it"
            elif self._keys[kid] != (row.use, row.alg, row.revoked) or _thumbprint(row.public_jwk) != kid:
                yield f"the broker's key {kid!r} differs from what was recorded"

    def _compare_heads(self, connection: Connection, *, whole: bool) -> Iterator[str]:
        rows = connection.execute(select(schema.accepted_heads)).all()
        told = [row for row in rows if self._is_told(row.rule, whole=whole)]
        stored = {(row.size, base64.b64encode(row.root).decode()): row.rule for row in told}
        if stored != self._heads:
            yield "what was accepted as lost when an older ledger was restored differs from what was recorded"


def _differences(number: int, members: Mapping[str, Any], row: Row[Any]) -> list[str]:
    """Return the names of what a rule's row says differently from its entry. What was erased is empty in the row."""
    checks = {
        "id": row.id == members.get("ref"),
        "number": number == members.get("number"),
        "selector": _same_selector(row.selector, members.get("selector")),
        "at": int(row.at * _MILLISECONDS) == members.get("at"),
        "by": row.by == members.get("by"),
        "reason": row.reason == members.get("reason", ""),
        "incident": row.incident == members.get("incident"),
    }
    return [name for name, same in checks.items() if not same]


def _same_selector(stored: str, recorded: object) -> bool:
    try:
        return read_selector(stored) == parse_selector(recorded)
    except (BrokerError, ValueError):
        return False


def _thumbprint(jwk: str) -> str | None:
    """Return the RFC 7638 thumbprint of a stored JWK, or None if it is none."""
    try:
        return thumbprint(read_object(jwk))
    except ValueError:
        return None


def _by(connection: Connection, table: Table, key: str) -> dict[Any, Row[Any]]:
    return {getattr(row, key): row for row in connection.execute(select(table).order_by(table.c[key])).all()}
