"""Accounting for claims: each one that a provider sends is verified, exposed to the policy, ignored on purpose, or new.

New ones fail nothing, since providers add claims as they please; they are counted, so that somebody looks at them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from broker.core.identity import Attribute
from broker.core.jwt import InvalidToken

MAX_TEXT: Final = 512
"""Longest text that an attribute may hold, in characters; a longer one is left out."""

MAX_ITEMS: Final = 64
"""Most texts in a list that an attribute may hold; a longer list is left out."""

MAX_NEW_NAMES: Final = 64

_CHECKED_ALWAYS: Final = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSheet:
    """What is done with each claim of one provider.

    ``required`` must be there and be text; they and ``exposed`` become attributes of the agent, under their own names;
    ``read`` are taken apart by the provider's own code; ``ignored`` are known and of no use.
    """

    required: frozenset[str] = frozenset()
    exposed: frozenset[str] = frozenset()
    read: frozenset[str] = frozenset()
    ignored: frozenset[str] = frozenset()

    def attributes(self, claims: Mapping[str, Any]) -> dict[str, Attribute]:
        """Return the attributes of a verified token. Raises ``InvalidToken`` if a required one is missing."""
        for name in self.required:
            required_text(claims, name)
        return attributes(claims, self.required | self.exposed)

    def new(self, claims: Iterable[str]) -> frozenset[str]:
        """Return the names of claims that this sheet does not know."""
        return frozenset(claims) - _CHECKED_ALWAYS - self.required - self.exposed - self.read - self.ignored


@dataclass(slots=True)
class NewClaims:
    """Counts claims that no sheet knows, by issuer name; only verified tokens are counted, and names are bounded."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, issuer: str, names: Iterable[str]) -> None:
        """Count one token's new claims."""
        counter = self.counts.setdefault(issuer, Counter())
        for name in names:
            if name in counter or len(counter) < MAX_NEW_NAMES:
                counter[name] += 1


def attributes(claims: Mapping[str, Any], names: Iterable[str]) -> dict[str, Attribute]:
    """Return those of the named claims that the policy can match: texts, whole numbers, flags, lists of texts."""
    found = ((name, attribute(claims[name])) for name in names if name in claims)
    return {name: value for name, value in found if value is not None}


def attribute(value: object) -> Attribute | None:
    """Return a claim's value in the shape that the policy can match, or None if it has none, or is out of bounds."""
    match value:
        case bool() | int():
            return value
        case str() if _is_text(value):
            return value
        case list() if 0 < len(value) <= MAX_ITEMS and all(isinstance(item, str) and _is_text(item) for item in value):
            return tuple(value)
    return None


def required_text(claims: Mapping[str, Any], name: str) -> str:
    """Return a claim that must be there. Raises ``InvalidToken`` (``claims``)."""
    value = claims.get(name)
    if not isinstance(value, str) or not _is_text(value):
        raise InvalidToken("claims")
    return value


def _is_text(value: str) -> bool:
    return 0 < len(value) <= MAX_TEXT and value.isprintable()
