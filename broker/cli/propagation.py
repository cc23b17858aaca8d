"""How far a rule has got, in words: who has applied it, who is waited for, and who refuses everything by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def applied_by(seen: Mapping[str, Any]) -> str:
    """Return who has applied a rule, and how long the slowest of them took."""
    if seen["reason"] is not None:
        return f"not known: {seen['reason']}"
    parts = [_share(seen["replicas_applied"], seen["replicas"], "replica")]
    if seen["verifiers"]:
        parts.append(_share(seen["verifiers_applied"], seen["verifiers"], "verifier"))
    took = "" if seen["slowest_ms"] is None else f", in {seen['slowest_ms']:,} ms"
    return " and ".join(parts) + took


def ahead_in_words(seen: Mapping[str, Any]) -> str:
    """Return whom a rule would have to get to."""
    if seen["reason"] is not None:
        return f"not known: {seen['reason']}"
    return f"{_count(seen['replicas'], 'replica')} and {_count(seen['verifiers'], 'verifier')}"


def refusing(seen: Mapping[str, Any]) -> str | None:
    """Return who has not applied a rule and accepts nothing any more, or None if there is nobody."""
    return _named(seen["refusing"], len(seen["refusing"])) if seen["refusing"] else None


def unapplied(seen: Mapping[str, Any]) -> str | None:
    """Return in words who may still accept what a rule hits, or None if nobody does."""
    if seen["applied"]:
        return None
    if seen["reason"] is not None:
        return f"It is not known who has applied it: {seen['reason']}."
    behind = seen["replicas"] - seen["replicas_applied"] + seen["verifiers"] - seen["verifiers_applied"]
    count = max(len(seen["waiting_for"]), behind - len(seen["refusing"]))
    named = _named(seen["waiting_for"], count)
    late = [what for what in ("replicas", "verifiers") if seen[f"{what}_applied"] < seen[what]]
    see = ", ".join(f"broker {what} list" for what in late)
    return f"Not applied yet, and may still accept what it hits: {named}. See:  {see}"


def _share(applied: int, every: int, what: str) -> str:
    return _count(every, what) if applied == every else f"{applied:,} of {_count(every, what)}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _named(names: Sequence[str], count: int) -> str:
    more = count - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more > 0 else "")
