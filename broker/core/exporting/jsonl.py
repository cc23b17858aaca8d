"""JSON Lines: the entry itself with its place. Nothing is lost: its canonical encoding can be made of it again."""

from __future__ import annotations

from broker.core.exporting.event import Event, one_line


def jsonl_line(event: Event) -> str:
    """Return ``{"seq", "entry"}``, and ``personal`` with the salt of its commitment if it has one."""
    stored = {"entry": dict(event.members)} if event.stored is None else event.stored
    return one_line({"seq": event.seq, **stored})
