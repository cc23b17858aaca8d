"""``GET /v1/revocations/stream``: the feed of revocation rules, as server-sent events (WHATWG HTML, 9.2)."""

from __future__ import annotations

import asyncio
from typing import Final, cast

from aiohttp import HttpVersion11, hdrs, web

from broker.core.errors import BrokerError, Malformed
from broker.http.answer import NO_STORE
from broker.http.call import Call
from broker.http.connection import Connection
from broker.http.paging import only, query_value

LAST_EVENT: Final = "Last-Event-ID"

_HEADERS: Final = {
    hdrs.CONTENT_TYPE: "text/event-stream",
    hdrs.CACHE_CONTROL: NO_STORE,
    "X-Accel-Buffering": "no",  # nginx, and those that learnt from it, would keep the events back
}
_MAX_DIGITS: Final = 16


async def follow(call: Call) -> web.StreamResponse:
    """``GET /v1/revocations/stream``: the rules after an epoch, or all of them, and from then on each new one.

    The gate has finished when the first event is sent: a stream is no request under way, and has no deadline.
    """
    only(call.request, "after")
    after = _resumed(call.request)
    if call.request.body_exists:
        raise Malformed("this call takes no body")
    call.services.feed.check_room(call.operator.agent.id)
    if call.request.method == hdrs.METH_HEAD:
        return web.Response(headers=_HEADERS)
    return EventStream(call, after)


class EventStream(web.StreamResponse):
    """An answer whose body is what the feed tells, until one side has had enough (port ``Sink``)."""

    def __init__(self, call: Call, after: int | None) -> None:
        """``after`` is the epoch that the caller has."""
        super().__init__(headers=_HEADERS)
        self.force_close()
        self._feed = call.services.feed
        self._freshness = call.services.freshness
        self._admitted = call.operator
        self._after = after
        self._connection = cast("Connection", call.request.protocol)  # no other kind is made by a door
        self._chunked_body = call.request.version >= HttpVersion11
        self._over = asyncio.Event()

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the body, which ends when the feed or the connection does."""
        self._connection.begin_stream(self._over.set)
        try:
            await self._freshness.ensure()  # the header may have taken its time
            self._feed.join(self, self._admitted, self._after)
            await self._over.wait()
        except BrokerError:
            pass  # it can only come again; the answer has begun, and tells that by its end
        finally:
            self._feed.leave(self)
            self._connection.end_stream()
        await super().write_eof(data)

    @property
    def unread(self) -> int:
        """How many bytes wait to be read, besides those that the system keeps."""
        return self._connection.unread

    def tell(self, data: bytes) -> None:
        """Send more, in a chunk of its own where the protocol has chunks (RFC 9112, 7.1)."""
        if not data:
            return  # an empty chunk would be the last
        if self._chunked_body:
            self._connection.push(b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._connection.push(data)

    def end(self) -> None:
        """That was all: close once it is read."""
        self._over.set()

    def drop(self) -> None:
        """Close at once."""
        self._connection.abort()
        self._over.set()


def _resumed(request: web.Request) -> int | None:
    """Return the epoch that a caller says it has, or None if it has none, or says what none can be."""
    named = request.headers.getall(LAST_EVENT, ())
    text = ",".join(named) if named else query_value(request, "after") or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None
