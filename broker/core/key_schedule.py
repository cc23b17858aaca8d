"""When each of the broker's keys is published, signs and retires: the rules of rotation over the stored rows.

Verifiers hold a copy of the published keys for up to :data:`JWKS_MAX_AGE`. So a new key is published well before it
signs, and an old one stays published until the last token that it signed has expired. Which of several keys signs is
decided by their age, not by which was stored last, so that every process with the same rows chooses the same one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final

from broker.core.change import StoredKey
from broker.core.errors import Malformed

JWKS_MAX_AGE: Final = 300
"""Seconds that anyone may keep a copy of the published keys (``Cache-Control: max-age``)."""

SHORTEST_LEAD: Final = JWKS_MAX_AGE + 60
"""Seconds that a key is published before it signs, at the least: every copy is renewed, the commit's time included."""

DEFAULT_LEAD: Final = 600
"""Seconds that a key is published before it signs, unless told otherwise."""

RETIRE_MARGIN: Final = 120
"""Seconds that a key stays published after its last token expired: verifiers' clock skew and requests on their way."""

TOKEN: Final = "token"
"""The use of keys that sign tokens and whatever else is verified with the published keys."""

CHECKPOINT: Final = "checkpoint"
"""The use of the key that signs the ledger's checkpoints; it is not among the published keys and is not rotated."""

_YOUNGER: Final = 0.001  # seconds between the ages of two keys that one reading of the clock made


@dataclass(frozen=True, slots=True)
class Rotation:
    """The rows of the key ring that a rotation changes, and the ids of the keys whose tokens must die at once."""

    rows: tuple[StoredKey, ...]
    compromised: tuple[str, ...] = ()


def is_published(key: StoredKey, now: float) -> bool:
    """Whether verifiers may be given this key. A row that is stored is published, whatever its time of birth says."""
    return not key.revoked and (key.retires_at is None or key.retires_at > now)


def signing_key(keys: Iterable[StoredKey], use: str, alg: str, now: float) -> StoredKey | None:
    """Return the key that signs at ``now``: the youngest active one, or None if no key may sign.

    If no published key is active yet, which only a clock that was set back can bring about, the one that was to be
    active first signs: it is published, and no better one exists.
    """
    able = [key for key in keys if key.use == use and key.alg == alg and is_published(key, now)]
    active = [key for key in able if key.active_at <= now]
    if active:
        return max(active, key=_age)
    return min(able, key=lambda key: (key.active_at, *_age(key)), default=None)


def next_change(keys: Iterable[StoredKey], now: float) -> tuple[float, float]:
    """Return the times between which, ``now`` among them, no key begins to sign or retires: from, and before."""
    times = [time for key in keys for time in (key.active_at, key.retires_at) if time is not None]
    return (
        max((time for time in times if time <= now), default=-inf),
        min((time for time in times if time > now), default=inf),
    )


def birth(keys: Iterable[StoredKey], now: float) -> float:
    """Return the ``created_at`` of a key made at ``now``: younger than all others even if the clock was set back.

    When the key signs is counted from the clock itself, so a wrong time in the past holds nothing up.
    """
    return max((now, *(key.created_at + _YOUNGER for key in keys)))


def checked_lead(lead: float) -> float:
    """Return ``lead`` (seconds). Raises :class:`Malformed` if verifiers could meet the key before they know it."""
    if not SHORTEST_LEAD <= lead < inf:
        msg = f"lead: at least {SHORTEST_LEAD} s, since verifiers keep keys for {JWKS_MAX_AGE} s"
        raise Malformed(msg)
    return lead


def superseded(keys: Iterable[StoredKey], made: StoredKey, longest_token: int) -> tuple[StoredKey, ...]:
    """Return the rows that change because ``made``, younger than all, will sign in their place: when they retire.

    A key signs until ``made`` is active at the latest, and its last token lives for up to ``longest_token`` seconds
    more. A key that retires before that already was superseded by another key.
    """
    retires_at = made.active_at + longest_token + RETIRE_MARGIN
    return tuple(
        replace(key, retires_at=retires_at)
        for key in keys
        if (key.use, key.alg) == (made.use, made.alg)
        and key.kid != made.kid
        and not key.revoked
        and (key.retires_at is None or key.retires_at > retires_at)
    )


def revoked(keys: Iterable[StoredKey], now: float) -> tuple[StoredKey, ...]:
    """Return every token key that is still published, as revoked."""
    return tuple(replace(key, revoked=True) for key in keys if key.use == TOKEN and is_published(key, now))


def algorithms(keys: Iterable[StoredKey], now: float) -> Sequence[str]:
    """Return the algorithms for which there are published token keys, in a fixed order."""
    return sorted({key.alg for key in keys if key.use == TOKEN and is_published(key, now)})


def _age(key: StoredKey) -> tuple[float, float, str]:
    return (key.created_at, key.active_at, key.kid)
