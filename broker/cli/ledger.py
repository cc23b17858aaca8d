"""``broker ledger``: reading the record of everything, and verifying it without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from broker.cli import (
    ledger_anchors,
    ledger_checkpoint,
    ledger_erase,
    ledger_export,
    ledger_query,
    ledger_receipt,
    ledger_restore,
    ledger_status,
    ledger_tiles,
    ledger_trace,
)
from broker.cli.entry_line import entry_line, entry_time
from broker.cli.options import ConfigFile, Json, Port, settings
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.output import Facts, is_interactive, note, show, to_json
from broker.cli.session import Session, call
from broker.core.personal import told

if TYPE_CHECKING:
    from broker.ledger.verify import Report

app = typer.Typer(help="The record of everything that happened.", no_args_is_help=True)
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

PAGE: Final = 1000
FOLLOW_SECONDS: Final = 1.0

_ENTRIES: Final = "/v1/ledger/entries"
_READ: Final = "ledger:read"


@app.command("verify")
def verify(
    file: Annotated[
        Path | None, typer.Option("--file", metavar="PATH", help="A ledger file; without it that of the settings.")
    ] = None,
    vkey: Annotated[
        str | None,
        typer.Option("--vkey", metavar="VKEY", help="Verify the signatures of checkpoints with this verifier key."),
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Derive everything that is stored again from the entries, and say what does not fit. Needs no broker."""
    from broker.ledger.verify import verify_file  # noqa: PLC0415 - loads the ledger, which few commands need
    from broker.signing.checkpoint import VerifierKeyError, open_note, parse_verifier_key  # noqa: PLC0415

    path = settings(config).ledger if file is None else file

    def opened(note: str) -> tuple[int, bytes]:
        checkpoint = open_note(note, vkey or "")
        return checkpoint.size, checkpoint.root

    if vkey is not None:
        try:
            parse_verifier_key(vkey)
        except VerifierKeyError as error:
            raise unusable(f"--vkey: {error}") from error
    with _progress() as progress:
        report = verify_file(path, open_note=None if vkey is None else opened, progress=progress)
    more = report.problem_count - len(report.problems)
    rest = [f"  and {more:,} more"] if more else []
    answer = _answer(path, report)
    show(answer, _verdict(answer), *(f"  {problem}" for problem in report.problems), *rest, as_json=as_json)
    if not report.sound:
        raise typer.Exit(ExitCode.INTEGRITY)


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


def _answer(path: Path, report: Report) -> dict[str, Any]:
    return {
        "file": str(path),
        "sound": report.sound,
        "ledger": report.ledger,
        "entries": report.size,
        "root": report.root.hex(),
        "rules": report.epoch,
        "checkpoints": report.checkpoints,
        "signatures": report.signatures,
        "problems": report.problems,
        "problem_count": report.problem_count,
    }


def _verdict(answer: dict[str, Any]) -> Facts:
    signed = f"{answer['signatures']:,} verified" if answer["signatures"] else "not verified (give --vkey)"
    return Facts(
        "The ledger is sound" if answer["sound"] else f"The ledger is NOT sound: {answer['problem_count']:,} problems",
        [
            ("file", answer["file"]),
            ("entries", f"{answer['entries']:,}"),
            ("root", answer["root"]),
            ("rules", f"{answer['rules']:,}"),
            ("checkpoints", f"{answer['checkpoints']:,}"),
            ("their signatures", signed),
        ],
    )


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """Show how far it is to the person who watches, if there is one."""
    if not is_interactive():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - needed at a terminal only
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Verifying", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
