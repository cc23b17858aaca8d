"""CloudEvents 1.0 in their JSON format. ``source`` with ``id`` is unique, so that a receiver knows what came twice."""

from __future__ import annotations

from broker.core.exporting.event import PRODUCT, Event, one_line
from broker.core.moment import rfc3339


def cloudevents_line(event: Event) -> str:
    """Return the event; its data is the entry."""
    attributes = {
        "specversion": "1.0",
        "id": str(event.seq),
        "source": event.source,
        "type": f"{PRODUCT}.{event.kind}.v1",
        "time": rfc3339(event.milliseconds),
        "datacontenttype": "application/json",
    }
    subject = event.text("ref") or event.text("agent")
    if subject:
        attributes["subject"] = subject
    return one_line({**attributes, "data": dict(event.members)})
