"""A ledger entry on one line, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from broker.cli.output import moment, printable
from broker.core.personal import told

_TOLD: Final = (
    "ref",
    "anchor",
    "code",
    "reason",
    "selector",
    "role",
    "tier",
    "audience",
    "scope",
    "task",
    "incident",
    "counts",
)


def entry_line(found: Mapping[str, Any]) -> str:
    """Return an entry's place, time, kind, whom it is about, and what matters most of the rest."""
    entry = told(found)
    who = entry.get("agent") or entry.get("by") or "-"
    rest = ", ".join(f"{name} {printable(entry[name])}" for name in _TOLD if name in entry)
    return printable(f"{found['seq']:>8}  {entry_time(entry)}  {entry['kind']:<18}  {who}  {rest}")


def entry_time(entry: Mapping[str, Any]) -> str | None:
    """Return when it happened, in RFC 3339."""
    return moment(entry["at"] / 1000)
