"""Whether rules last for as long as what they kill: how long each stays is not in its entry, but follows from others.

A rule that ended too early would let tokens live that it had killed. Only those of the last day matter: tokens live no
longer than that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, func, select

from broker.core.entry import Kind
from broker.core.policy import LONGEST_TTL
from broker.ledger import schema

_MILLISECONDS: Final = 1000
_table: Final = schema.entries.c
_tokens: Final = _table.kind == Kind.TOKEN_ISSUED.value


@dataclass(frozen=True, slots=True)
class StoredEnd:
    """When the rule ends that entry ``seq`` recorded (Unix seconds), as its row says. ``members`` are the entry's."""

    number: int
    seq: int
    members: Mapping[str, Any]
    ends_at: float

    @property
    def made_at(self) -> float:
        """When the rule was made, in Unix seconds."""
        at = self.members.get("at", 0)
        return at / _MILLISECONDS if type(at) is int else 0.0

    @property
    def fields(self) -> Mapping[str, Any]:
        """What its selector names."""
        selector = self.members.get("selector")
        return selector if isinstance(selector, Mapping) else {}


def early_ends(connection: Connection, ends: Sequence[StoredEnd]) -> Iterator[str]:
    """Yield, in plain words, which rules end before a token that they may have killed has expired.

    ``ends`` are by number. How long the tree of a task holds is not in the entries: of a rule about a task alone, this
    says no more than that it must not end before it was made.
    """
    youngest = max((end.made_at for end in ends), default=0.0)
    recent = [end for end in ends if end.made_at > youngest - LONGEST_TTL]
    latest = _latest_before(connection, [end.seq for end in recent], youngest - LONGEST_TTL)
    for end in recent:
        if "token" in end.fields:
            least = _expiry_of(connection, str(end.fields["token"]), end.seq)
        else:
            least = 0.0 if end.fields.keys() == {"task"} else latest[end.seq]
        if end.ends_at < max(least, end.made_at):
            yield f"rule {end.number} ends before the tokens that it may have killed have expired"


def _latest_before(connection: Connection, places: Sequence[int], since: float) -> Mapping[int, float]:
    """Return for each place, in rising order, when the longest-lived token before it expires; the index answers."""
    query = select(_table.seq, _table.expires_at).where(_tokens, _table.expires_at > since)
    tokens = iter(sorted((seq, expires_at) for seq, expires_at in connection.execute(query)) if places else ())
    found: dict[int, float] = {}
    latest, token = 0.0, next(tokens, None)
    for place in places:
        while token is not None and token[0] < place:
            latest, token = max(latest, token[1]), next(tokens, None)
        found[place] = latest
    return found


def _expiry_of(connection: Connection, token: str, before: int) -> float:
    issued = select(func.max(_table.expires_at)).where(_table.ref == token, _tokens, _table.seq < before)
    return float(connection.scalar(issued) or 0)
