"""Lists in pages: how many, from where, and a link to the next (RFC 8288). Cursors are opaque to callers."""

from __future__ import annotations

import base64
import re
from typing import Final
from urllib.parse import urlencode

from aiohttp import web

from broker.core.errors import Malformed

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000

_MAX_DIGITS: Final = 18
_ID: Final = re.compile(r"[A-Za-z0-9._:~-]{1,128}")


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
    place = _cursor(request)
    return None if place is None else whole_number("cursor", place)


def cursor_id_of(request: web.Request) -> str | None:
    """Return the id that a page starts below, or None for the first page. Raises ``Malformed``."""
    place = _cursor(request)
    if place is not None and _ID.fullmatch(place) is None:
        raise Malformed("cursor: not one that this broker gave")
    return place


def _cursor(request: web.Request) -> str | None:
    text = query_value(request, "cursor")
    if text is None:
        return None
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except ValueError as error:
        raise Malformed("cursor: not one that this broker gave") from error


def cursor_at(place: int | str) -> str:
    """Return the cursor of a place, or of an id."""
    return base64.urlsafe_b64encode(str(place).encode()).rstrip(b"=").decode()


def link_to(request: web.Request, cursor: str | None) -> str | None:
    """Return the ``Link`` header that names the next page of the same list, as a reference relative to this one."""
    if cursor is None:
        return None
    others = {name: value for name, value in request.query.items() if name not in {"cursor", "limit"}}
    query = urlencode({"cursor": cursor, "limit": limit_of(request), **others})
    return f'<?{query}>; rel="next"'


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
