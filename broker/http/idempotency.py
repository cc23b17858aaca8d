"""``Idempotency-Key``: the name under which a caller's repeated request is recognised."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from broker.core.errors import BrokerError, Code, Malformed

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
MAX_KEY: Final = 255


def idempotency_key(request: web.Request) -> str | None:
    """Return the key of a request, if it has one; it may be written as a structured string. Raises ``Malformed``."""
    values = request.headers.getall(IDEMPOTENCY_KEY, ())
    if not values:
        return None
    key = values[0].removeprefix('"').removesuffix('"')
    if len(values) > 1 or not 0 < len(key) <= MAX_KEY or not (key.isascii() and key.isprintable()):
        raise Malformed(f"{IDEMPOTENCY_KEY}: must be one text of 1 to {MAX_KEY} printable ASCII characters")
    return key


def needed_idempotency_key(request: web.Request) -> str:
    """Return the key of a request that must have one. Raises ``BrokerError`` (``IDEMPOTENCY_KEY_MISSING``)."""
    key = idempotency_key(request)
    if key is None:
        raise BrokerError(Code.IDEMPOTENCY_KEY_MISSING, f"send an {IDEMPOTENCY_KEY}, such as a fresh UUID")
    return key
