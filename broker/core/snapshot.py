"""The revocation snapshot: the live rules as the payload of a signed JWT, written by the broker, read by verifiers.

```json
{"iss": "https://broker.example", "iat": 1795300000, "exp": 1795300300, "epoch": 41,
 "rules": [{"n": 41, "selector": {"agent": "prod-cluster/support/triage"}, "ends": 1795301000},
           {"n": null, "selector": {"token": "tok_01K…"}, "ends": null}]}
```

``n`` is the rule's number, null while it is not durable: such a rule stands above every epoch. Who revoked, and why,
is not for verifiers. A verifier that meets a selector or member that it does not know refuses the whole snapshot, since
leaving the rule out would let revoked tokens pass; its view then grows stale, and it refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from broker.core.errors import Malformed
from broker.core.jwk import KeySet
from broker.core.jwt import RULES_SNAPSHOT, SKEW, parse, verify
from broker.core.rules import Rule, RuleIndex
from broker.core.selector import parse_selector

TYP: Final = "broker-rules+jwt"

LIFETIME: Final = 300
"""Seconds that a snapshot may be used. Verifiers poll far more often, and have a bound of their own."""

MAX_SNAPSHOT: Final = 8 * 1024 * 1024
"""Longest snapshot in bytes, as a JWT: some tens of thousands of live rules."""


class SnapshotError(ValueError):
    """The payload is not a revocation snapshot that can be understood completely; the text names the member."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rules that were live at ``issued_at``, and the epoch then. Times are Unix seconds."""

    rules: RuleIndex
    epoch: int
    issued_at: int
    expires_at: int

    def follows(self, other: Snapshot) -> bool:
        """Whether this may take the place of ``other``: a view never goes back to an earlier epoch or time."""
        return (self.epoch, self.issued_at) >= (other.epoch, other.issued_at)


class _Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    n: int | None
    selector: dict[str, str | bool]
    ends: int | None


class _Payload(msgspec.Struct, frozen=True):
    # Members that JWT (RFC 7519) defines may come along; what they mean was checked with the signature.
    iat: int
    exp: int
    epoch: int
    rules: list[_Item]


def snapshot_payload(rules: RuleIndex, *, issuer: str, now: float) -> dict[str, Any]:
    """Return the payload for the rules live at ``now`` (Unix seconds)."""
    live = [
        {
            "n": rule.number,
            "selector": rule.selector.to_dict(),
            # Rounded up: a rule that ends early would let its last token live.
            "ends": None if rule.ends_at is None else -int(-rule.ends_at // 1),
        }
        for rule in rules.live()
    ]
    return {"iss": issuer, "iat": int(now), "exp": int(now) + LIFETIME, "epoch": rules.epoch, "rules": live}


def read_snapshot(payload: Mapping[str, Any]) -> Snapshot:
    """Read the payload of a snapshot whose signature, type, issuer and times were verified.

    Raises :class:`SnapshotError`.
    """
    try:
        read = msgspec.convert(payload, _Payload)
    except msgspec.ValidationError as error:
        raise SnapshotError(f"snapshot: {error}") from error
    if read.epoch < 0:
        raise SnapshotError("snapshot: epoch: must not be negative")
    index = RuleIndex(epoch=read.epoch)
    for place, item in enumerate(read.rules):
        index.add(_rule(place, item, read))
    if len(index) != len(read.rules):
        raise SnapshotError("snapshot: rules: two have the same number")
    return Snapshot(rules=index, epoch=read.epoch, issued_at=read.iat, expires_at=read.exp)


def verify_snapshot(token: str, keys: KeySet, *, issuer: str, now: float, skew: float = SKEW) -> Snapshot:
    """Verify a snapshot completely and read it.

    ``keys`` are the broker's published keys, ``skew`` is in seconds. That it does not go back behind an earlier one is
    for the caller to see (:meth:`Snapshot.follows`). Raises ``InvalidToken`` if it is not a good snapshot of this
    issuer, :class:`SnapshotError` if it is one that cannot be understood completely.
    """
    unverified = parse(token, max_bytes=MAX_SNAPSHOT)
    return read_snapshot(verify(unverified, RULES_SNAPSHOT, keys, issuer=issuer, audiences=None, now=now, skew=skew))


def _rule(place: int, item: _Item, read: _Payload) -> Rule:
    if item.n is not None and not 0 < item.n <= read.epoch:
        raise SnapshotError(f"snapshot: rules[{place}].n: must be from 1 to the epoch")
    try:
        selector = parse_selector(item.selector)
    except Malformed as error:
        raise SnapshotError(f"snapshot: rules[{place}]: {error.public}") from error
    name = f"pending {place}" if item.n is None else f"rule {item.n}"
    return Rule(id=name, selector=selector, number=item.n, at=read.iat, by="", reason="", ends_at=item.ends)
