"""``broker db``: the database that the ledger is in."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.options import ConfigFile, Json, settings
from broker.cli.outcome import ExitCode, unusable
from broker.cli.output import Facts, show
from broker.ports import Server

app = typer.Typer(help="The database that the ledger is in.", no_args_is_help=True)


@app.command("check")
def check(config: ConfigFile = None, as_json: Json = False) -> None:
    """Say whether the PostgreSQL database of the settings is fit for the ledger, and what keeps a broker from it."""
    from broker.ledger.databases.database_check import check_database  # noqa: PLC0415 - loads the ledger, which few commands need

    server = _server(config)
    found = check_database(server)
    answer = {"database": str(server), **asdict(found)}
    fit = "The database is fit" if not found.problems else "The database is NOT fit for a broker"
    facts = [(name.replace("_", " "), value) for name, value in answer.items() if name != "problems"]
    show(answer, Facts(fit, facts), *(f"  {problem}" for problem in found.problems), as_json=as_json)
    if found.problems:
        raise typer.Exit(ExitCode.UNAVAILABLE)


@app.command("upgrade")
def upgrade(config: ConfigFile = None, as_json: Json = False) -> None:
    """Bring the ledger's schema to this version, which a starting broker does by itself, too."""
    from broker.clock import SystemClock  # noqa: PLC0415 - as above
    from broker.ledger.upgrading import upgrade as run  # noqa: PLC0415

    place = settings(config).ledger
    before, after = run(place, SystemClock())
    show(
        {"ledger": str(place), "before": before, "after": after},
        Facts("The schema is up to date", [("ledger", str(place)), ("before", before), ("after", after)]),
        as_json=as_json,
    )


@app.command("move")
def move(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The ledger file, which no broker may be using.")],
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Move a ledger from FILE into the PostgreSQL database of the settings, where there must be none, and verify it."""
    from broker.clock import SystemClock  # noqa: PLC0415 - as above
    from broker.ledger.keeping.moving import MOVED  # noqa: PLC0415
    from broker.ledger.keeping.moving import move as run  # noqa: PLC0415

    server = _server(config)
    report = run(file, server, SystemClock())
    root = "" if report.root is None else report.root.hex()
    show(
        {"from": str(file), "to": str(server), "entries": report.size, "root": root, "sound": report.sound},
        Facts("The ledger was moved", [("to", str(server)), ("entries", f"{report.size:,}"), ("root", root)]),
        f"The file is {file.name}{MOVED} now: keep it as a backup, and go on with it never.",
        as_json=as_json,
    )


def _server(config: Path | None) -> Server:
    place = settings(config).ledger
    if not isinstance(place, Server):
        text = "the ledger of the settings is a file; give [ledger] url instead of path"
        raise unusable(text, "not_a_database")
    return place
