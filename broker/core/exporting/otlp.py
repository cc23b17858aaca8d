"""OpenTelemetry logs in their JSON encoding (OTLP 1.x): each line is an ExportLogsServiceRequest of one record.

A batch is one such request: its ``resourceLogs`` are those of all lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from broker.core.exporting.event import PRODUCT, VENDOR, Event, one_line

_MAX_NANOSECONDS: Final = 2**64 - 1
_TRACE: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")
_BEGIN, _END = '{"resourceLogs":[', "]}"
_INFO, _WARN, _ERROR = (9, "INFO"), (13, "WARN"), (17, "ERROR")
_SHOWN: Final = ("agent", "task", "ref", "role", "code")


def otlp_line(event: Event) -> str:
    """Return the event; its body is the entry, the attribute ``broker.seq`` its place."""
    number, word = _ERROR if event.is_grave else _WARN if event.is_refusal else _INFO
    moment = str(min(max(0, event.milliseconds * 1_000_000), _MAX_NANOSECONDS))
    texts = {f"broker.{name}": text for name in _SHOWN if (text := event.text(name)) is not None}
    record: dict[str, Any] = {
        "timeUnixNano": moment,
        "observedTimeUnixNano": moment,
        "severityNumber": number,
        "severityText": word,
        "eventName": f"{PRODUCT}.{event.kind}",
        "body": _value(dict(event.members)),
        "attributes": _attributes({"broker.seq": event.seq, "broker.kind": event.kind, **texts}),
    }
    trace = event.text("trace")
    if trace is not None and _TRACE.fullmatch(trace):
        record["traceId"] = trace
    resource = {"attributes": _attributes({"service.name": VENDOR, "service.instance.id": event.source})}
    scope = {"scope": {"name": f"{PRODUCT}.ledger"}, "logRecords": [record]}
    return one_line({"resourceLogs": [{"resource": resource, "scopeLogs": [scope]}]})


def otlp_batch(lines: Sequence[str]) -> str:
    """Return one request of several lines."""
    return _BEGIN + ",".join(line.removeprefix(_BEGIN).removesuffix(_END) for line in lines) + _END


def otlp_refused(reply: bytes) -> tuple[int, str]:
    """Return how many records of a request the receiver says that it has refused, and why.

    Such a request must not be sent again. What cannot be read says nothing of it.
    """
    try:
        found = json.loads(reply)["partialSuccess"]
        return int(found.get("rejectedLogRecords", 0)), str(found.get("errorMessage", ""))
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError):
        return 0, ""


def _attributes(members: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(member)} for name, member in members.items()]


def _value(member: object) -> dict[str, Any]:
    """Return an AnyValue; 64-bit numbers are texts, as the JSON encoding of Protocol Buffers has it."""
    match member:
        case bool():
            return {"boolValue": member}
        case int():
            return {"intValue": str(member)}
        case list():
            return {"arrayValue": {"values": [_value(item) for item in member]}}
        case dict():
            return {"kvlistValue": {"values": _attributes(member)}}
        case _:
            return {"stringValue": str(member)}
