"""JSON Lines: the entry itself with its place. Nothing is lost: its canonical encoding can be made of it again."""

from __future__ import annotations

from broker.core.exporting.event import Event, one_line


def jsonl_line(event: Event) -> str:
    """Return ``{"seq", "entry"}``."""
    return one_line({"seq": event.seq, "entry": dict(event.members)})
