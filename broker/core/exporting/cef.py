"""ArcSight Common Event Format, version 0: a header between bars, then ``key=value`` pairs.

In the header a backslash and a bar are escaped; in values a backslash, an equals sign and line ends. Any other
character that is not printable becomes its number in hexadecimal after an ``x``, with a backslash before it that is
escaped in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from broker.core.escaping import escaped
from broker.core.exporting.event import PRODUCT, VENDOR, Event

MAX_VALUE: Final = 1023
"""How many characters of a text are told: what the dictionary of CEF allows most of its keys."""

_ORDINARY, _REFUSED, _GRAVE = 2, 5, 8
_CUSTOM: Final = (
    ("task", "cs1"),
    ("ref", "cs2"),
    ("role", "cs3"),
    ("scope", "cs4"),
    ("audience", "cs5"),
    ("by", "cs6"),
)
_LINE_ENDS: Final = {"\n": "\\n", "\r": "\\r"}


def cef_line(event: Event) -> str:
    """Return the event. What CEF has no key for is told only by the other formats; ``externalId`` leads to it."""
    severity = _GRAVE if event.is_grave else _REFUSED if event.is_refusal else _ORDINARY
    name = event.kind.replace(".", " ").replace("_", " ")
    header = [VENDOR, PRODUCT, str(event.members.get("v", 1)), event.kind, name, str(severity)]
    pairs = " ".join(f"{key}={_value(text)}" for key, text in _pairs(event))
    return "|".join(["CEF:0", *map(_header, header), pairs])


def _pairs(event: Event) -> Iterator[tuple[str, str]]:
    yield "rt", str(event.milliseconds)
    yield "externalId", str(event.seq)
    yield "dvchost", event.source
    yield "outcome", "failure" if event.is_refusal else "success"
    if (address := event.address) is not None:
        yield from _address(address)
    for member, key in (("agent", "suser"), ("request", "request"), ("code", "act"), ("reason", "reason")):
        if (text := event.text(member)) is not None:
            yield key, text
    for member, key in _CUSTOM:
        if (text := event.text(member)) is not None:
            yield f"{key}Label", member
            yield key, text


def _address(address: IPv4Address | IPv6Address) -> Iterator[tuple[str, str]]:
    if address.version == 4:  # noqa: PLR2004 - IPv4
        yield "src", str(address)
    else:
        yield "c6a2Label", "Source IPv6 Address"
        yield "c6a2", str(address)


def _header(text: str) -> str:
    return escaped(text[:MAX_VALUE], "\\|")


def _value(text: str) -> str:
    return "".join(_LINE_ENDS.get(letter) or escaped(letter, "\\=") for letter in text[:MAX_VALUE])
