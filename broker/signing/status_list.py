"""Signing Token Status Lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from broker.core.status_list import TYP
from broker.signing.keyring import KeyRing

_encode: Final = msgspec.json.Encoder().encode


class StatusListSigner:
    """Signs lists with the key that signs access tokens, so that verifiers need no second set of keys."""

    def __init__(self, ring: KeyRing) -> None:
        """``ring`` has the broker's keys."""
        self._ring = ring

    def sign(self, payload: Mapping[str, Any], now: float) -> str:
        """Return a JWT of type ``statuslist+jwt``. Raises ``Unavailable`` (``INTERNAL``) without a key to sign with."""
        return self._ring.signer(now).jwt(TYP, _encode(payload))
