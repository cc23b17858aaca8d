"""Ledger entries and their one canonical byte encoding (RFC 8785).

An entry is a JSON object of texts, whole numbers, booleans, lists and objects; no floats, no nulls, no number that
another JSON reader could round. For such values the encoding below *is* RFC 8785; a property test holds it against an
independent implementation. What is personal in an entry is kept beside it (see :mod:`broker.core.personal`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final

import msgspec

from broker.core.personal import BLANK, MEMBER, commitment, take_personal

VERSION: Final = 1
"""The version of the entry format: new fields may be added, none changes its meaning."""

MAX_BODY: Final = 65_535
"""The longest canonical encoding in bytes: a tile's length prefix is 16 bits."""

MAX_INT: Final = 2**53 - 1
"""The largest whole number, either way from 0, that every JSON reader keeps exactly (RFC 7493 section 2.2)."""

MAX_DEPTH: Final = 16
"""How deep lists and objects may be nested in an entry."""


class Kind(StrEnum):
    """What happened. Kinds are append-only: none is ever renamed or reused."""

    TOKEN_ISSUED = "token.issued"
    TOKEN_REFUSED = "token.refused"
    ASSERTION_USED = "assertion.used"
    STRANGERS_REFUSED = "strangers.refused"
    RULE_ADDED = "rule.added"
    RULE_PROPAGATED = "rule.propagated"
    BLOCK_LIFTED = "block.lifted"
    AGENT_REGISTERED = "agent.registered"
    AGENT_REMOVED = "agent.removed"
    ENROLLMENT_CREATED = "enrollment.created"
    KEYS_ROTATED = "keys.rotated"
    POLICY_LOADED = "policy.loaded"
    BROKER_STARTED = "broker.started"
    CLOCK_STEPPED = "clock.stepped"
    TASK_OPENED = "task.opened"
    TASK_CLOSED = "task.closed"
    TASK_HEARD = "task.heard"
    ACTION_RESERVED = "action.reserved"
    ACTION_REFUSED = "action.refused"
    ACTION_SETTLED = "action.settled"
    BUDGET_RAISED = "budget.raised"
    APPROVAL_REQUESTED = "approval.requested"
    APPROVAL_VOTED = "approval.voted"
    APPROVAL_REVIEWED = "approval.reviewed"
    LEASE_INTENDED = "lease.intended"
    LEASE_SEALED = "lease.sealed"
    LEASE_REFUSED = "lease.refused"
    LEASE_RENEWED = "lease.renewed"
    LEASE_ENDED = "lease.ended"
    LEASE_MISSED = "lease.missed"
    LEASE_SETTLED = "lease.settled"
    LEASE_RETRIED = "lease.retried"
    LEASES_CONFIRMED = "leases.confirmed"
    IDENTITY_TOKEN_ISSUED = "identity_token.issued"
    IDENTITY_TOKEN_REFUSED = "identity_token.refused"
    PREFIX_REVOKED = "prefix.revoked"
    ANCHOR_FAILED = "anchor.failed"
    ANCHOR_RECOVERED = "anchor.recovered"
    PERSONAL_ERASED = "personal.erased"
    RESTORE_ACCEPTED = "ledger.restore_accepted"
    LEDGER_ARCHIVED = "ledger.archived"


RULES: Final = frozenset({Kind.RULE_ADDED, Kind.RESTORE_ACCEPTED})
"""The kinds of entries that record a rule, with its number and selector."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The members of an entry that the ledger also keeps as columns, so that lists and previews are queries.

    They are read from the members themselves, so the two cannot disagree; verifying a ledger compares them again.
    ``at`` is Unix milliseconds; ``expires_at`` Unix seconds; ``scope`` is space-separated. ``lineage`` holds the facts
    that a token has from its ancestors (see :func:`broker.core.selector.facts_text`).
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
    lineage: str | None = None


_COMMITMENT: Final = f',"{MEMBER}":"'.encode()
_BLANK: Final = f'{BLANK}",'.encode()
_COLUMNS: Final = tuple(f.name for f in fields(Columns))
_NOTHING: Final[tuple[object, ...]] = (None, (), [], {})
_encoder: Final = msgspec.json.Encoder(order="sorted")
_given_order: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its canonical bytes, and the columns taken from it. Its place in the ledger is given by the commit.

    ``personal`` is the canonical JSON of its personal members, empty if it has none. The body then is blank from
    ``gap`` on where the commitment to them belongs.
    """

    columns: Columns
    body: bytes
    personal: bytes = b""
    gap: int = 0

    def committed(self, salt: bytes) -> tuple[bytes, bytes | None]:
        """Return the bytes of the leaf, and what is stored beside it (see :func:`broker.core.personal.commitment`).

        ``salt`` is random, :data:`broker.core.personal.SALT_SIZE` bytes, and used for nothing else.
        """
        if not self.personal:
            return self.body, None
        stored = salt + self.personal
        end = self.gap + len(BLANK)
        return self.body[: self.gap] + commitment(stored).encode() + self.body[end:], stored


