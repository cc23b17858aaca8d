"""Lists in pages: how many, from where, and a link to the next (RFC 8288). Cursors are opaque to callers."""

from __future__ import annotations

import base64
from typing import Final

from aiohttp import web

from broker.core.errors import Malformed

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000

_MAX_DIGITS: Final = 18


def limit_of(request: web.Request) -> int:
    """Return how many items a page may have. Raises ``Malformed``."""
    text = query_value(request, "limit")
    if text is None:
        return DEFAULT_LIMIT
    limit = whole_number("limit", text)
    if not 1 <= limit <= MAX_LIMIT:
        raise Malformed(f"limit: must be 1 to {MAX_LIMIT}")
    return limit


def cursor_of(request: web.Request) -> int | None:
    """Return the place that a page starts from, or None for the first page. Raises ``Malformed``."""
    text = query_value(request, "cursor")
    if text is None:
        return None
    try:
        place = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except ValueError as error:
        raise Malformed("cursor: not one that this broker gave") from error
    return whole_number("cursor", place)


def cursor_at(place: int) -> str:
    """Return the cursor of a place."""
    return base64.urlsafe_b64encode(str(place).encode()).rstrip(b"=").decode()


def link_to(request: web.Request, cursor: str | None) -> str | None:
    """Return the ``Link`` header that names the next page, as a reference relative to this one."""
    if cursor is None:
        return None
    return f'<?cursor={cursor}&limit={limit_of(request)}>; rel="next"'


def query_value(request: web.Request, name: str) -> str | None:
    """Return a parameter of the query, or None. Raises ``Malformed`` if it is there twice."""
    values = request.query.getall(name, ())
    if len(values) > 1:
        raise Malformed(f"{name}: given twice")
    return values[0] if values else None


def only(request: web.Request, *names: str) -> None:
    """Raise ``Malformed`` if the query has any other parameter than ``names``."""
    for name in request.query:
        if name not in names:
            raise Malformed(f"{ascii(name)[1:-1][:80]}: not a parameter of this call")


def whole_number(name: str, text: str) -> int:
    """Return a whole number from ``0`` up. Raises ``Malformed``."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise Malformed(f"{name}: must be a whole number")
    return int(text)
