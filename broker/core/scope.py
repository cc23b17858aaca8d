"""The algebra of scopes (RFC 6749, section 3.3): parse strictly, compare as sets, print in one order."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from broker.core.claims import MAX_SCOPE_TEXT
from broker.core.errors import Code, Malformed

MAX_SCOPES: Final = 100
"""The most scopes that one request may name."""

MAX_SCOPE: Final = 128
"""The longest scope in characters."""

_SCOPE: Final = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]{1,128}")
_MAX_TEXT: Final = MAX_SCOPE_TEXT  # what a token can hold


def is_scope(text: str) -> bool:
    """Whether ``text`` is one scope token: 1 to 128 of %x21 / %x23-5B / %x5D-7E (RFC 6749, appendix A.4)."""
    return _SCOPE.fullmatch(text) is not None


def parse_scopes(text: str) -> tuple[str, ...]:
    """Read a ``scope`` parameter: tokens separated by single spaces. Duplicates collapse; the result is sorted.

    Raises ``Malformed`` (``SCOPE_MALFORMED``) when there is no scope, one is malformed, or there are too many.
    """
    if len(text) > _MAX_TEXT:
        raise Malformed(f"scope: longer than {_MAX_TEXT} characters", Code.SCOPE_MALFORMED)
    parts = text.split(" ")
    if len(parts) > MAX_SCOPES:
        raise Malformed(f"scope: more than {MAX_SCOPES} scopes", Code.SCOPE_MALFORMED)
    if not all(map(is_scope, parts)):
        rule = (
            f"scope: must be scopes separated by single spaces, each 1 to {MAX_SCOPE} printable ASCII characters "
            'other than space, " and \\'
        )
        raise Malformed(rule, Code.SCOPE_MALFORMED)
    return tuple(sorted(set(parts)))


def join_scopes(scopes: Iterable[str]) -> str:
    """Return the wire form of a set of scopes: sorted, without duplicates, separated by single spaces."""
    return " ".join(sorted(set(scopes)))


def covers(ceiling: Iterable[str], scopes: Iterable[str]) -> bool:
    """Whether every one of ``scopes`` is within ``ceiling``. Nothing covers an empty request (law 9)."""
    asked = frozenset(scopes)
    return bool(asked) and asked <= frozenset(ceiling)
