"""Statements as server-sent events (WHATWG HTML, 9.2): bytes that are made once, however many follow."""

from __future__ import annotations

from typing import Final

RULE: Final = "rule"
HEARTBEAT: Final = "heartbeat"
SNAPSHOT: Final = "snapshot"

RETRY: Final = b"retry: 1000\n\n"
"""Tells a browser's client to come back after a second (milliseconds)."""


def event(name: str, statement: str, epoch: int | None = None) -> bytes:
    """Return an event. ``epoch`` is that of whoever has applied it: the id by which a follower resumes."""
    identity = "" if epoch is None else f"id: {epoch}\n"
    return f"{identity}event: {name}\ndata: {statement}\n\n".encode("ascii")
