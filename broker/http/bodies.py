"""Request bodies: received within bounds of size and time, and read as what the content type says."""

from __future__ import annotations

import asyncio
import re
from typing import Final, TypeVar

import msgspec
from aiohttp import hdrs, web

from broker.core.errors import BrokerError, Code, Malformed
from broker.core.strict_json import JSONError
from broker.core.strict_json import read_json as parse_json
from broker.http.call import Call
from broker.http.forms import Form, parse_form

FORM: Final = "application/x-www-form-urlencoded"
JSON: Final = "application/json"

_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*)`)?", re.DOTALL)
_PLACED: Final = re.compile(r"(.*?)(?: - at `\$\.?(.*)`)?", re.DOTALL)
_MAX_QUOTED: Final = 80

T = TypeVar("T")


async def read_form(call: Call) -> Form:
    """Return the form of an OAuth request. Raises ``BrokerError`` naming what is wrong with it."""
    _check_media_type(call.request, FORM)
    return parse_form(await read_body(call))


async def read_json(call: Call, kind: type[T]) -> T:
    """Return the JSON body as a ``kind``, a ``msgspec.Struct`` that forbids unknown fields.

    Raises ``Malformed`` that names the field; a member given twice is refused at any depth.
    """
    _check_media_type(call.request, JSON)
    data = _parsed(await read_body(call))
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise _named(str(error)) from error


async def read_body(call: Call) -> bytes:
    """Return the body. Raises ``BrokerError`` (``TOO_LARGE``, ``TOO_SLOW``, ``UNSUPPORTED_MEDIA_TYPE``)."""
    request, limit = call.request, call.site.body_bytes
    if hdrs.CONTENT_ENCODING in request.headers:
        raise BrokerError(Code.UNSUPPORTED_MEDIA_TYPE, "the body must not be compressed")
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    try:
        if request.content.is_eof():
            return await request.read()
        async with asyncio.timeout(call.site.body_seconds):
            return await request.read()
    except TimeoutError as error:
        raise BrokerError(Code.TOO_SLOW, f"the body did not arrive within {call.site.body_seconds:g} s") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise _too_large(limit) from error
    except web.RequestPayloadError as error:
        raise Malformed("the body is not framed correctly") from error


def _too_large(limit: int) -> BrokerError:
    return BrokerError(Code.TOO_LARGE, f"the body is longer than {limit} bytes")


def _check_media_type(request: web.Request, expected: str) -> None:
    given = request.headers.getall(hdrs.CONTENT_TYPE, ())
    if len(given) == 1:
        media_type, _, parameters = given[0].partition(";")
        charset = parameters.strip().lower()
        if media_type.strip().lower() == expected and charset in {"", "charset=utf-8", 'charset="utf-8"'}:
            return
    raise BrokerError(Code.UNSUPPORTED_MEDIA_TYPE, f"Content-Type: must be {expected}")


def _parsed(body: bytes) -> object:
    try:
        return parse_json(body)
    except JSONError as error:
        raise Malformed(f"the body: {error}") from error


def _named(text: str) -> Malformed:
    """Turn msgspec's message into one that names the field first, without repeating more of the input than its name."""
    unknown = _UNKNOWN.fullmatch(text)
    if unknown is not None:
        within = f"{unknown[2]}." if unknown[2] else ""
        name = ascii(unknown[1])[1:-1][:_MAX_QUOTED]
        return Malformed(f"{within}{name}: unknown field", Code.UNKNOWN_FIELD)
    placed = _PLACED.fullmatch(text)
    if placed is None or not placed[2]:
        return Malformed(ascii(text)[1:-1].replace("`", "'"))
    return Malformed(f"{placed[2]}: {placed[1]}".replace("`", "'"))