def entry(kind: Kind, at: float, **members: Any) -> Entry:  # noqa: ANN401 - members are JSON values
    """Make an entry of what happened at ``at`` (Unix seconds). Members that are None or empty are left out.

    Raises ``ValueError`` for a member that an entry cannot hold (see the head of this module), and when the encoding
    would be longer than :data:`MAX_BODY`.
    """
    if "v" in members or MEMBER in members:
        msg = "an entry's version and its commitment are not members to choose"
        raise ValueError(msg)
    data: dict[str, Any] = {"v": VERSION, "kind": kind.value, "at": int(at * 1000)}
    data |= {name: value for name, value in members.items() if type(value) is str or value not in _NOTHING}
    columns = columns_of(data)
    taken = take_personal(data)
    if not taken:
        return Entry(columns, encode(data))
    # In two halves, so that the place of the commitment is known whatever the members hold.
    before = encode({name: value for name, value in data.items() if name < MEMBER})
    after = encode({name: value for name, value in data.items() if name > MEMBER})
    head = before[:-1] + _COMMITMENT
    return Entry(columns, _fitting(head + _BLANK + after[1:]), encode(taken), len(head))


def encode(data: dict[str, Any]) -> bytes:
    """Return the RFC 8785 encoding of an entry's members. Raises ``ValueError`` like :func:`entry`."""
    for value in data.values():
        # Most values are texts and small numbers, and most of the time of verifying a ledger is spent here.
        kind = type(value)
        if not (kind is str or (kind is int and -MAX_INT <= value <= MAX_INT)):
            _check(value, 1)
    body = _encoder.encode(data)
    if not body.isascii():
        # The sorted encoder orders names by code point, RFC 8785 by UTF-16 unit: the same, unless one is beyond ASCII.
        body = _given_order.encode(_by_utf16(data))
    return _fitting(body)


def _fitting(body: bytes) -> bytes:
    if len(body) > MAX_BODY:
        msg = f"an entry of {len(body)} bytes is longer than {MAX_BODY}"
        raise ValueError(msg)
    return body


def columns_of(data: Mapping[str, Any]) -> Columns:
    """Return the columns that belong to all the members of an entry."""
    return Columns(**{name: data[name] for name in _COLUMNS if name in data})


def decode(body: bytes) -> dict[str, Any]:
    """Read an entry's body back. Raises ``ValueError`` if it is not the canonical encoding of an entry."""
    try:
        data = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = "not an entry: not a JSON object"
        raise ValueError(msg) from error
    if encode(data) != body:
        msg = "not an entry: not the canonical encoding"
        raise ValueError(msg)
    if data.get("v") != VERSION or type(data.get("kind")) is not str or type(data.get("at")) is not int:
        msg = f"not an entry: it needs v (of {VERSION}), kind and at"
        raise ValueError(msg)
    return data


def _check(value: object, depth: int) -> None:
    """Raise ``ValueError`` if an entry cannot hold the value. Texts that are not Unicode fail when they are encoded."""
    if isinstance(value, bool) or type(value) is str:
        return
    if type(value) is int:
        if not -MAX_INT <= value <= MAX_INT:
            msg = "an entry holds no whole number beyond 2^53 - 1"
            raise ValueError(msg)
        return
    if depth > MAX_DEPTH:
        msg = f"an entry is nested {MAX_DEPTH} deep at most"
        raise ValueError(msg)
    if isinstance(value, dict) and all(type(name) is str for name in value):
        items: Iterable[object] = value.values()
    elif isinstance(value, list | tuple):
        items = value
    else:
        msg = f"an entry holds no {type(value).__name__}"
        raise ValueError(msg)
    for item in items:
        _check(item, depth + 1)


def _by_utf16(value: object) -> object:
    """Return the value with the members of every object in the order of their names' UTF-16 code units."""
    if isinstance(value, list | tuple):
        return [_by_utf16(item) for item in value]
    if isinstance(value, dict):
        return {name: _by_utf16(value[name]) for name in sorted(value, key=_utf16)}
    return value


def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be")
