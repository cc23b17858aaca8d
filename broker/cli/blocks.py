"""``broker blocks``: which grants are refused for the time being, and letting them through again."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli.options import ConfigFile, Json, Port, settings
from broker.cli.output import Table, moment, show
from broker.cli.session import call, path_part

app = typer.Typer(help="Blocks refuse new grants until they end or are lifted.", no_args_is_help=True)

_COLUMNS = ("id", "refuses", "until", "since", "by", "reason")


@app.command("list")
def index(config: ConfigFile = None, port: Port = None, as_json: Json = False) -> None:
    """List the blocks in force."""
    answer = call(settings(config, port), lambda session: session.get("/v1/blocks", "operator:read"))
    rows = [
        (
            block["id"],
            block["selector"],
            block["until"] or "lifted",
            moment(block["at"]),
            block["by"],
            block["reason"],
        )
        for block in answer["blocks"]
    ]
    show(answer, Table(_COLUMNS, rows, "No blocks are in force."), as_json=as_json)


@app.command("lift")
def lift(
    block: Annotated[str, typer.Argument(metavar="ID", help="The block, as told by: broker blocks list")],
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "lifted by an operator",
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Let what a block refused be granted again. Tokens that were revoked stay dead."""
    path = f"/v1/blocks/{path_part(block, 'ID')}"
    call(settings(config, port), lambda session: session.delete(path, "revocations:write", reason=reason))
    show({"lifted": block}, f"Lifted {block}. Tokens that were revoked stay dead.", as_json=as_json)
