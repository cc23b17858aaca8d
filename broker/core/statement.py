"""What the broker's signed statements about revocation have in common: how a rule is written, and how one is read.

A verifier that meets a selector or member that it does not know refuses the whole statement, since leaving a rule out
would let revoked tokens pass; its view then grows stale, and it refuses. Only what JWT itself defines may come along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from broker.core.errors import Malformed
from broker.core.rules import Rule
from broker.core.selector import parse_selector

LIFETIME: Final = 300
"""Seconds that a statement may be used. Verifiers hear far more often, and have a bound of their own."""

MAX_RULE_ID: Final = 128
"""Longest id of a rule, in characters."""

MAX_MARK: Final = 64
"""Longest mark of an epoch, in characters."""

MAX_EPOCH: Final = 2**53
"""Epochs are below this, so that every language's JSON has them exactly."""

_JWT_MEMBERS: Final = frozenset({"iss", "sub", "aud", "nbf", "jti"})
"""Members that RFC 7519 defines; what they mean is checked with the signature."""

T = TypeVar("T")


class StatementError(ValueError):
    """The payload is not a statement that can be understood completely; the text names the member."""


class RuleItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule in the list of a snapshot. ``n`` is null while it is not durable, ``ends`` while that is not known."""

    id: str
    n: int | None
    selector: dict[str, str | bool]
    ends: int | None


def stated(rule: Rule) -> dict[str, Any]:
    """Return a rule as statements have it. Who revoked, and why, is not for verifiers."""
    return {
        "id": rule.id,
        "n": rule.number,
        "selector": rule.selector.to_dict(),
        # Rounded up: a rule that ends early would let its last token live.
        "ends": None if rule.ends_at is None else -int(-rule.ends_at // 1),
    }


def validity(issuer: str, now: float) -> dict[str, Any]:
    """Return the members that every statement has: of whom it is, when it was true, and until when it may be used."""
    return {"iss": issuer, "iat": int(now), "exp": int(now) + LIFETIME}


def read_as(kind: type[T], payload: Mapping[str, Any], name: str) -> T:
    """Read a payload into a wire type that refuses unknown members. Raises :class:`StatementError`."""
    members = {member: value for member, value in payload.items() if member not in _JWT_MEMBERS}
    try:
        return msgspec.convert(members, kind)
    except msgspec.ValidationError as error:
        raise StatementError(f"{name}: {error}") from error


def read_rule_item(item: RuleItem, at: int, name: str) -> Rule:
    """Return the rule that an item is, stated at ``at`` (Unix seconds). Raises :class:`StatementError`."""
    check_id(item.id, f"{name}.id")
    if item.n is not None:
        check_epoch(item.n, f"{name}.n", least=1)
    try:
        selector = parse_selector(item.selector)
    except Malformed as error:
        raise StatementError(f"{name}: {error.public}") from error
    return Rule(id=item.id, selector=selector, number=item.n, at=at, by="", reason="", ends_at=item.ends)


def check_id(rule_id: str, name: str) -> None:
    """Raise :class:`StatementError` unless this can be the id of a rule."""
    _check_text(rule_id, MAX_RULE_ID, name)


def check_mark(mark: str, name: str) -> None:
    """Raise :class:`StatementError` unless this can be the mark of an epoch."""
    _check_text(mark, MAX_MARK, name)


def check_epoch(epoch: int, name: str, *, least: int = 0) -> None:
    """Raise :class:`StatementError` unless this can be an epoch."""
    if not least <= epoch < MAX_EPOCH:
        raise StatementError(f"{name}: must be from {least} to 2^53")


def _check_text(text: str, longest: int, name: str) -> None:
    if not 0 < len(text) <= longest or not text.isprintable():
        raise StatementError(f"{name}: must be printable text of 1 to {longest} characters")
