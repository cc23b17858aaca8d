"""``broker ledger``: reading the record of everything, and verifying it without a broker."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import typer

from broker.cli import (
    ledger_anchors,
    ledger_archive,
    ledger_checkpoint,
    ledger_erase,
    ledger_export,
    ledger_query,
    ledger_receipt,
    ledger_restore,
    ledger_status,
    ledger_tiles,
    ledger_trace,
    ledger_verify,
)
from broker.cli.entry_line import entry_line, entry_time
from broker.cli.options import ConfigFile, Json, Port, settings
from broker.cli.outcome import ExitCode, Failure
from broker.cli.output import Facts, note, show, to_json
from broker.cli.session import Session, call
from broker.core.personal import told

app = typer.Typer(help="The record of everything that happened.", no_args_is_help=True)
app.command("verify")(ledger_verify.command)
app.command("query")(ledger_query.command)
app.command("trace")(ledger_trace.command)
app.command("export")(ledger_export.command)
app.command("key")(ledger_checkpoint.key)
app.command("checkpoint")(ledger_checkpoint.checkpoint)
app.command("compare")(ledger_checkpoint.compare)
app.command("receipt")(ledger_receipt.receipt)
app.command("verify-receipt")(ledger_receipt.verify_receipt)
app.command("tiles")(ledger_tiles.command)
app.command("anchors")(ledger_anchors.command)
app.command("erase")(ledger_erase.command)
app.command("status")(ledger_status.command)
app.command("accept-restore")(ledger_restore.command)
app.command("archive")(ledger_archive.command)

PAGE: Final = 1000
FOLLOW_SECONDS: Final = 1.0

_ENTRIES: Final = "/v1/ledger/entries"
_READ: Final = "ledger:read"


@app.command("tail")
def tail(
    count: Annotated[int, typer.Option("-n", min=0, max=100_000, help="How many entries from the end.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones until Ctrl-C.")] = False,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Show the latest entries; with --json and --follow, one JSON object a line."""

    async def work(session: Session) -> None:
        _, head = await ledger_checkpoint.signed_head(session)
        entries = await _from(session, head.size - count - 1)
        if follow:
            await _follow(session, entries, head.size - 1, as_json=as_json)
        else:
            show({"entries": entries}, *map(entry_line, entries), as_json=as_json)

    call(settings(config, port), work)


@app.command("show")
def one(
    seq: Annotated[int, typer.Argument(metavar="SEQ", min=0, help="The place of the entry, from 0.")],
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Show one entry with all that it says."""
    answer = call(settings(config, port), lambda session: session.get(f"{_ENTRIES}/{seq}", _READ))
    entry = told(answer)
    values = [
        ("at", entry_time(entry)),
        *((name, value) for name, value in entry.items() if name not in {"v", "kind", "at"}),
    ]
    show(answer, Facts(f"Entry {seq}: {entry['kind']}", values), as_json=as_json)


async def _from(session: Session, after: int) -> list[dict[str, Any]]:
    """Return all entries above a place, page by page."""
    entries: list[dict[str, Any]] = []
    while True:
        query = {} if after < 0 else {"after": after}
        page: list[dict[str, Any]] = (await session.get(_ENTRIES, _READ, limit=PAGE, **query))["entries"]
        entries += page
        if len(page) < PAGE:
            return entries
        after = page[-1]["seq"]


async def _follow(session: Session, entries: list[dict[str, Any]], last: int, *, as_json: bool) -> None:
    while True:
        for entry in entries:
            print(to_json(entry) if as_json else entry_line(entry), flush=True)
            last = entry["seq"]
        await asyncio.sleep(FOLLOW_SECONDS)
        try:
            entries = await _from(session, last)
        except Failure as failure:
            if failure.exit_code is not ExitCode.UNAVAILABLE:
                raise
            note(f"waiting: {failure.text}")
            entries = []
