"""How far a rule has got: what replicas and verifiers say of themselves, and what that proves of everybody known.

A rule is *applied* when nobody who is known accepts any more what it hits. Each replica and verifier has either said
that it applied the rule, or must be refusing everything by itself: it heard nothing that could keep its view young for
longer than its own bound. Nothing that confirms an older epoch is signed once a rule is committed, but by a replica
that has not heard of the rule, and not for longer than that one's bound. So the bounds count from the commit.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Final

MAX_AGE: Final = 600.0
"""The longest time, in seconds, for which a verifier may believe its view (see :attr:`Verifier.max_age`)."""

MARGIN: Final = 1.0
"""Seconds that a bound is given besides: statements tell whole seconds, and a commit is heard of a little later."""

LEAST_FORGETTING: Final = 720.0
"""Nobody is forgotten after fewer seconds of silence: more than every bound, so that no rule is waiting for them."""

NAMED: Final = 40
"""How many of those who have not applied a rule are named; all are counted."""

MAX_MOMENTS: Final = 4096

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A broker process, or the workers of one host, as it told of itself.

    ``epoch`` is the last that it has applied. After ``max_staleness`` seconds without news it refuses by itself; with 0
    it never answers from older rules than the last that was committed, whatever it told. ``policy`` is the digest of
    its policy. ``silent`` and ``known`` are for how many seconds nothing was heard of it, and it is there.
    """

    id: str
    host: str
    pid: int
    version: str
    policy: str
    epoch: int
    max_staleness: float
    silent: float = 0.0
    known: float = 0.0

    @property
    def label(self) -> str:
        """Its id."""
        return self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """A process of a resource server as it told of itself: agents have any number of them, told apart by ``name``.

    ``epoch`` is the last that it has applied. After ``max_age`` seconds without news it refuses by itself. ``silent``
    and ``known`` are for how many seconds nothing was heard of it, and it is there.
    """

    agent: str
    name: str
    epoch: int
    max_age: float
    silent: float = 0.0
    known: float = 0.0

    @property
    def label(self) -> str:
        """The agent and the name, with a ``#`` between them, which no id of a replica has."""
        return f"{self.agent}#{self.name}"


@dataclass(frozen=True, slots=True)
class Present:
    """Everybody who is known."""

    replicas: Sequence[Replica] = ()
    verifiers: Sequence[Verifier] = ()

    @property
    def is_alone(self) -> bool:
        """Whether there is one replica and no verifier: nobody has to be told of a rule."""
        return len(self.replicas) == 1 and not self.verifiers


@dataclass(frozen=True, slots=True, kw_only=True)
class Propagation:
    """How far a rule has got. ``slowest`` is how many seconds after the commit the last one had applied that has.

    ``refusing`` are those who have not applied it and refuse everything by themselves; ``waiting_for`` those who may
    still accept what it hits; :data:`NAMED` of each at most. ``slowest`` is None if nobody watched.
    """

    applied: bool
    replicas: int
    replicas_applied: int
    verifiers: int
    verifiers_applied: int
    waiting_for: tuple[str, ...] = ()
    refusing: tuple[str, ...] = ()
    slowest: float | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """It is not known who has applied a rule, for a ``reason`` in public words."""

    reason: str


def propagation_of(number: int, since: float, present: Present) -> Propagation:
    """Return how far a rule has got by what is known of everybody.

    ``since`` is how many seconds ago the rule was committed; fewer may be said, never more.
    """
    late, behind = _behind(number, present)
    bounds = [*late, *behind]
    waiting = [each for each, bound in bounds if since <= bound + MARGIN]
    refusing = [each for each, bound in bounds if since > bound + MARGIN]
    return Propagation(
        applied=not waiting,
        replicas=len(present.replicas),
        replicas_applied=len(present.replicas) - len(late),
        verifiers=len(present.verifiers),
        verifiers_applied=len(present.verifiers) - len(behind),
        waiting_for=tuple(each.label for each in waiting[:NAMED]),
        refusing=tuple(each.label for each in refusing[:NAMED]),
    )


class Ranking:
    """Everybody, by how far each has got: what :func:`propagation_of` says of one rule, in short, of many.

    Whoever can make both rules and verifiers must not make their product expensive (law 11).
    """

    def __init__(self, present: Present) -> None:
        """Sort them, which is what costs time."""
        late, behind = _behind(inf, present)
        ranked = sorted((each.epoch, bound) for each, bound in (*late, *behind))
        self._epochs = [epoch for epoch, _ in ranked]
        self._longest = list(accumulate((bound for _, bound in ranked), max))

    def behind(self, number: int) -> int:
        """Return how many have not said that they applied a rule."""
        return bisect_left(self._epochs, number)

    def is_applied(self, number: int, since: float) -> bool:
        """Whether nobody accepts what a rule hits that was committed ``since`` seconds ago."""
        behind = self.behind(number)
        return not behind or since > self._longest[behind - 1] + MARGIN


def _behind(
    number: float, present: Present
) -> tuple[list[tuple[Replica | Verifier, float]], list[tuple[Replica | Verifier, float]]]:
    """Return the replicas and the verifiers that have not said that they applied a rule, each with its bound."""
    lag = max((replica.max_staleness for replica in present.replicas), default=0.0)
    replicas = (each for each in present.replicas if each.max_staleness and each.epoch < number)
    verifiers = (each for each in present.verifiers if each.epoch < number)
    return [(each, each.max_staleness) for each in replicas], [(each, lag + each.max_age) for each in verifiers]


def is_verifier_name(text: str) -> bool:
    """Whether a verifier can be called so: 1 to 64 of ``A-Z a-z 0-9 . _ -``."""
    return _NAME.fullmatch(text) is not None


class Moments:
    """When this process heard of each epoch, by a clock that never goes back: not before the commit, maybe later.

    It remembers the last :data:`MAX_MOMENTS` moves. Of what it has forgotten it says a later moment.
    """

    def __init__(self, epoch: int, now: float) -> None:
        """``epoch`` and whatever is below was heard of ``now`` (seconds since any fixed moment)."""
        self._epochs = deque([epoch], MAX_MOMENTS)
        self._times = deque([now], MAX_MOMENTS)

    def note(self, epoch: int, now: float) -> bool:
        """Take note of the epoch that is known now; return whether it is news."""
        if epoch <= self._epochs[-1]:
            return False
        self._epochs.append(epoch)
        self._times.append(now)
        return True

    def since(self, number: int, now: float) -> float:
        """Return for how many seconds at least a rule has been committed; 0 of one that nobody has heard of."""
        place = bisect_left(self._epochs, number)
        return max(0.0, now - self._times[place]) if place < len(self._times) else 0.0
