"""Calls in both directions over one stream between the supervisor and a worker.

Each side may call at any time. It begins to answer calls in the order in which they came, and reads on while it
answers, so that none can hold up the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from broker.background import Background
from broker.core.errors import Code, Unavailable
from broker.workers.messages import Failed, Message

MAX_FRAME: Final = 16 * 1024 * 1024
"""The longest message in bytes: all pending rules, or all metrics of a process."""

_LENGTH: Final = 4

Answer = Callable[[Message], Awaitable[Message]]
"""Does what a message asks and returns the answer; what it raises is answered by ``Failed``."""


class _Frame(msgspec.Struct, frozen=True, array_like=True):
    """A call, or the answer to the call of the same number."""

    number: int
    is_answer: bool
    message: Message


class Channel:
    """One end. Belongs to one event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
        """Use :meth:`over`."""
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(_Frame)
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._calls = 0
        self._answering = Background()

    @classmethod
    async def over(cls, end: socket.socket, answer: Answer) -> Channel:
        """Talk over one end of a pair of stream sockets, which belongs to the channel from now on."""
        reader, writer = await asyncio.open_unix_connection(sock=end)
        return cls(reader, writer, answer)

    async def call(self, message: Message) -> Message:
        """Ask the other side, and return its answer. Raises ``Unavailable`` when it is gone, or could not do it."""
        if self._writer.is_closing():
            raise _gone()
        self._calls += 1
        number = self._calls
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send(_Frame(number, is_answer=False, message=message))
        try:
            answer: Message = await future
        finally:
            self._waiting.pop(number, None)
        if isinstance(answer, Failed):
            raise Unavailable(Code.INTERNAL, "another process of the broker could not do it")
        return answer

    async def serve(self) -> None:
        """Answer the other side until it is gone. What it leaves unanswered fails."""
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError, msgspec.DecodeError):
                while True:
                    self._take(await self._read())
        finally:
            self._writer.close()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(_gone())
            await self._answering.cancel()

    def _take(self, frame: _Frame) -> None:
        if not frame.is_answer:
            self._answering.begin(self._respond(frame))
            return
        future = self._waiting.get(frame.number)
        if future is not None and not future.done():
            future.set_result(frame.message)

    async def _respond(self, frame: _Frame) -> None:
        try:
            message = await self._answer(frame.message)
        except Exception:  # noqa: BLE001 - whoever answers has logged what it cannot do; the caller must hear of it
            message = Failed()
        if not self._writer.is_closing():
            self._send(_Frame(frame.number, is_answer=True, message=message))

    async def _read(self) -> _Frame:
        size = int.from_bytes(await self._reader.readexactly(_LENGTH), "big")
        if size > MAX_FRAME:
            raise msgspec.DecodeError("a frame is too long")
        return self._decoder.decode(await self._reader.readexactly(size))

    def _send(self, frame: _Frame) -> None:
        data = self._encoder.encode(frame)
        self._writer.write(len(data).to_bytes(_LENGTH, "big") + data)


def _gone() -> Unavailable:
    return Unavailable(Code.STOPPING, "the other process of the broker is gone")
