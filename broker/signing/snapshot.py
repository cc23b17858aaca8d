"""Signing the revocation snapshot that verifiers poll."""

from __future__ import annotations

from typing import Final

import msgspec

from broker.core.errors import Code, Unavailable
from broker.core.marks import mark_of
from broker.core.snapshot import MAX_SNAPSHOT, TYP, snapshot_payload
from broker.ports import Revocations
from broker.signing.keyring import KeyRing

_encode: Final = msgspec.json.Encoder().encode


class SnapshotSigner:
    """Signs the live rules with the key that signs access tokens, so verifiers need no second set of keys."""

    def __init__(self, ring: KeyRing, revocations: Revocations, *, marks_key: bytes, issuer: str) -> None:
        """``revocations`` holds the rules in force, ``issuer`` is the broker's public URL.

        ``marks_key`` is derived from the master key for :data:`broker.core.marks.PURPOSE`.
        """
        self._ring = ring
        self._revocations = revocations
        self._marks_key = marks_key
        self._issuer = issuer

    def at(self, now: float) -> str:
        """Return the snapshot of the rules in force at ``now`` (Unix seconds) as a JWT of type ``broker-rules+jwt``.

        Raises ``Unavailable`` if there is no key (``INTERNAL``), or if there are so many rules that verifiers would not
        read them (``OVERLOADED``): none is ever left out.
        """
        rules = self._revocations.rules
        mark = mark_of(self._marks_key, rules.epoch)
        payload = _encode(snapshot_payload(rules, mark=mark, issuer=self._issuer, now=now))
        token = self._ring.signer(now).jwt(TYP, payload)
        if len(token) > MAX_SNAPSHOT:
            raise Unavailable(Code.OVERLOADED, "more rules are live than a snapshot can hold")
        return token
