"""Form bodies of the OAuth endpoints, read strictly: every byte accounted for, nothing twice."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from broker.core.errors import Code, Malformed

MAX_PARAMETERS: Final = 100
REPEATABLE: Final = frozenset({"resource", "audience"})
"""The parameters that may be given more than once (RFC 8693, 2.1; RFC 8707, 2)."""

_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SHORT: Final = 200  # characters
_NO_TEXTS: Final[tuple[str, ...]] = ()


class Form:
    """The parameters of one request. A parameter with an empty value is as good as absent (RFC 6749, 3.1)."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, list[str]]) -> None:
        """``values`` are never empty."""
        self._values = values

    def __contains__(self, name: str) -> bool:
        """Whether a parameter is present."""
        return name in self._values

    def get(self, name: str) -> str | None:
        """Return a parameter that can be there once only. Raises ``Malformed`` if it has control characters."""
        values = self._values.get(name)
        return None if values is None else _printable(name, values[0])

    def require(self, name: str) -> str:
        """Return a parameter that must be there. Raises ``Malformed``."""
        value = self.get(name)
        if value is None:
            raise Malformed(f"{name}: missing")
        return value

    def all(self, name: str) -> tuple[str, ...]:
        """Return every value of a repeatable parameter."""
        values = self._values.get(name)
        return _NO_TEXTS if values is None else tuple(_printable(name, value) for value in values)


def parse_form(body: bytes) -> Form:
    """Read ``application/x-www-form-urlencoded`` bytes.

    Raises ``Malformed`` for anything but ASCII with well-formed escapes of UTF-8, for more than
    :data:`MAX_PARAMETERS`, and (``DUPLICATE_PARAMETER``) for one given twice that may not be.
    """
    if body.count(b"&") >= MAX_PARAMETERS:
        raise Malformed(f"the form has more than {MAX_PARAMETERS} parameters")
    try:
        text = body.decode("ascii")
    except UnicodeDecodeError as error:
        raise Malformed("the form must be ASCII, other characters percent-encoded as UTF-8") from error
    values: dict[str, list[str]] = {}
    for pair in text.split("&"):
        name, _, value = pair.partition("=")
        if not value:
            continue
        name = _decoded(name)
        known = values.get(name)
        if known is None:
            values[name] = [_decoded(value)]
        elif name in REPEATABLE:
            known.append(_decoded(value))
        else:
            raise Malformed(f"a parameter is given twice: {ascii(name)[:80]}", Code.DUPLICATE_PARAMETER)
    return Form(values)


def _decoded(text: str) -> str:
    if "%" not in text:
        return text.replace("+", " ") if "+" in text else text
    return _unescaped(text) if len(text) > _SHORT else _known_unescaped(text)


def _unescaped(text: str) -> str:
    if _BAD_ESCAPE.search(text) is not None:
        raise Malformed("the form has a % that is not followed by two hex digits")
    try:
        return unquote_to_bytes(text.replace("+", " ")).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed("the form has escapes that are not UTF-8") from error


_known_unescaped: Final = lru_cache(maxsize=1024)(_unescaped)  # grant types, audiences and scopes are always the same


def _printable(name: str, value: str) -> str:
    if not value.isprintable():
        raise Malformed(f"{name}: must not have control characters")
    return value
