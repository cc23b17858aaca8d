"""Open Cybersecurity Schema Framework 1.6, in three of its classes.

Tokens are Authorize Session (3003), authentications are Authentication (3002), everything else is API Activity (6003).
The whole entry stands in ``unmapped``, since the schema has no attributes for most of it.
"""

from __future__ import annotations

from typing import Any, Final

from broker.core.entry import Kind
from broker.core.exporting.event import PRODUCT, VENDOR, Event, one_line

SCHEMA: Final = "1.6.0"

_AUTHENTICATION, _AUTHORIZE_SESSION, _API_ACTIVITY = 3002, 3003, 6003
_IAM, _APPLICATION = 3, 6
_LOGON, _ASSIGN_PRIVILEGES = 1, 1
_CREATE, _UPDATE, _DELETE, _OTHER = 1, 3, 4, 99
_SUCCESS, _FAILURE = 1, 2
_INFORMATIONAL, _LOW, _HIGH = 1, 2, 4
_TOKENS: Final = frozenset(
    {Kind.TOKEN_ISSUED, Kind.TOKEN_REFUSED, Kind.IDENTITY_TOKEN_ISSUED, Kind.IDENTITY_TOKEN_REFUSED}
)
_ACTIVITIES: Final = {
    "opened": _CREATE,
    "intended": _CREATE,
    "reserved": _CREATE,
    "requested": _CREATE,
    "registered": _CREATE,
    "created": _CREATE,
    "added": _CREATE,
    "closed": _DELETE,
    "ended": _DELETE,
    "removed": _DELETE,
    "lifted": _DELETE,
    "revoked": _DELETE,
    "renewed": _UPDATE,
    "sealed": _UPDATE,
    "settled": _UPDATE,
    "raised": _UPDATE,
    "rotated": _UPDATE,
    "loaded": _UPDATE,
}


def ocsf_line(event: Event) -> str:
    """Return the event."""
    class_uid, activity = _class_of(event.kind)
    found: dict[str, Any] = {
        "class_uid": class_uid,
        "category_uid": _APPLICATION if class_uid == _API_ACTIVITY else _IAM,
        "activity_id": activity,
        "type_uid": class_uid * 100 + activity,
        "time": event.milliseconds,
        "severity_id": _HIGH if event.is_grave else _LOW if event.is_refusal else _INFORMATIONAL,
        "status_id": _FAILURE if event.is_refusal else _SUCCESS,
        "metadata": _metadata(event),
        "actor": {"user": _user(event)},
        "src_endpoint": {"name": PRODUCT} if event.address is None else {"ip": str(event.address)},
        "unmapped": {"entry": dict(event.members)},
    }
    if event.is_refusal:
        found |= _texts(event, status_code="code", status_detail="reason")
    if class_uid == _API_ACTIVITY:
        found["api"] = {"operation": event.kind}
    else:
        found["user"] = _user(event)
    if class_uid == _AUTHENTICATION:
        found["service"] = {"name": PRODUCT}
    if class_uid == _AUTHORIZE_SESSION:
        found["privileges"] = (event.text("scope") or "").split()
        found["session"] = {"issuer": event.source, **_texts(event, uid="ref")}
    return one_line(found)


def _class_of(kind: str) -> tuple[int, int]:
    if kind in _TOKENS:
        return _AUTHORIZE_SESSION, _ASSIGN_PRIVILEGES
    if kind == Kind.ASSERTION_USED:
        return _AUTHENTICATION, _LOGON
    return _API_ACTIVITY, _ACTIVITIES.get(kind.rpartition(".")[2], _OTHER)


def _texts(event: Event, **members: str) -> dict[str, Any]:
    """Return those members that the entry has as texts, under the names that the schema has for them."""
    return {name: text for name, member in members.items() if (text := event.text(member)) is not None}


def _metadata(event: Event) -> dict[str, Any]:
    return {
        "version": SCHEMA,
        "uid": str(event.seq),
        "event_code": event.kind,
        "log_name": event.source,
        "product": {"name": PRODUCT, "vendor_name": VENDOR},
        **_texts(event, correlation_uid="trace"),
    }


def _user(event: Event) -> dict[str, Any]:
    """Return who did it: who decided, if it was a person's or an operator's doing, else the agent."""
    name = event.text("by") or event.text("agent") or PRODUCT
    return {"name": name, "uid": name, "type": "System", "type_id": 3}
