"""``broker report``: what the ledger proves of a time, for auditors. Needs no broker."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from broker.cli.options import ConfigFile, LedgerFile, settings
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.output import note as told
from broker.cli.verifying import KeptNotes, VerifierKeys, described, kept_in, opener, processes_for, progress_bar
from broker.clock import SystemClock
from broker.core.inquiry import parse_moment
from broker.ports import Place

if TYPE_CHECKING:
    from broker.core.reporting import Integrity

FORMATS: Final = ("md", "html")

MAX_SPANS: Final = 100
"""How many ranges of entries are named."""


def command(
    *,
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="From then on: RFC 3339, or so long ago: 24h.")],
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Until then; without it, now.")] = None,
    form: Annotated[str, typer.Option("--format", metavar="NAME", help=f"One of: {', '.join(FORMATS)}.")] = "md",
    output: Annotated[
        Path | None, typer.Option("--output", metavar="PATH", help="A new file; without it, standard output.")
    ] = None,
    file: LedgerFile = None,
    note: KeptNotes = None,
    vkey: VerifierKeys = None,
    config: ConfigFile = None,
) -> None:
    """Write what was issued, refused, approved and revoked, and which entries show it, after verifying them all."""
    from broker.core.reporting import report  # noqa: PLC0415 - few commands need it
    from broker.ledger.reading import evidence, offline  # noqa: PLC0415 - loads the ledger, which few commands need

    if form not in FORMATS:
        raise unusable(f"--format: one of {', '.join(FORMATS)}")
    place, now = settings(config).ledger if file is None else file, SystemClock().now()
    first, last = parse_moment("--since", since, now), parse_moment("--until", until, now)
    start, end = first or 0.0, now if last is None else last
    if start >= end:
        raise unusable("--since: must be before --until")
    integrity = _verified(place, note or (), vkey or ())
    found = offline.read_file(place, lambda connection: evidence.gather(connection, start, end))
    text = report(found, integrity, since=start, until=end, made_at=now)
    _write(text if form == "md" else _page(text), output)
    if not integrity.sound:
        told("The ledger is NOT sound; the report says why. More: broker ledger verify")
        raise typer.Exit(ExitCode.INTEGRITY)


def _verified(place: Place, notes: Sequence[Path], vkeys: Sequence[str]) -> Integrity:
    """Verify the whole ledger, whatever the time of the report is."""
    from broker.core.reporting import Integrity  # noqa: PLC0415 - as above
    from broker.ledger.verify import verify_file  # noqa: PLC0415 - as above

    opened = opener(vkeys)
    kept = [each for place in notes for each in kept_in(place, opened)]
    with progress_bar() as progress:
        found = verify_file(
            place,
            kept=kept,
            open_note=opened if vkeys else None,
            processes=processes_for(place),
            progress=progress,
        )
    return Integrity(
        sound=found.sound,
        entries=found.size,
        root=None if found.root is None else found.root.hex(),
        checkpoints=found.checkpoints,
        signatures=found.signatures,
        voucher=found.voucher,
        trust=[described(span, found.voucher) for span in found.spans[:MAX_SPANS]],
        problems=found.problems,
        problem_count=found.problem_count,
    )


def _page(text: str) -> str:
    from broker.cli.report_page import page  # noqa: PLC0415 - loads a Markdown reader

    return page(text)


def _write(text: str, output: Path | None) -> None:
    """Write to standard output, or to a file that is not there yet: for its owner alone."""
    if output is None:
        sys.stdout.write(text)
        return
    try:
        with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(text.encode())
    except FileExistsError as error:
        raise unusable(f"--output: there is a file at {output} already") from error
    except OSError as error:
        text = f"the output cannot be written ({error.strerror})"
        raise Failure(ExitCode.UNAVAILABLE, "output_failed", text) from error
