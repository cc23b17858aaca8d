"""CloudEvents 1.0 in their JSON format. ``source`` with ``id`` is unique, so that a receiver knows what came twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from broker.core.exporting.event import PRODUCT, Event, one_line

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def cloudevents_line(event: Event) -> str:
    """Return the event; its data is the entry."""
    attributes = {
        "specversion": "1.0",
        "id": str(event.seq),
        "source": event.source,
        "type": f"{PRODUCT}.{event.kind}.v1",
        "time": _time(event.milliseconds),
        "datacontenttype": "application/json",
    }
    subject = event.text("ref") or event.text("agent")
    if subject:
        attributes["subject"] = subject
    return one_line({**attributes, "data": dict(event.members)})


def _time(milliseconds: int) -> str:
    """Return RFC 3339 to the millisecond; of a time beyond what a date can be, the nearest that can."""
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        moment = datetime.max.replace(tzinfo=UTC) if milliseconds > 0 else datetime.min.replace(tzinfo=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
