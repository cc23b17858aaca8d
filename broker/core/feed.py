"""The feed: each new rule as a signed statement of its own, and a heartbeat that says that there was no other.

```json
{"iss": "https://broker.example", "iat": 1795300000, "exp": 1795300300, "id": "rule_01K…", "n": 42, "previous": 41,
 "selector": {"agent": "prod-cluster/support/triage"}, "ends": 1795301000, "mark": "Zm9yIGVwb2NoIDQyLi4uLg"}

{"iss": "https://broker.example", "iat": 1795300001, "exp": 1795300301, "epoch": 42, "mark": "Zm9yIGVwb2NoIDQyLi4uLg",
 "pending": []}
```

``previous`` is the epoch before the rule, so that whoever follows sees that none is missing. A rule that is not durable
has no number (``n`` is null); its ``previous`` is the epoch that it was stated at, and ``pending`` names it until it is
stated again with its number. ``mark`` belongs to the epoch after the statement (:mod:`broker.core.marks`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from broker.core.jwk import KeySet
from broker.core.jwt import HEARTBEAT, RULE_STATEMENT, SKEW, Row, parse, verify
from broker.core.rules import Rule
from broker.core.statement import (
    RuleItem,
    StatementError,
    check_epoch,
    check_id,
    check_mark,
    read_as,
    read_rule_item,
    stated,
    validity,
)

RULE_TYP: Final = "broker-rule+jwt"
HEARTBEAT_TYP: Final = "broker-heartbeat+jwt"

MAX_STATEMENT: Final = 64 * 1024
"""Longest rule or heartbeat in bytes, as a JWT. A broker with too many pending rules for it sends snapshots instead."""


@dataclass(frozen=True, slots=True)
class RuleStatement:
    """One rule, stated at ``issued_at``; times are Unix seconds.

    ``previous`` is the epoch before it, or, while it has no number, the epoch at the time. ``mark`` is that of the
    epoch after it: its number, or ``previous`` without one.
    """

    rule: Rule
    previous: int
    mark: str
    issued_at: int
    expires_at: int

    @property
    def epoch(self) -> int:
        """The epoch of whoever has applied the rule and all before it."""
        return self.previous if self.rule.number is None else self.rule.number


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """At ``issued_at`` (Unix seconds) the epoch was this, and these rules, by id, were in force without a number."""

    epoch: int
    mark: str
    pending: frozenset[str]
    issued_at: int
    expires_at: int


class _RulePayload(RuleItem, frozen=True, forbid_unknown_fields=True):
    iat: int
    exp: int
    previous: int
    mark: str


class _HeartbeatPayload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    iat: int
    exp: int
    epoch: int
    mark: str
    pending: list[str]


def rule_payload(rule: Rule, *, previous: int, mark: str, issuer: str, now: float) -> dict[str, Any]:
    """Return the payload that states a rule at ``now`` (Unix seconds); see :class:`RuleStatement`."""
    return {**validity(issuer, now), **stated(rule), "previous": previous, "mark": mark}


def heartbeat_payload(epoch: int, pending: Iterable[str], *, mark: str, issuer: str, now: float) -> dict[str, Any]:
    """Return the payload of a heartbeat at ``now`` (Unix seconds); see :class:`Heartbeat`."""
    return {**validity(issuer, now), "epoch": epoch, "mark": mark, "pending": sorted(pending)}


def read_rule(payload: Mapping[str, Any]) -> RuleStatement:
    """Read the payload of a rule's statement whose signature, type, issuer and times were verified.

    Raises :class:`~broker.core.statement.StatementError`.
    """
    read = read_as(_RulePayload, payload, "rule")
    rule = read_rule_item(read, read.iat, "rule")
    check_epoch(read.previous, "rule: previous")
    check_mark(read.mark, "rule: mark")
    if read.n is not None and read.previous >= read.n:
        raise StatementError("rule: previous: must be less than n")
    if read.n is None and read.ends is not None:
        raise StatementError("rule: ends: must be null while n is")
    return RuleStatement(rule, read.previous, read.mark, read.iat, read.exp)


def read_heartbeat(payload: Mapping[str, Any]) -> Heartbeat:
    """Read the payload of a heartbeat whose signature, type, issuer and times were verified.

    Raises :class:`~broker.core.statement.StatementError`.
    """
    read = read_as(_HeartbeatPayload, payload, "heartbeat")
    check_epoch(read.epoch, "heartbeat: epoch")
    check_mark(read.mark, "heartbeat: mark")
    for place, rule_id in enumerate(read.pending):
        check_id(rule_id, f"heartbeat: pending[{place}]")
    pending = frozenset(read.pending)
    if len(pending) != len(read.pending):
        raise StatementError("heartbeat: pending: names one twice")
    return Heartbeat(read.epoch, read.mark, pending, read.iat, read.exp)


def verify_rule(token: str, keys: KeySet, *, issuer: str, now: float, skew: float = SKEW) -> RuleStatement:
    """Verify the statement of a rule completely and read it.

    ``keys`` are the broker's published keys, ``skew`` is in seconds. Whether it comes next is for the caller to see.
    Raises ``InvalidToken`` if it is not a good statement of this issuer,
    :class:`~broker.core.statement.StatementError` if it is one that cannot be understood completely.
    """
    return read_rule(_verified(token, RULE_STATEMENT, keys, issuer, now, skew))


def verify_heartbeat(token: str, keys: KeySet, *, issuer: str, now: float, skew: float = SKEW) -> Heartbeat:
    """Verify a heartbeat completely and read it; see :func:`verify_rule`."""
    return read_heartbeat(_verified(token, HEARTBEAT, keys, issuer, now, skew))


def _verified(token: str, row: Row, keys: KeySet, issuer: str, now: float, skew: float) -> Mapping[str, Any]:
    unverified = parse(token, max_bytes=MAX_STATEMENT)
    return verify(unverified, row, keys, issuer=issuer, audiences=None, now=now, skew=skew)
