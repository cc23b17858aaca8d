"""``broker ledger status``: what can be said of the ledger at a glance, and what to do if it is not sound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli.options import ConfigFile, Json, settings
from broker.cli.outcome import ExitCode
from broker.cli.output import Facts, moment, show
from broker.ports import Place

if TYPE_CHECKING:
    from broker.ledger.reading.status import Status


def command(
    file: Annotated[
        Path | None, typer.Option("--file", metavar="PATH", help="A ledger file; without it that of the settings.")
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Say whether the ledger is sound, by a first look and by the broker's last check of itself. Needs no broker."""
    from broker.ledger.reading.status import status_of  # noqa: PLC0415 - loads the ledger, which few commands need

    place = settings(config).ledger if file is None else file
    answer = _answer(place, status_of(place))
    problems = [f"  {problem}" for problem in answer["problems"]]
    told = [] if answer["sound"] else [*problems, f"What to do:  {answer['way_on']}"]
    show(answer, _facts(answer), *told, as_json=as_json)
    if not answer["sound"]:
        raise typer.Exit(ExitCode.INTEGRITY)


def _answer(place: Place, status: Status) -> dict[str, Any]:
    unsound, last = status.unsound, status.last_check
    return {
        "file": str(place),
        "sound": unsound is None,
        "fault": None if unsound is None else unsound.fault.value,
        "problems": [] if unsound is None else list(unsound.problems),
        "way_on": None if unsound is None else unsound.way_on,
        "entries": status.entries,
        "epoch": status.epoch,
        "checkpoint": status.checkpoint,
        "checked_at": None if last is None else moment(last.at),
        "checked_entries": None if last is None else last.entries,
    }


def _facts(answer: dict[str, Any]) -> Facts:
    checked = answer["checked_at"]
    last = "never" if checked is None else f"{checked}, {answer['checked_entries']:,} entries"
    title = "Nothing is known against the ledger" if answer["sound"] else "The ledger is NOT sound: nothing is issued"
    return Facts(
        title,
        [
            ("file", answer["file"]),
            ("entries", answer["entries"]),
            ("epoch", answer["epoch"]),
            ("youngest checkpoint", answer["checkpoint"]),
            ("last complete check", last),
        ],
    )
