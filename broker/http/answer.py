"""Answers: bytes with the headers that go with them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web
from multidict import CIMultiDict

from broker.http.call import Call

JSON: Final = "application/json"
NO_STORE: Final = "no-store"

_encode: Final = msgspec.json.Encoder().encode
_ALLOW_ORIGIN: Final = "Access-Control-Allow-Origin"


def answer(
    body: object, status: HTTPStatus = HTTPStatus.OK, *, location: str | None = None, link: str | None = None
) -> web.Response:
    """Return a JSON answer that nobody may store: what the broker says is true only now."""
    headers: CIMultiDict[str] = CIMultiDict({hdrs.CONTENT_TYPE: JSON, hdrs.CACHE_CONTROL: NO_STORE})
    if location is not None:
        headers[hdrs.LOCATION] = location
    if link is not None:
        headers[hdrs.LINK] = link
    return web.Response(body=_encode(body), status=status, headers=headers)


def oauth_answer(body: dict[str, Any]) -> web.Response:
    """Return the JSON answer of an OAuth endpoint (RFC 6749, 5.1)."""
    headers = {hdrs.CONTENT_TYPE: JSON, hdrs.CACHE_CONTROL: NO_STORE, hdrs.PRAGMA: "no-cache"}
    return web.Response(body=_encode(body), headers=headers)


def nothing() -> web.Response:
    """Return 204: it is done, and there is no more to say."""
    return web.Response(status=HTTPStatus.NO_CONTENT, headers={hdrs.CACHE_CONTROL: NO_STORE})


def public_document(call: Call, body: bytes, content_type: str, max_age: int) -> web.Response:
    """Return a document that anybody may read, from any web page, and keep for ``max_age`` seconds.

    A caller whose copy is current gets 304 and no body (RFC 9110, 13.1.2).
    """
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {
        hdrs.CACHE_CONTROL: f"public, max-age={max_age}",
        hdrs.ETAG: tag,
        _ALLOW_ORIGIN: "*",
    }
    if is_known(call.request, tag):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    headers[hdrs.CONTENT_TYPE] = content_type
    return web.Response(body=body, headers=headers)


def is_known(request: web.Request, tag: str) -> bool:
    """Whether the caller has what an entity tag stands for (``If-None-Match``; RFC 9110, 13.1.2)."""
    known = request.headers.get(hdrs.IF_NONE_MATCH)
    return known is not None and (known.strip() == "*" or tag in known)


def timestamp(seconds: float) -> str:
    """Return Unix seconds as RFC 3339 text in UTC, to the second."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
