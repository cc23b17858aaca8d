"""Events for Splunk's HTTP Event Collector: the entry, with what can be searched for beside it."""

from __future__ import annotations

from typing import Final

from broker.core.exporting.event import PRODUCT, VENDOR, Event, one_line

SOURCE_TYPE: Final = f"{VENDOR}:ledger"

_FIELDS: Final = ("agent", "task", "ref", "code")


def hec_line(event: Event) -> str:
    """Return the event; ``seq`` with ``source`` is unique, so that a search can drop what came twice."""
    texts = {name: text for name in _FIELDS if (text := event.text(name)) is not None}
    return one_line(
        {
            "time": event.milliseconds / 1000,
            "host": PRODUCT,
            "source": event.source,
            "sourcetype": SOURCE_TYPE,
            "event": {"seq": event.seq, "entry": dict(event.members)},
            "fields": {"seq": str(event.seq), "kind": event.kind, **texts},
        }
    )
