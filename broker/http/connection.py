"""One connection: what phase it is in, since when, and how it ends when the client is slow or talks nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final, Protocol, cast

from aiohttp import web

from broker.core.errors import BrokerError, Code
from broker.http.problem import PROBLEM_JSON, PROBLEMS, problem_body


class Phase(Enum):
    """What a connection is waiting for."""

    IDLE = auto()
    """For a request, of which nothing has come."""

    HEADER = auto()
    """For the rest of a request's header."""

    BUSY = auto()
    """For our answer."""

    STREAMING = auto()
    """For nothing: it is told things as they come, and whoever tells them sees to it that they are read."""

    CLOSING = auto()
    """For the client to read the last thing it is told."""


_RECEIVING: Final = frozenset({Phase.IDLE, Phase.HEADER})


class Crowd(Protocol):
    """Keeps track of all connections of a listener."""

    def joined(self, connection: Connection) -> bool:
        """A connection was made; False if there is no room for it."""
        ...

    def moved(self, connection: Connection) -> None:
        """A connection has entered another phase."""
        ...

    def left(self, connection: Connection) -> None:
        """A connection is lost."""
        ...


class Connection(web.RequestHandler):
    """An HTTP connection that knows its phase. The gate says when a request begins and ends."""

    __slots__ = ("_crowd", "_issuer", "_lost", "_wire", "phase", "received", "since")

    def __init__(self, *arguments: Any, crowd: Crowd, issuer: str, **options: Any) -> None:  # noqa: ANN401 - aiohttp's
        """``received`` is how many bytes have come since the last request began."""
        super().__init__(*arguments, **options)
        self._crowd = crowd
        self._issuer = issuer
        self._wire: asyncio.WriteTransport | None = None
        self._lost: Callable[[], None] | None = None
        self.phase = Phase.IDLE
        self.since = 0.0
        self.received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take part, or be turned away when there is no room."""
        super().connection_made(transport)
        # Kept when the library has let go of it: closing may still wait for the client to read. Not every event loop's
        # transports are instances of asyncio's classes, so it is taken at its word.
        self._wire = cast("asyncio.WriteTransport", transport)
        self._enter(Phase.IDLE)
        if not self._crowd.joined(self):
            self.end_with(BrokerError(Code.OVERLOADED, "too many connections"))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Leave. From now on nothing may be asked of the transport: some say so by an error."""
        self._wire = None
        self._crowd.left(self)
        if self._lost is not None:
            self._lost()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes: the first ones of a request begin the time in which its header must be complete."""
        if self.phase is Phase.STREAMING:
            self.abort()  # there is nothing to say into an answer that does not end
            return
        if self.phase in _RECEIVING:
            self.received += len(data)
            if self.phase is Phase.IDLE:
                self._enter(Phase.HEADER)
        super().data_received(data)

    def begin(self) -> None:
        """Note that a request's header is complete and its answer is being made."""
        self.received = 0
        self._enter(Phase.BUSY)

    def end(self) -> None:
        """Note that a request has been answered."""
        self._enter(Phase.IDLE)

    def begin_stream(self, lost: Callable[[], None]) -> None:
        """Note that an answer begins that does not end by itself; ``lost`` is called if the connection does."""
        self._lost = lost
        self._enter(Phase.STREAMING)

    def push(self, *parts: bytes) -> None:
        """Send a part of such an answer, without waiting for the client to read it."""
        if self._wire is not None:
            self._wire.writelines(parts)

    def end_stream(self) -> None:
        """Note that such an answer is over: the client may take a while to read the rest, as with any other."""
        self._lost = None
        self._enter(Phase.CLOSING)

    def end_with(self, error: BrokerError) -> None:
        """Answer with an error outside of any request, and close. Nothing of what was received is repeated."""
        if self._wire is not None and not self._wire.is_closing() and self.phase is not Phase.BUSY:
            self._wire.write(_raw_answer(error, self._issuer))
        self._enter(Phase.CLOSING)
        self.force_close()

    @property
    def unread(self) -> int:
        """How many bytes of answers the client has yet to take."""
        return 0 if self._wire is None else self._wire.get_write_buffer_size()

    def abort(self) -> None:
        """Close at once, whatever the client has yet to read."""
        if self._wire is not None:
            self._wire.abort()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - aiohttp's interface
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002 - as above
        message: str | None = None,  # noqa: ARG002 - as above
    ) -> web.StreamResponse:
        """Answer what is not HTTP. The library's text would repeat, and its log keep, what was sent."""
        code = Code.MALFORMED_REQUEST if status < 500 else Code.INTERNAL  # noqa: PLR2004 - server errors begin there
        error = BrokerError(code, "not a well-formed HTTP request" if status < 500 else "internal error")  # noqa: PLR2004
        response = web.Response(
            body=problem_body(error, self._issuer, "-"), status=status, headers={"Content-Type": PROBLEM_JSON}
        )
        response.force_close()
        return response

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.since = asyncio.get_running_loop().time()
        self._crowd.moved(self)


def _raw_answer(error: BrokerError, issuer: str) -> bytes:
    status, _ = PROBLEMS[error.code]
    body = problem_body(error, issuer, "-")
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {PROBLEM_JSON}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
