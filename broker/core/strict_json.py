"""JSON from strangers: every text has one reading, and reading it costs no more than its length (RFC 7493).

What other parsers pass over is refused here: a member given twice at any depth, NaN and infinities, numbers that do not
fit 64 bits, lone surrogates, nesting without end. Two programs that read such a text could see two different things.
"""

from __future__ import annotations

import json
import re
from math import isfinite
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 32
"""How deep arrays and objects may be nested."""

_MAX_DIGITS: Final = 20  # no shorter text is beyond 64 bits by more than a factor of ten
_INT64: Final = range(-(2**63), 2**63)
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


class JSONError(ValueError):
    """The text is not JSON with exactly one reading. The message never repeats any of it."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise JSONError("a member is given twice")
    return members


def _int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS or (number := int(digits)) not in _INT64:
        raise JSONError("a number does not fit 64 bits")
    return number


def _float(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise JSONError("a number is out of range")
    return number


def _constant(_name: str) -> NoReturn:
    raise JSONError("NaN and infinities are not JSON")


_decode: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_int, parse_float=_float, parse_constant=_constant
).decode


def read_json(data: bytes | str) -> Any:  # noqa: ANN401 - a JSON value
    """Return the value of a JSON text (UTF-8, no byte order mark). Raises :class:`JSONError`."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = _decode(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails on halves without their other half
    except JSONError:
        raise
    except RecursionError as error:
        raise JSONError("nested too deeply") from error
    except ValueError as error:
        raise JSONError("not JSON in UTF-8") from error
    if text.count("{") + text.count("[") > MAX_DEPTH:
        _refuse_deep(value)
    return value


def read_json_object(data: bytes | str) -> dict[str, Any]:
    """Return the members of a JSON object. Raises :class:`JSONError`."""
    value = read_json(data)
    if not isinstance(value, dict):
        raise JSONError("not a JSON object")
    return value


def _refuse_deep(value: object) -> None:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise JSONError("nested too deeply")
