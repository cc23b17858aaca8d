"""The revocation snapshot: the live rules as the payload of a signed JWT, written by the broker, read by verifiers.

```json
{"iss": "https://broker.example", "iat": 1795300000, "exp": 1795300300, "epoch": 41, "mark": "Zm9yIGVwb2NoIDQxLi4uLg",
 "rules": [{"id": "rule_01K…", "n": 41, "selector": {"agent": "prod-cluster/support/triage"}, "ends": 1795301000},
           {"id": "rule_01M…", "n": null, "selector": {"token": "tok_01K…"}, "ends": null}]}
```

``n`` is the rule's number, null while it is not durable: such a rule stands above every epoch. ``mark`` belongs to the
epoch; a verifier repeats it when it acknowledges (:mod:`broker.core.marks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from broker.core.jwk import KeySet
from broker.core.jwt import RULES_SNAPSHOT, SKEW, parse, verify
from broker.core.rules import RuleIndex
from broker.core.statement import (
    RuleItem,
    StatementError,
    check_epoch,
    check_mark,
    read_as,
    read_rule_item,
    stated,
    validity,
)

TYP: Final = "broker-rules+jwt"

MAX_SNAPSHOT: Final = 8 * 1024 * 1024
"""Longest snapshot in bytes, as a JWT: some tens of thousands of live rules."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rules that were live at ``issued_at``, and the epoch then. Times are Unix seconds."""

    rules: RuleIndex
    epoch: int
    issued_at: int
    expires_at: int
    mark: str

    def follows(self, other: Snapshot) -> bool:
        """Whether this may take the place of ``other``: a view never goes back to an earlier epoch or time."""
        return (self.epoch, self.issued_at) >= (other.epoch, other.issued_at)


class _Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    iat: int
    exp: int
    epoch: int
    mark: str
    rules: list[RuleItem]


def snapshot_payload(rules: RuleIndex, *, mark: str, issuer: str, now: float) -> dict[str, Any]:
    """Return the payload for the rules live at ``now`` (Unix seconds); ``mark`` is that of their epoch."""
    live = [stated(rule) for rule in rules.live()]
    return {**validity(issuer, now), "epoch": rules.epoch, "mark": mark, "rules": live}


def read_snapshot(payload: Mapping[str, Any]) -> Snapshot:
    """Read the payload of a snapshot whose signature, type, issuer and times were verified.

    Raises :class:`~broker.core.statement.StatementError`.
    """
    read = read_as(_Payload, payload, "snapshot")
    check_epoch(read.epoch, "snapshot: epoch")
    check_mark(read.mark, "snapshot: mark")
    index = RuleIndex(epoch=read.epoch)
    for place, item in enumerate(read.rules):
        rule = read_rule_item(item, read.iat, f"snapshot: rules[{place}]")
        if rule.number is not None and rule.number > read.epoch:
            raise StatementError(f"snapshot: rules[{place}].n: must be from 1 to the epoch")
        index.add(rule)
    if len(index) != len(read.rules):
        raise StatementError("snapshot: rules: two have the same id")
    if len({item.n for item in read.rules if item.n is not None}) != sum(item.n is not None for item in read.rules):
        raise StatementError("snapshot: rules: two have the same number")
    return Snapshot(index, read.epoch, read.iat, read.exp, read.mark)


def verify_snapshot(token: str, keys: KeySet, *, issuer: str, now: float, skew: float = SKEW) -> Snapshot:
    """Verify a snapshot completely and read it.

    ``keys`` are the broker's published keys, ``skew`` is in seconds. That it does not go back behind an earlier one is
    for the caller to see (:meth:`Snapshot.follows`). Raises ``InvalidToken`` if it is not a good snapshot of this
    issuer, :class:`~broker.core.statement.StatementError` if it is one that cannot be understood completely.
    """
    unverified = parse(token, max_bytes=MAX_SNAPSHOT)
    return read_snapshot(verify(unverified, RULES_SNAPSHOT, keys, issuer=issuer, audiences=None, now=now, skew=skew))
