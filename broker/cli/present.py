"""``broker verifiers`` and ``broker replicas``: who is there, and how far behind each is."""

from __future__ import annotations

from typing import Any, Final

import typer

from broker.cli.options import ConfigFile, Json, Port, settings
from broker.cli.output import Table, show
from broker.cli.session import call

verifiers: Final = typer.Typer(help="Resource servers that tell which rules they have applied.", no_args_is_help=True)
replicas: Final = typer.Typer(help="The broker's own processes.", no_args_is_help=True)

_STANDING: Final = ("epoch", "behind", "silent for", "bound", "since")


@verifiers.command("list")
def list_verifiers(config: ConfigFile = None, port: Port = None, as_json: Json = False) -> None:
    """List who acknowledges rules, with how far behind each is. BOUND is after how long it refuses by itself."""
    answer = call(settings(config, port), lambda session: session.get("/v1/verifiers", "operator:read"))
    rows = [
        (each["agent"], each["verifier"], *_standing(each, f"{each['max_age']:g} s")) for each in answer["verifiers"]
    ]
    nobody = "No verifier has told of itself."
    show(answer, Table(("agent", "verifier", *_STANDING), rows, nobody), as_json=as_json)


@replicas.command("list")
def list_replicas(config: ConfigFile = None, port: Port = None, as_json: Json = False) -> None:
    """List the broker's own processes, with how far behind each is; the workers of one host are one replica."""
    answer = call(settings(config, port), lambda session: session.get("/v1/replicas", "operator:read"))
    rows = [
        (each["id"], each["host"], each["process"], each["version"], *_standing(each, _bound(each)), each["policy"])
        for each in answer["replicas"]
    ]
    columns = ("id", "host", "process", "version", *_STANDING, "policy")
    show(answer, Table(columns, rows, "There are no replicas."), as_json=as_json)


def _standing(each: dict[str, Any], bound: str) -> tuple[object, ...]:
    return each["epoch"], each["lag"], f"{each['silent_seconds']:.1f} s", bound, each["since"]


def _bound(replica: dict[str, Any]) -> str:
    return f"{replica['max_staleness']:g} s" if replica["max_staleness"] else "none needed"
