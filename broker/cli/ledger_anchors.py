"""``broker ledger anchors``: where checkpoints are kept beyond the broker's reach, and whether they agree with it."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from broker.cli.options import ConfigFile, Json, Port, settings
from broker.cli.outcome import ExitCode
from broker.cli.output import Table, show
from broker.cli.session import call
from broker.core.errors import Code

_COLUMNS: Final = ("name", "kind", "entries", "placed", "lag", "alarm", "last error")
_CHECKED: Final = ("holds now", "verdict")
_NONE: Final = "No anchors are configured: the ledger vouches for itself alone. See [anchors.NAME] in the settings."
_ALARMING: Final = {Code.ANCHOR_INCONSISTENT.value, Code.ANCHOR_LOST.value}


def command(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Ask each anchor what it holds now, and compare that with the ledger.")
    ] = False,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Show each anchor of the ledger: what it was given last, how far it is behind, what went wrong."""
    query = {"check": "true"} if check else {}
    answer = call(settings(config, port), lambda session: session.get("/v1/ledger/anchors", "ledger:read", **query))
    rows = [(*_row(anchor), *(_checked(anchor["check"]) if check else ())) for anchor in answer["anchors"]]
    show(answer, Table((*_COLUMNS, *(_CHECKED if check else ())), rows, _NONE), as_json=as_json)
    if any(anchor["check"].get("code") in _ALARMING for anchor in answer["anchors"] if check):
        raise typer.Exit(ExitCode.INTEGRITY)


def _row(anchor: dict[str, Any]) -> tuple[Any, ...]:
    failure = anchor["failure"]
    return (
        anchor["name"],
        anchor["kind"],
        anchor["size"],
        anchor["placed_at"],
        f"{anchor['lag_entries']:,} entries, {anchor['lag_seconds']:.0f} s",
        "ALARM" if anchor["alarm"] else None,
        None if failure is None else f"{failure['code']}: {failure['reason']}",
    )


def _checked(check: dict[str, Any]) -> tuple[Any, ...]:
    match check["verdict"]:
        case "agrees":
            return f"{check['size']:,} entries", "agrees with the ledger"
        case "silent":
            return None, "nothing to compare: it holds nothing, or does not say"
        case _:
            return None, f"{check['code']}: {check['reason']}"
