"""What becomes of a revocation: waiting until all have applied it and its leases have outcomes, and how far that is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from broker.cli.outcome import Failure
from broker.cli.output import is_interactive, note
from broker.cli.session import Session, path_part

LOOK_SECONDS: Final = 0.25
"""How often it is looked what has become of them."""

RETRYING: Final = "retrying"
STUCK: Final = "stuck"

Tell = Callable[[Mapping[str, int]], None]
"""Tells whoever watches how many leases are in each state."""


async def awaited(session: Session, answer: dict[str, Any], seconds: float, tell: Tell) -> dict[str, Any]:
    """Return the answer about a rule once all have applied it and its leases have outcomes, or after so many seconds.

    If it cannot be looked any more, the last answer is returned, and the reason is noted.
    """
    end = time.monotonic() + seconds
    path = f"/v1/revocations/{path_part(str(answer['rule']), 'rule')}"
    while answer["durable"]:
        found = answer["leases"]
        if found is not None:
            tell(found)
            if not found[RETRYING] and answer["propagation"]["applied"]:
                break
        left = end - time.monotonic()
        if left <= 0:
            break
        await asyncio.sleep(min(LOOK_SECONDS, left))
        try:
            answer = await session.get(path, "operator:read")
        except Failure as failure:
            note(f"not known what becomes of it: {failure.text}")
            break
    return answer


def unconfirmed(answer: Mapping[str, Any]) -> str | None:
    """Return in words which leases of a rule may still be alive, or None if each has been ended or has its own end."""
    found = answer["leases"]
    if found is None:
        return "It is not known what has become of the leases that it covers."
    if not found[RETRYING] and not found[STUCK]:
        return None
    told = " and ".join(f"{found[state]:,} {state}" for state in (RETRYING, STUCK) if found[state])
    states = " or ".join(f"broker leases list --state {state}" for state in (RETRYING, STUCK) if found[state])
    return f"Of the leases, {told}. Which, and why:  {states}"


@contextmanager
def progress(*, quiet: bool) -> Iterator[Tell]:
    """Show how far it is: a bar at a terminal, otherwise a line for each change; nothing if it is to be quiet."""
    if quiet:
        yield lambda _: None
    elif is_interactive():
        with _bar() as tell:
            yield tell
    else:
        yield _Lines().tell


class _Lines:
    """Tells in lines; the same is not told twice."""

    def __init__(self) -> None:
        self._told: dict[str, int] = {}

    def tell(self, found: Mapping[str, int]) -> None:
        told = {state: number for state, number in found.items() if number}
        if told and told != self._told:
            self._told = told
            note("leases: " + in_words(found))


@contextmanager
def _bar() -> Iterator[Tell]:
    from rich.console import Console  # noqa: PLC0415 - needed at a terminal only
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    columns = (TextColumn("Leases"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[states]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("leases", total=None, states="")

        def tell(found: Mapping[str, int]) -> None:
            every = sum(found.values())
            shown.update(task, total=every, completed=every - found[RETRYING], states=in_words(found))

        yield tell


def in_words(found: Mapping[str, int]) -> str:
    """Return how many leases are in each state, without those in which there are none."""
    told = [f"{number:,} {state.replace('_', ' ')}" for state, number in found.items() if number]
    return ", ".join(told) or "none"
