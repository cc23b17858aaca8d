"""Structured logs: one JSON object per line, with a last net that redacts what must never be printed."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final, TextIO

import msgspec
import structlog

MAX_VALUE: Final = 2048
"""Longest text of one value in characters; longer ones are cut."""

MAX_DEPTH: Final = 8
"""How deep a value is followed."""

_MAX_BITS: Final = 64
_REDACTED: Final = "[redacted]"
_NAMES: Final = frozenset(
    {
        "access_token",
        "assertion",
        "authorization",
        "client_assertion",
        "client_secret",
        "code",
        "cookie",
        "dpop",
        "master_key",
        "password",
        "private_key",
        "proof",
        "refresh_token",
        "secret",
        "set-cookie",
        "subject_token",
    }
)
_OWN_NAMES: Final = _NAMES - {"code"}
"""In our own events ``code`` is a reason code; an enrolment code never gets there under that name."""

_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*")  # a match never fails late: linear time
_PEM: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")


def redact(value: object, depth: int = 0) -> object:
    """Return ``value`` without anything that looks like a token or private key, at any depth, cut to size.

    The result can always be written as JSON. Exceptions are named by their class: their texts can hold anything.
    """
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return "[nested too deep]" if depth >= MAX_DEPTH else _redact_items(value, depth + 1)
    if isinstance(value, BaseException):
        return describe(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if isinstance(value, int):
        return value if value.bit_length() < _MAX_BITS else "[a huge number]"
    return value if value is None or isinstance(value, float) else _clean(str(value))


def _redact_items(value: Mapping[object, object] | Iterable[object], depth: int) -> object:
    if isinstance(value, Mapping):
        return {
            _clean(str(name)): _REDACTED if str(name).lower() in _NAMES else redact(item, depth)
            for name, item in value.items()
        }
    return [redact(item, depth) for item in value]


def _clean(text: str) -> str:
    if len(text) <= MAX_VALUE and text.isascii() and "eyJ" not in text and "-----BEGIN" not in text:
        return text  # nearly every value of an access log
    unicode = text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()  # lone surrogates
    clean = _REDACTED if _PEM.search(unicode) else _JWT.sub(_REDACTED, unicode)
    return clean if len(clean) <= MAX_VALUE else clean[:MAX_VALUE] + "…"


def _redacting(_logger: object, _method: str, members: MutableMapping[str, Any]) -> Mapping[str, Any]:
    return {name: _REDACTED if name.lower() in _OWN_NAMES else redact(item) for name, item in members.items()}


def _exception_class(_logger: object, _method: str, members: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace exception information by class names and code positions: messages can hold anything (law 8)."""
    error = members.pop("exc_info", None)
    if isinstance(error, tuple):
        error = error[1]
    elif error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        members["error"] = describe(error)
    return members


def describe(error: BaseException) -> list[str]:
    """Return the chain of causes as class names with the place in the code, without messages or values."""
    chain: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(chain) < 8:  # noqa: PLR2004 - enough to find the cause
        seen.add(id(current))
        frame = current.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        code = None if frame is None else frame.tb_frame.f_code
        place = "" if code is None or frame is None else f" at {code.co_name}:{frame.tb_lineno}"
        chain.append(f"{type(current).__module__}.{type(current).__qualname__}{place}")
        current = current.__context__ if current.__cause__ is None else current.__cause__
    return chain


def _line(_logger: object, _method: str, members: MutableMapping[str, Any]) -> str:
    return msgspec.json.encode(members).decode()


class _Foreign(logging.Handler):
    """Brings the records of libraries into the same format; their exceptions by class name only.

    Only the first line of a message is kept: what follows it, such as the state of a failed task that ``asyncio``
    appends, can hold the text of an exception.
    """

    def __init__(self, events: structlog.stdlib.BoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        """Log a library's record."""
        error = record.exc_info[1] if record.exc_info else None
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's bad format must not fail what it reports on
            message = str(record.msg)
        members: dict[str, Any] = {"logger": record.name, "message": message.partition("\n")[0]}
        if error is not None:
            members["error"] = describe(error)
        method = self._events.error if record.levelno >= logging.ERROR else self._events.warning
        method("library", **members)


def configure(level: str, stream: TextIO | None = None) -> structlog.stdlib.BoundLogger:
    """Set up logging for this process and return the logger that implements the ``Events`` port."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(stream or sys.stderr),  # a line is one write, so that processes can share a log
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _exception_class,
            _redacting,
            _line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    ).bind()  # without this, every line would bind a logger of its own
    root = logging.getLogger()
    root.handlers = [_Foreign(logger)]
    root.setLevel(logging.WARNING)
    return logger
