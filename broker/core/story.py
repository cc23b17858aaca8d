"""The story of a token, a lease, a task, an approval or a rule: what the ledger holds of it, as a tree.

Each entry stands below what it came of: a token below the token that was exchanged for it, else below its task; a
lease and an action below the token that asked for them; a vote below its request; an outcome below what it is of, such
as how far a rule has got. An
entry only ever comes of an earlier one, whatever entries say, so that there are no circles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from broker.core.entry import RULES, Kind
from broker.core.rules import Rule, RuleIndex
from broker.core.selector import Fact, parse_selector

_BEGINNINGS: Final = frozenset(
    {
        Kind.TASK_OPENED,
        Kind.TOKEN_ISSUED,
        Kind.IDENTITY_TOKEN_ISSUED,
        Kind.LEASE_INTENDED,
        Kind.ACTION_RESERVED,
        Kind.APPROVAL_REQUESTED,
    }
)
"""The kinds of entries that others can stand below, by their ``ref``."""

_SINGLE: Final = ("task", "agent", "role", "audience", "tier", "issuer")


@dataclass(frozen=True, slots=True)
class Happened:
    """An entry: its place in the ledger, and its members."""

    seq: int
    members: Mapping[str, Any]

    @property
    def ref(self) -> str | None:
        """What it is the record of."""
        ref = self.members.get("ref")
        return ref if isinstance(ref, str) else None


@dataclass(slots=True)
class Node:
    """An entry in the tree, with what came of it in the order of the ledger.

    ``ended_by`` is the place of the rule that killed a token before it expired, None if none did.
    """

    entry: Happened
    ended_by: int | None = None
    below: list[Node] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the wire form."""
        below = [node.to_dict() for node in self.below]
        return {"seq": self.entry.seq, "entry": dict(self.entry.members), "ended_by": self.ended_by, "below": below}


@dataclass(frozen=True, slots=True)
class Story:
    """The tree. ``cut`` says that there is more than was looked at."""

    ref: str
    roots: Sequence[Node]
    cut: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the wire form."""
        return {"ref": self.ref, "cut": self.cut, "story": [node.to_dict() for node in self.roots]}


def tell(ref: str, entries: Iterable[Happened], rules: Iterable[Happened], *, cut: bool = False) -> Story:
    """Return the story that entries tell; of ``rules``, which are entries as well, those that ended something in it.

    With each comes what is recorded of how far it got, if that is among ``rules``.
    """
    told = {entry.seq: entry for entry in entries}
    of_rules = list(rules)
    known = {entry.seq: entry for entry in (*of_rules, *told.values()) if entry.members["kind"] in RULES}
    spread = {entry.ref: entry for entry in of_rules if entry.members["kind"] == Kind.RULE_PROPAGATED}
    by_number = {entry.members.get("number"): entry for entry in known.values()}
    killers = _killers(told.values(), list(known.values()))
    ends = {entry.members.get("rule") for entry in told.values() if entry.members["kind"] == Kind.LEASE_ENDED}
    for rule in (*killers.values(), *(by_number[number] for number in ends if number in by_number)):
        told[rule.seq] = rule
        if rule.ref in spread:
            told[spread[rule.ref].seq] = spread[rule.ref]
    nodes = [Node(told[seq], killers[seq].seq if seq in killers else None) for seq in sorted(told)]
    return Story(ref, _planted(nodes), cut)


def above(members: Mapping[str, Any]) -> Iterable[str]:
    """Yield the ids of what an entry may stand below, the nearest first."""
    kind = members["kind"]
    if kind == Kind.TASK_OPENED:
        yield from reversed(_texts(members.get("path")))
        return
    if kind in RULES:
        selector = _mapping(members.get("selector"))
        yield from _texts([selector.get("lease"), selector.get("token"), selector.get("task"), members.get("closes")])
        return
    if kind not in _BEGINNINGS:
        yield from _texts([members.get("ref")])
    yield from reversed(_texts(members.get("parents")))
    yield from _texts([_mapping(members.get("asked")).get("subject_token")])
    if kind != Kind.TASK_HEARD:
        yield from _texts([members.get("token")])
    yield from _texts([members.get("task")])
    yield from reversed(_texts(members.get("path")))


def facts_of(members: Mapping[str, Any]) -> frozenset[Fact]:
    """Return the facts of the token that an entry records, which rules are matched with."""
    found = [("token", members.get("ref")), ("key", members.get("key")), ("key", members.get("bound_key"))]
    found += [(name, members.get(name)) for name in _SINGLE]
    found += [("scope", scope) for scope in str(members.get("scope", "")).split(" ")]
    lines = str(members.get("lineage", "")).split("\n")
    found += [(name, value) for name, _, value in (line.partition("=") for line in lines)]
    return frozenset((name, value) for name, value in found if isinstance(value, str) and value)


def rule_of(members: Mapping[str, Any]) -> Rule:
    """Return the rule that an entry records. Raises ``Malformed`` or ``KeyError`` for what is none."""
    return Rule(
        id=str(members["ref"]),
        selector=parse_selector(members["selector"]),
        number=int(members["number"]),
        at=members["at"] / 1000,
        by=str(members.get("by")),
        reason=str(members.get("reason")),
    )


def _killers(entries: Iterable[Happened], recorded: Sequence[Happened]) -> dict[int, Happened]:
    """Return by the place of each token's entry that of the first rule that killed it."""
    rules = sorted(((rule_of(entry.members), entry) for entry in recorded), key=lambda pair: pair[0].rank)
    index = RuleIndex(rule for rule, _ in rules)
    killers: dict[int, Happened] = {}
    for entry in entries:
        members = entry.members
        if members["kind"] != Kind.TOKEN_ISSUED:
            continue
        facts, epoch, expires_at = facts_of(members), int(members.get("epoch", 0)), members.get("expires_at", 0)
        if index.killer(facts, epoch) is None:
            continue
        for rule, recorded_by in rules:
            if rule.rank > epoch and rule.selector.selects(facts) and rule.at < expires_at:
                killers[entry.seq] = recorded_by
                break
    return killers


def _planted(nodes: Sequence[Node]) -> Sequence[Node]:
    """Put each node below what it came of, and return those that came of nothing here."""
    known: dict[str, Node] = {}
    roots: list[Node] = []
    for node in nodes:
        parent = next((known[ref] for ref in above(node.entry.members) if ref in known), None)
        (roots if parent is None else parent.below).append(node)
        ref = node.entry.ref
        if ref is not None and node.entry.members["kind"] in _BEGINNINGS | RULES:
            known.setdefault(ref, node)
    return roots


def _texts(values: object) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
