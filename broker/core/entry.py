"""Ledger entries and their one canonical byte encoding (RFC 8785).

An entry is a flat JSON object of texts, whole numbers, booleans, lists and objects; no floats, no nulls. For such values
with ASCII member names the encoding below *is* RFC 8785; a property test holds it against an independent implementation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final

import msgspec

VERSION: Final = 1
"""The version of the entry format: new fields may be added, none changes its meaning."""

MAX_BODY: Final = 65_535
"""The longest canonical encoding in bytes: a tile's length prefix is 16 bits."""


class Kind(StrEnum):
    """What happened. Kinds are append-only: none is ever renamed or reused."""

    TOKEN_ISSUED = "token.issued"
    TOKEN_REFUSED = "token.refused"
    ASSERTION_USED = "assertion.used"
    STRANGERS_REFUSED = "strangers.refused"
    RULE_ADDED = "rule.added"
    BLOCK_LIFTED = "block.lifted"
    AGENT_REGISTERED = "agent.registered"
    AGENT_REMOVED = "agent.removed"
    ENROLLMENT_CREATED = "enrollment.created"
    KEYS_ROTATED = "keys.rotated"
    POLICY_LOADED = "policy.loaded"
    BROKER_STARTED = "broker.started"
    CLOCK_STEPPED = "clock.stepped"


@dataclass(frozen=True, slots=True)
class Columns:
    """The members of an entry that the ledger also keeps as columns, so that lists and previews are queries.

    They are read from the body itself, so the two cannot disagree; verifying a ledger compares them again. ``at`` is
    Unix milliseconds; ``expires_at`` Unix seconds; ``scope`` is space-separated.
    """

    kind: str
    at: int
    agent: str | None = None
    role: str | None = None
    task: str | None = None
    ref: str | None = None
    issuer: str | None = None
    audience: str | None = None
    scope: str | None = None
    tier: str | None = None
    key: str | None = None
    bound_key: str | None = None
    epoch: int | None = None
    expires_at: int | None = None


_COLUMNS: Final = tuple(f.name for f in fields(Columns))
_encoder: Final = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its canonical bytes, and the columns taken from it. Its place in the ledger is given by the commit."""

    columns: Columns
    body: bytes


def entry(kind: Kind, at: float, **members: Any) -> Entry:  # noqa: ANN401 - members are JSON values
    """Make an entry of what happened at ``at`` (Unix seconds). Members that are None or empty are left out.

    Raises ``ValueError`` when the encoding would be longer than :data:`MAX_BODY`.
    """
    data: dict[str, Any] = {"v": VERSION, "kind": kind.value, "at": int(at * 1000)}
    data.update((name, value) for name, value in members.items() if value is not None and value not in ((), [], {}))
    body = _encoder.encode(data)
    if len(body) > MAX_BODY:
        msg = f"an entry of {len(body)} bytes is longer than {MAX_BODY}"
        raise ValueError(msg)
    return Entry(columns_of(data), body)


def columns_of(data: Mapping[str, Any]) -> Columns:
    """Return the columns that belong to an entry's decoded body."""
    return Columns(**{name: data[name] for name in _COLUMNS if name in data})


def decode(body: bytes) -> dict[str, Any]:
    """Read an entry's body back. Raises ``ValueError`` if it is not the canonical encoding of an entry."""
    try:
        data: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        msg = "not an entry: not a JSON object"
        raise ValueError(msg) from error
    if _encoder.encode(data) != body:
        msg = "not an entry: not the canonical encoding"
        raise ValueError(msg)
    return data
