"""What is to be forgotten: which entries lose their personal members, and what is recorded of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.core.entry import Entry, Kind, entry
from broker.core.errors import Malformed
from broker.core.inquiry import MAX_VALUE


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgetting:
    """Which entries are meant; None is any, all that is given must hold, and something must be given.

    ``ref`` is an entry's own reference, ``task`` the task that it belongs to or is about, ``agent`` who acted or
    decided, ``subject`` on whose behalf it was (as of a broker that still knows), ``before`` (Unix seconds) the first
    time that does not count any more.
    """

    ref: str | None = None
    task: str | None = None
    agent: str | None = None
    subject: str | None = None
    before: float | None = None

    def __post_init__(self) -> None:
        """Raise ``Malformed`` if nothing is given, or a value that no entry can have."""
        if not self.to_dict():
            raise Malformed("give at least one of ref, task, agent, subject, before")
        for name in ("ref", "task", "agent", "subject"):
            value = getattr(self, name)
            if value is not None and not (0 < len(value) <= MAX_VALUE and value.isprintable()):
                raise Malformed(f"{name}: must be printable text of 1 to {MAX_VALUE} characters")

    @property
    def names_one(self) -> bool:
        """Whether one thing is named, which either is over or is not."""
        return self.ref is not None or self.task is not None

    def means(self, members: Mapping[str, Any]) -> bool:
        """Whether an entry is meant, by all its members. Times are not looked at."""
        return (
            (self.ref is None or members.get("ref") == self.ref)
            and (self.task is None or self.task in (members.get("task"), members.get("ref")))
            and (self.agent is None or self.agent in (members.get("agent"), members.get("by")))
            and (self.subject is None or _is_for(members, self.subject))
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what is given."""
        given = {"ref": self.ref, "task": self.task, "agent": self.agent, "subject": self.subject}
        given_at = {} if self.before is None else {"before": int(self.before)}
        return {name: value for name, value in given.items() if value is not None} | given_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """Some entries that lose their personal members together: who wants that, why, by which erasure of which name."""

    erasure: str
    forgetting: Forgetting
    places: Sequence[int]
    by: str
    reason: str


def erased_entry(erased: Erased, now: float, origin: Mapping[str, str]) -> Entry:
    """Return the entry of an erasure, or of one piece of it. A subject is told only as a digest, by :func:`masked`."""
    selector = erased.forgetting.to_dict()
    if erased.forgetting.subject is not None:
        selector["subject"] = masked(erased.erasure, erased.forgetting.subject)
    return entry(
        Kind.PERSONAL_ERASED,
        now,
        ref=erased.erasure,
        selector=selector,
        entries=len(erased.places),
        places=ranges(erased.places),
        by=erased.by,
        reason=erased.reason,
        **origin,
    )


def masked(erasure: str, subject: str) -> str:
    """Return what is recorded in place of a subject: whoever has the name can tell that it was meant, nobody else."""
    return "sha256:" + hashlib.sha256(f"{erasure}\n{subject}".encode()).hexdigest()


def ranges(places: Iterable[int]) -> list[list[int]]:
    """Return ascending places as ranges: the first and the last of each."""
    found: list[list[int]] = []
    for place in places:
        if found and found[-1][1] == place - 1:
            found[-1][1] = place
        else:
            found.append([place, place])
    return found


def _is_for(members: Mapping[str, Any], subject: str) -> bool:
    chain = members.get("chain")
    return members.get("on_behalf_of") == subject or (isinstance(chain, list) and subject in chain)
