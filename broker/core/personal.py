"""What is personal in an entry: kept beside the leaf, which holds a salted commitment to it, so that it can be erased.

Personal is what came from outside and is about people, or may be: addresses, purposes, labels, reasons that people
give, on whose behalf something happens, what an outside issuer said of somebody, and the details of requests and
actions. The ids of agents, tasks, tokens and leases are not: rules, queries and derivation need them for as long as the
entry.

The commitment is SHA-256 over a fresh salt and the canonical JSON of the personal members. Without the salt nobody can
tell by guessing what was erased.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from broker.core import base64url
from broker.core.selector import fact_line

MEMBER: Final = "personal"
"""The member of an entry that holds the commitment: base64url, without padding."""

ERASED: Final = "personal_erased"
"""What stands in place of the personal members when an entry is shown whose personal members were erased."""

SALT_SIZE: Final = 16
"""The length of a salt in bytes."""

BLANK: Final = "-" * 43
"""As long as a commitment: its place in an entry that has none yet."""

PERSONAL: Final = frozenset(
    {
        "address",
        "attributes",
        "attributes_digest",
        "chain",
        "details",
        "labels",
        "note",
        "on_behalf_of",
        "purpose",
        "reason",
        "result",
        "target",
    }
)
"""The members that are personal as a whole, but for the exceptions in :func:`take_personal`."""

SHORTENED: Final = frozenset({"asked", "break_glass", "lineage"})
"""The members of which the leaf keeps a shorter form: what is personal is taken out of it."""

_OWN_REASONS: Final = (".refused", ".failed")
"""How kinds end whose ``reason`` is the broker's own text."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The personal members of an entry with the salt of their commitment."""

    salt: bytes
    members: Mapping[str, Any]


def take_personal(data: dict[str, Any]) -> dict[str, Any]:
    """Take the personal members out of those of an entry, and return them.

    Not personal are the reason of a refusal or a failure, which is the broker's own text, and ``on_behalf_of`` if that
    is the agent itself. Of what rules, derivation and stories need, a shorter form is left behind.
    """
    taken = {name: data[name] for name in PERSONAL & data.keys()}
    if data["kind"].endswith(_OWN_REASONS):
        taken.pop("reason", None)
    if taken.get("on_behalf_of") == data.get("agent"):
        taken.pop("on_behalf_of", None)
    for name in taken:
        del data[name]
    for name in SHORTENED & data.keys():
        shorter = _shorter(name, data[name], taken.get("on_behalf_of"))
        if shorter != data[name]:
            taken[name] = data.pop(name)
            if shorter not in (None, {}):
                data[name] = shorter
    return taken


def _shorter(name: str, value: Any, subject: str | None) -> Any:  # noqa: ANN401 - JSON values
    match name:
        case "asked":
            return {each: told for each, told in value.items() if each not in PERSONAL}
        case "break_glass":
            return ""
        case _:
            line = "" if subject is None else fact_line(("agent", subject))
            left = value.replace(line, "\n") if line else value
            return None if left == "\n" else left


def commitment(stored: bytes) -> str:
    """Return the commitment to personal members as they are stored: the salt, and behind it their canonical JSON."""
    return base64url.encode(hashlib.sha256(stored).digest())


def read_personal(stored: bytes, promised: object) -> Opened:
    """Return stored personal members. Raises ``ValueError`` unless they are what the entry ``promised``."""
    if commitment(stored) != promised:
        raise ValueError("its personal members are not those that the entry holds the commitment to")
    try:
        members: dict[str, Any] = msgspec.json.decode(stored[SALT_SIZE:], type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("its personal members are not a JSON object") from error
    return Opened(stored[:SALT_SIZE], members)


def merged(leaf: Mapping[str, Any], personal: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return all that an entry says: the members of its leaf, and the personal ones, if they are still there."""
    if MEMBER not in leaf:
        return leaf
    rest = {name: value for name, value in leaf.items() if name != MEMBER}
    return rest | ({ERASED: True} if personal is None else dict(personal))


def personal_beside(members: Mapping[str, Any], opened: Opened | None) -> dict[str, Any]:
    """Return what is told of personal members beside an entry, of which ``members`` are all that it says.

    ``personal`` is their salt and they themselves, or None if they were erased; without any, nothing is told.
    """
    if opened is not None:
        return {MEMBER: {"salt": base64url.encode(opened.salt), "members": dict(opened.members)}}
    return {MEMBER: None} if ERASED in members else {}


def told(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return all that an entry says, which stands with what is personal beside it as :func:`personal_beside` put it."""
    beside = found.get(MEMBER)
    return merged(found["entry"], None if beside is None else beside["members"])
