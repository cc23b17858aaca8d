"""Signing what verifiers are told of revocation: each statement once, however many ask for it."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from broker.core.errors import Code, Unavailable
from broker.core.feed import HEARTBEAT_TYP, MAX_STATEMENT, RULE_TYP, heartbeat_payload, rule_payload
from broker.core.marks import mark_of
from broker.core.rules import Rule
from broker.core.snapshot import MAX_SNAPSHOT, TYP, snapshot_payload
from broker.ports import Revocations
from broker.signing.keyring import KeyRing
from broker.signing.private_key import SigningKey

_encode: Final = msgspec.json.Encoder().encode

_Made = tuple[int, int, str]
"""What a statement was made of: a revision of the rules, at a whole second, with a key."""


class StatementSigner:
    """Signs with the key that signs access tokens, so verifiers need no second set of keys (port ``Statements``)."""

    def __init__(self, ring: KeyRing, revocations: Revocations, *, marks_key: bytes, issuer: str) -> None:
        """``revocations`` holds the rules in force, ``issuer`` is the broker's public URL.

        ``marks_key`` is derived from the master key for :data:`broker.core.marks.PURPOSE`.
        """
        self._ring = ring
        self._revocations = revocations
        self._marks_key = marks_key
        self._issuer = issuer
        self._kept: dict[str, tuple[_Made, str]] = {}

    def snapshot(self, now: float) -> str:
        """Return the snapshot of the rules in force at ``now`` (Unix seconds) as a JWT of type ``broker-rules+jwt``.

        Raises ``Unavailable`` if there is no key (``INTERNAL``), or if there are so many rules that verifiers would not
        read them (``OVERLOADED``): none is ever left out.
        """
        return self._once(TYP, now, MAX_SNAPSHOT)

    def heartbeat(self, now: float) -> str:
        """Return the heartbeat for the rules in force at ``now`` as a JWT of type ``broker-heartbeat+jwt``.

        Raises ``Unavailable`` like :meth:`snapshot`: ``OVERLOADED`` if more rules are pending than it can name.
        """
        return self._once(HEARTBEAT_TYP, now, MAX_STATEMENT)

    def rule(self, rule: Rule, previous: int, now: float) -> str:
        """Return the statement of one rule as a JWT of type ``broker-rule+jwt``; ``previous`` is the epoch before it.

        Raises ``Unavailable`` (``INTERNAL``) if there is no key.
        """
        mark = mark_of(self._marks_key, previous if rule.number is None else rule.number)
        payload = rule_payload(rule, previous=previous, mark=mark, issuer=self._issuer, now=now)
        return self._ring.signer(now).jwt(RULE_TYP, _encode(payload))

    def _once(self, typ: str, now: float, longest: int) -> str:
        """Return what was made for the same rules, second and key, or make it."""
        key = self._ring.signer(now)
        made = (self._revocations.rules.revision, int(now), key.kid)
        kept = self._kept.get(typ)
        if kept is None or kept[0] != made:
            kept = self._kept[typ] = (made, self._signed(typ, key, now))
        if len(kept[1]) > longest:
            raise Unavailable(Code.OVERLOADED, "more rules are live than a statement can hold")
        return kept[1]

    def _signed(self, typ: str, key: SigningKey, now: float) -> str:
        return key.jwt(typ, _encode(self._payload(typ, now)))

    def _payload(self, typ: str, now: float) -> dict[str, Any]:
        rules = self._revocations.rules
        mark = mark_of(self._marks_key, rules.epoch)
        if typ == TYP:
            return snapshot_payload(rules, mark=mark, issuer=self._issuer, now=now)
        pending = [rule.id for rule in rules.pending()]
        return heartbeat_payload(rules.epoch, pending, mark=mark, issuer=self._issuer, now=now)
