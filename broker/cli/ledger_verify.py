"""``broker ledger verify``: what of a ledger can be trusted, without a broker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from broker.cli.options import ConfigFile, Json, settings
from broker.cli.outcome import ExitCode, unusable
from broker.cli.output import Facts, show
from broker.cli.verifying import KeptNotes, VerifierKeys, described, kept_in, opener, processes_for, progress_bar
from broker.ports import Place

if TYPE_CHECKING:
    from broker.ledger.verify import Report

MAX_SPANS: Final = 100
"""How many ranges of entries are named."""


def command(
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="PATH", help="A ledger file, export or archive; without it the broker's own."),
    ] = None,
    archive: Annotated[
        list[Path] | None,
        typer.Option("--archive", metavar="PATH", help="Archived earlier entries: a file or folder. Repeatable."),
    ] = None,
    note: KeptNotes = None,
    vkey: VerifierKeys = None,
    processes: Annotated[
        int, typer.Option("--processes", metavar="N", min=0, max=64, help="How many to use; 0: as the file is large.")
    ] = 0,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Derive everything that is stored again from the entries, and say what cannot be trusted. Needs no broker."""
    from broker.ledger.verify import verify_file  # noqa: PLC0415 - loads the ledger, which few commands need

    place = settings(config).ledger if file is None else file
    archives = list(dict.fromkeys(each.resolve() for place in archive or () for each in _archives(place)))
    opened = opener(vkey or ())
    kept = [each for place in note or () for each in kept_in(place, opened)]
    with progress_bar() as progress:
        report = verify_file(
            place,
            archives=archives,
            kept=kept,
            open_note=opened if vkey else None,
            processes=processes or processes_for(place),
            progress=progress,
        )
    answer = _answer(place, report)
    show(answer, _verdict(answer), *_trust(report), *_problems(report), as_json=as_json)
    if not report.sound:
        raise typer.Exit(ExitCode.INTEGRITY)


def _archives(place: Path) -> Sequence[Path]:
    from broker.ledger.keeping.archive_file import archives_in  # noqa: PLC0415 - as above

    found = archives_in(place) if place.is_dir() else [place]
    if not all(path.is_file() for path in found) or not found:
        raise unusable(f"--archive: there is no archive at {place}")
    return found


def _answer(place: Place, report: Report) -> dict[str, Any]:
    return {
        "file": str(place),
        "sound": report.sound,
        "ledger": report.ledger,
        "entries": report.size,
        "checked": report.entries,
        "archived": report.archived,
        "removed_at": report.removed_at,
        "root": None if report.root is None else report.root.hex(),
        "rules": report.epoch,
        "checkpoints": report.checkpoints,
        "signatures": report.signatures,
        "problems": report.problems,
        "problem_count": report.problem_count,
        "voucher": report.voucher,
        "trust": [{"first": span.first, "end": span.end, "trust": span.trust.value} for span in report.spans],
    }


def _verdict(answer: dict[str, Any]) -> Facts:
    signed = f"{answer['signatures']:,} verified" if answer["signatures"] else "not verified (give --vkey)"
    return Facts(
        "The ledger is sound" if answer["sound"] else f"The ledger is NOT sound: {answer['problem_count']:,} problems",
        [
            ("file", answer["file"]),
            ("entries", f"{answer['entries']:,}"),
            ("of them checked", f"{answer['checked']:,}"),
            ("root", answer["root"]),
            ("epoch", f"{answer['rules']:,}"),
            ("checkpoints", f"{answer['checkpoints']:,}"),
            ("their signatures", signed),
        ],
    )


def _trust(report: Report) -> Iterator[str]:
    """Yield a line for each range of entries: how far it can be trusted."""
    for span in report.spans[:MAX_SPANS]:
        yield f"  {described(span, report.voucher)}"
    if len(report.spans) > MAX_SPANS:
        yield f"  and {len(report.spans) - MAX_SPANS:,} ranges more: --json names all"
    if report.archived:
        where = "Before these" if report.removed_at is None else f"As entry {report.removed_at:,} says"
        yield f"  {where}, {report.archived:,} entries are in archives. Without these, what they tell of rules, agents,"
        yield "  keys and work was not compared with the tables of those."


def _problems(report: Report) -> Iterator[str]:
    yield from (f"  {problem}" for problem in report.problems)
    if more := report.problem_count - len(report.problems):
        yield f"  and {more:,} more"
