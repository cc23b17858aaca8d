"""Which request of which trace this is (W3C Trace Context): read from the caller or begun here, sent on and back."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")
_TRACE_BYTES: Final = 16
_SPAN_BYTES: Final = 8
_LENGTH: Final = 55


@dataclass(frozen=True, slots=True)
class Trace:
    """A request's place in a trace: ``trace_id`` (32 hex digits), and the ``traceparent`` that names our own span."""

    trace_id: str
    traceparent: str


def trace_of(request_id: str, traceparent: str | None) -> Trace:
    """Continue the caller's trace, or begin one when ``traceparent`` is absent or malformed.

    Ids that are made here are a hash of the request id, which has 80 random bits.
    """
    made = hashlib.blake2b(request_id.encode(), digest_size=_TRACE_BYTES + _SPAN_BYTES).hexdigest()
    span = made[2 * _TRACE_BYTES :]
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent and len(traceparent) == _LENGTH else None
    trace_id, flags = (made[: 2 * _TRACE_BYTES], "00") if found is None else (found[1], found[2])
    return Trace(trace_id, f"00-{trace_id}-{span}-{flags}")
