"""Ledger entries in the formats that other systems read: one entry, one line, whatever the entry holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from broker.core.exporting.cef import cef_line
from broker.core.exporting.cloudevents import cloudevents_line
from broker.core.exporting.event import Event
from broker.core.exporting.jsonl import jsonl_line
from broker.core.exporting.ocsf import ocsf_line

__all__ = ["FORMATS", "Event"]

FORMATS: Final[Mapping[str, Callable[[Event], str]]] = {
    "jsonl": jsonl_line,
    "cloudevents": cloudevents_line,
    "cef": cef_line,
    "ocsf": ocsf_line,
}
"""By name, what makes a line, without its line feed, of an entry."""
