"""Reading a stream of events as browsers do (HTML Living Standard, 9.2.6), with a bound on what one may hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_TOO_LONG: Final = "an event is longer than any that is expected"


class EventTooLong(ValueError):
    """An event, or one line of it, is longer than any that is expected."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``data`` is as it was sent, several lines with a line feed between; nothing of it is verified."""

    name: str
    data: bytes = field(repr=False)


class EventReader:
    """Takes the bytes of a stream as they come, and gives the events that are complete.

    Ids and retry times are left out: a verifier resumes by its own epoch, and has a pace of its own.
    """

    def __init__(self, max_bytes: int) -> None:
        """``max_bytes`` is the longest that one event may be; so much is kept in memory, and not more."""
        self._max_bytes = max_bytes
        self._rest = bytearray()
        self._searched = 0
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0
        self._first = True

    def read(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events that end in this chunk. Raises :class:`EventTooLong`."""
        self._rest += chunk
        for line in self._lines():
            if not line:
                if self._data:
                    yield Event(self._name, b"\n".join(self._data))
                self._name, self._data, self._size = "", [], 0
            else:
                self._member(line)
        if len(self._rest) > self._max_bytes:
            raise EventTooLong(_TOO_LONG)

    def _lines(self) -> Iterator[bytes]:
        """Yield complete lines. A carriage return at the very end may be the first half of a line's end."""
        start = 0
        while (end := _LINE_END.search(self._rest, max(start, self._searched))) is not None:
            if end.group() == b"\r" and end.end() == len(self._rest):
                break
            line = bytes(self._rest[start : end.start()])
            start = end.end()
            yield line.removeprefix(_BYTE_ORDER_MARK) if self._first else line
            self._first = False
        del self._rest[:start]
        self._searched = max(0, len(self._rest) - 1)

    def _member(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        self._size += len(line)
        if self._size > self._max_bytes:
            raise EventTooLong(_TOO_LONG)
        if name == b"event":
            self._name = value.decode("utf-8", "replace")
        elif name == b"data":
            self._data.append(value)
