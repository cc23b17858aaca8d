"""What a responder asks of the ledger: which entries are about an agent, a task, a token, a lease or an incident.

An entry is about what its members name. Texts that came from outside (purposes, reasons, results) never count, so that
nobody can make their own entries turn up in the answer to a question about somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from broker.core.entry import Kind
from broker.core.errors import Malformed
from broker.core.lifetime import parse_duration

MAX_VALUE: Final = 512
"""The longest value that an entry can be looked for by, in characters."""

MAX_KINDS: Final = 50

_MOMENT: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFilter:
    """Which entries are wanted; None is any, and all that is given must hold.

    ``agent`` is named as who acts or acted before, on whose behalf, who decided, or whom a rule names. ``task`` is a
    task with all below it, ``token`` a token with all that descend from it, ``approval`` a request with all that used
    it. ``kinds`` are kinds in full, as :func:`parse_kinds` returns them; empty is any. ``since`` is the first time that
    counts, ``until`` the first that does not any more (Unix seconds).
    """

    agent: str | None = None
    task: str | None = None
    token: str | None = None
    lease: str | None = None
    approval: str | None = None
    incident: str | None = None
    kinds: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None

    def __post_init__(self) -> None:
        """Raise ``Malformed`` for a value that no entry can have."""
        for name in ("agent", "task", "token", "lease", "approval", "incident"):
            value = getattr(self, name)
            if value is not None and not (0 < len(value) <= MAX_VALUE and value.isprintable()):
                raise Malformed(f"{name}: must be printable text of 1 to {MAX_VALUE} characters")


@dataclass(frozen=True, slots=True, kw_only=True)
class Related:
    """What belongs to the task and to the token that are asked about: the tasks below, the tokens that descend."""

    tasks: frozenset[str] = frozenset()
    tokens: frozenset[str] = frozenset()


def parse_kinds(text: str | None) -> tuple[str, ...]:
    """Return the kinds that a list with commas names; ``lease.`` stands for all that begin so. Raises ``Malformed``."""
    found: dict[str, None] = {}
    for wanted in [] if text is None else text.split(",", MAX_KINDS):
        kinds = [kind.value for kind in Kind if kind == wanted or (wanted.endswith(".") and kind.startswith(wanted))]
        if not kinds:
            raise Malformed(f"kind: {ascii(wanted)[1:-1][:80]} is none, and none begins so; see the reference")
        found |= dict.fromkeys(kinds)
    return tuple(found)


def parse_moment(name: str, text: str | None, now: float) -> float | None:
    """Return a time as Unix seconds: RFC 3339, or a duration before ``now`` such as ``2h``. Raises ``Malformed``."""
    if text is None:
        return None
    if _MOMENT.fullmatch(text) is None:
        try:
            return now - parse_duration(text)
        except Malformed as error:
            raise Malformed(f"{name}: must be a time (RFC 3339) or a duration such as 90s, 15m or 2h") from error
    try:
        return datetime.fromisoformat(text.upper()).timestamp()
    except (ValueError, OverflowError) as error:
        raise Malformed(f"{name}: is no time that there is") from error


def is_about(members: Mapping[str, Any], wanted: EntryFilter, related: Related) -> bool:
    """Whether an entry's members name what is asked about. Kinds and times are not looked at."""
    selector = members.get("selector")
    of_rule: Mapping[str, Any] = selector if isinstance(selector, Mapping) else {}
    return (
        (wanted.agent is None or _names_agent(members, of_rule, wanted.agent))
        and (wanted.task is None or _names_task(members, of_rule, wanted.task, related.tasks))
        and (wanted.token is None or _names_token(members, of_rule, wanted.token, related.tokens))
        and (wanted.lease is None or wanted.lease in (members.get("ref"), of_rule.get("lease")))
        and (wanted.approval is None or wanted.approval in (members.get("ref"), members.get("approval")))
        and (wanted.incident is None or members.get("incident") == wanted.incident)
    )


def _names_agent(members: Mapping[str, Any], of_rule: Mapping[str, Any], agent: str) -> bool:
    named = (members.get("agent"), members.get("by"), members.get("on_behalf_of"), of_rule.get("agent"))
    return agent in named or agent in _listed(members, "actors") or agent in _listed(members, "chain")


def _names_task(members: Mapping[str, Any], of_rule: Mapping[str, Any], task: str, below: frozenset[str]) -> bool:
    named = {members.get("task"), members.get("ref"), members.get("closes"), of_rule.get("task")}
    return not named.isdisjoint({task, *below}) or task in _listed(members, "path")


def _names_token(members: Mapping[str, Any], of_rule: Mapping[str, Any], token: str, below: frozenset[str]) -> bool:
    asked = members.get("asked")
    subject = asked.get("subject_token") if isinstance(asked, Mapping) else None
    named = {members.get("ref"), members.get("token"), members.get("caller_token"), of_rule.get("token"), subject}
    return not named.isdisjoint({token, *below}) or token in _listed(members, "parents")


def _listed(members: Mapping[str, Any], name: str) -> list[object]:
    listed = members.get(name)
    return listed if isinstance(listed, list) else []
