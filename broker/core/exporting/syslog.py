"""Entries as syslog messages: in any format, with their place and kind in the structured data."""

from __future__ import annotations

from typing import Final

from broker.core.exporting.event import Event
from broker.core.syslog import Message, Severity

MAX_KIND: Final = 64
"""Letters; kinds of ours are shorter, and a message must fit into a datagram with all but its text."""


def syslog_message(event: Event, line: str) -> Message:
    """Return the message that carries the line of an event. ``seq`` tells what came twice."""
    severity = Severity.ERROR if event.is_grave else Severity.WARNING if event.is_refusal else Severity.INFORMATIONAL
    return Message(
        severity=severity,
        milliseconds=event.milliseconds,
        kind=event.kind,
        data={"seq": str(event.seq), "kind": event.kind[:MAX_KIND], "source": event.source},
        text=line,
    )
