"""Ledger entries in the formats that other systems read: one entry, one line, whatever the entry holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from broker.core.exporting.cef import cef_line
from broker.core.exporting.cloudevents import cloudevents_line
from broker.core.exporting.event import Event
from broker.core.exporting.hec import hec_line
from broker.core.exporting.jsonl import jsonl_line
from broker.core.exporting.ocsf import ocsf_line
from broker.core.exporting.otlp import otlp_batch, otlp_line, otlp_refused
from broker.core.exporting.syslog import syslog_message

__all__ = ["FORMATS", "MAX_SOURCE", "Event", "Format", "syslog_message"]

MAX_SOURCE: Final = 100
"""The longest ``source`` of events, in letters: CEF has no more room for it."""

_JSON: Final = "application/json"
_JSON_LINES: Final = "application/x-ndjson"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format: ``line`` makes a line, without its line feed, of an entry; ``batch`` the body of a request of lines.

    ``media_type`` is that of the body; ``path`` is where receivers of this format listen, if there is a usual place.
    ``scheme`` is the word before the token in the ``Authorization`` header. ``refused`` reads in the answer to an
    accepted request how many of its entries were refused all the same, and why.
    """

    line: Callable[[Event], str]
    media_type: str
    batch: Callable[[Sequence[str]], str]
    path: str = ""
    scheme: str = "Bearer"
    refused: Callable[[bytes], tuple[int, str]] = lambda _: (0, "")


def _lines(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _array(lines: Sequence[str]) -> str:
    return f"[{','.join(lines)}]"


FORMATS: Final[Mapping[str, Format]] = {
    "jsonl": Format(line=jsonl_line, media_type=_JSON_LINES, batch=_lines),
    "cloudevents": Format(line=cloudevents_line, media_type="application/cloudevents-batch+json", batch=_array),
    "cef": Format(line=cef_line, media_type="text/plain; charset=utf-8", batch=_lines),
    "ocsf": Format(line=ocsf_line, media_type=_JSON_LINES, batch=_lines),
    "otlp": Format(line=otlp_line, media_type=_JSON, batch=otlp_batch, path="/v1/logs", refused=otlp_refused),
    "hec": Format(line=hec_line, media_type=_JSON, batch=_lines, path="/services/collector/event", scheme="Splunk"),
}
"""By name."""
