"""A ledger entry on one line, for people."""

from __future__ import annotations

from typing import Any, Final

from broker.cli.output import moment, printable

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


def entry_line(found: dict[str, Any]) -> str:
    """Return an entry's place, time, kind, whom it is about, and what matters most of the rest."""
    entry = found["entry"]
    who = entry.get("agent") or entry.get("by") or "-"
    told = ", ".join(f"{name} {printable(entry[name])}" for name in _TOLD if name in entry)
    return printable(f"{found['seq']:>8}  {entry_time(entry)}  {entry['kind']:<18}  {who}  {told}")


def entry_time(entry: dict[str, Any]) -> str | None:
    """Return when it happened, in RFC 3339."""
    return moment(entry["at"] / 1000)
