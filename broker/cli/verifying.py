"""What the commands share that verify a ledger: kept checkpoints, keys, progress, and how trust is put into words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from broker.cli.outcome import unusable
from broker.cli.output import is_interactive
from broker.core.trust import Span, Trust
from broker.ports import Place

if TYPE_CHECKING:
    from broker.ledger.verify import Kept

KeptNotes = Annotated[
    list[Path] | None,
    typer.Option("--note", metavar="FILE", help="Checkpoints that were kept elsewhere. Repeatable."),
]
VerifierKeys = Annotated[
    list[str] | None,
    typer.Option("--vkey", metavar="VKEY", help="Verify signatures with this verifier key. Repeatable."),
]

_WORTH_IT: Final = 64 * 1024 * 1024
"""Bytes of a file from which on several processes are faster, though they take a moment to start."""

_TRUST: Final = {
    Trust.VOUCHED: "sound, and covered by {voucher}",
    Trust.UNVOUCHED: "fit together, but no checkpoint given here covers them: whoever can write the file can make such",
    Trust.ARCHIVED: "archived: not looked at, but their place in the tree is known (give --archive)",
    Trust.DOUBTFUL: "cannot be trusted: a checkpoint contradicts them, and nothing tells which of them were changed",
    Trust.CHANGED: "changed: not what was recorded",
    Trust.MISSING: "missing",
}


def opener(vkeys: Sequence[str]) -> Callable[[str], tuple[int, bytes]]:
    """Return what reads a note: signed by one of the keys, or, without any, as it stands."""
    from broker.signing.checkpoint import (  # noqa: PLC0415 - loads the cryptography, which few commands need
        NoteError,
        VerifierKeyError,
        claimed,
        open_note,
        parse_verifier_key,
    )

    for vkey in vkeys:
        try:
            parse_verifier_key(vkey)
        except VerifierKeyError as error:
            raise unusable(f"--vkey: {error}") from error

    def opened(note: str) -> tuple[int, bytes]:
        wrong: NoteError | None = None
        for vkey in vkeys:
            try:
                checkpoint = open_note(note, vkey)
            except NoteError as error:
                wrong = wrong or error
            else:
                return checkpoint.size, checkpoint.root
        if wrong is not None:
            raise wrong
        checkpoint = claimed(note)
        return checkpoint.size, checkpoint.root

    return opened


def kept_in(place: Path, opened: Callable[[str], tuple[int, bytes]]) -> Sequence[Kept]:
    """Return the checkpoints in a file, read by ``opened``. Raises ``Failure``."""
    from broker.ledger.verify import Kept  # noqa: PLC0415 - loads the ledger, which few commands need
    from broker.signing.kept_notes import kept_notes  # noqa: PLC0415 - as above

    try:
        kept = [Kept(*opened(text), place.name) for text in kept_notes(place)]
    except OSError as error:
        raise unusable(f"--note: {place} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise unusable(f"--note: {place}: {error}") from error
    if not kept:
        raise unusable(f"--note: {place}: it holds no checkpoint")
    return kept


def processes_for(place: Place) -> int:
    """Return how many processes verify a ledger the fastest; of a database, nobody can tell how large it is."""
    return (
        len(os.sched_getaffinity(0))
        if isinstance(place, Path) and place.is_file() and place.stat().st_size > _WORTH_IT
        else 1
    )


def described(span: Span, voucher: str | None) -> str:
    """Say of a range of entries how far it can be trusted."""
    return f"{span}: {_TRUST[span.trust].format(voucher=voucher)}"


@contextmanager
def progress_bar() -> Iterator[Callable[[int, float], None] | None]:
    """Show how far it is, how fast, and how long it will take, to the person who watches, if there is one."""
    if not is_interactive():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415 - needed at a terminal only
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=1.0)

        def told(entries: int, share: float) -> None:
            rate = entries / (progress.tasks[0].elapsed or 1)
            progress.update(task, completed=share, description=f"{entries:,} entries, {rate:,.0f}/s, left:")

        yield told
