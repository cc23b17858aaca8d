"""``broker ledger export``: entries for other systems, at least once each, with a cursor that outlives this process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import typer

from broker.cli.files import replace_file
from broker.cli.options import ConfigFile, LedgerFile, Port, settings
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.output import note
from broker.cli.session import Session, call
from broker.core.exporting import FORMATS, Event

PAGE: Final = 1000
FOLLOW_SECONDS: Final = 1.0
SOURCE: Final = "urn:credential-broker:ledger"

_MAX_CURSOR: Final = 32

Page = list[tuple[int, dict[str, Any]]]
Read = Callable[[int], Awaitable[Page]]
"""Returns entries above a place, at most a page of them."""


def command(
    *,
    form: Annotated[str, typer.Option("--format", metavar="NAME", help=f"One of: {', '.join(FORMATS)}.")] = "jsonl",
    since: Annotated[int, typer.Option(metavar="SEQ", min=0, help="The first entry, if there is no cursor yet.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones until Ctrl-C.")] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Append to this file; without it, standard output.")
    ] = None,
    cursor: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Keep in this file what was written, and go on from there.")
    ] = None,
    source: Annotated[str, typer.Option(metavar="URI", help="How the ledger is called in the events.")] = SOURCE,
    file: LedgerFile = None,
    config: ConfigFile = None,
    port: Port = None,
) -> None:
    """Write entries in the format of another system, one a line. Repeats some after a crash, and leaves none out."""
    if form not in FORMATS:
        raise unusable(f"--format: one of {', '.join(FORMATS)}")
    if not (source.isascii() and source.isprintable() and source and " " not in source):
        raise unusable("--source: must be a URI")
    after = since - 1 if cursor is None else _read_cursor(cursor, since) - 1
    with ExitStack() as stack:
        out = sys.stdout.buffer if output is None else stack.enter_context(_appending(output))
        work = _Export(FORMATS[form], source, _Sink(out, output is not None, cursor), follow=follow)
        if file is not None:
            asyncio.run(work.run(_from_file(file), after))
        else:
            call(settings(config, port), lambda session: work.run(_from_broker(session), after))


class _Sink:
    """Where lines go. The cursor moves once they are out of this process's hands, never before."""

    def __init__(self, out: BinaryIO, durable: bool, cursor: Path | None) -> None:
        """``durable`` says that ``out`` is a file, to be written to the disk each time."""
        self._out = out
        self._durable = durable
        self._cursor = cursor

    def write(self, lines: list[str], upto: int) -> None:
        """Write lines, the last of which is of the entry ``upto``. Raises ``Failure`` if that cannot be done now."""
        try:
            self._out.write("".join(f"{line}\n" for line in lines).encode())
            self._out.flush()
            if self._durable:
                os.fsync(self._out.fileno())
        except BrokenPipeError:
            raise
        except OSError as error:
            text = f"the output cannot be written ({error.strerror})"
            raise Failure(ExitCode.UNAVAILABLE, "output_failed", text) from error
        if self._cursor is not None:
            _write_cursor(self._cursor, upto + 1)


class _Export:
    """One run: pages of entries, line by line."""

    def __init__(self, line: Callable[[Event], str], source: str, sink: _Sink, *, follow: bool) -> None:
        self._line = line
        self._source = source
        self._sink = sink
        self._follow = follow

    async def run(self, read: Read, after: int) -> None:
        """Write what is above a place; return at the end of the ledger, unless new entries are to follow."""
        while True:
            page = await self._page(read, after)
            if page:
                lines = [self._line(Event(seq, members, self._source)) for seq, members in page]
                after = page[-1][0]
                self._sink.write(lines, after)
            elif not self._follow:
                return
            else:
                await asyncio.sleep(FOLLOW_SECONDS)

    async def _page(self, read: Read, after: int) -> Page:
        try:
            return await read(after)
        except Failure as failure:
            if not self._follow or failure.exit_code is not ExitCode.UNAVAILABLE:
                raise
            note(f"waiting: {failure.text}")
            return []


def _from_broker(session: Session) -> Read:
    async def read(after: int) -> Page:
        query = {} if after < 0 else {"after": after}
        answer = await session.get("/v1/ledger/entries", "ledger:read", limit=PAGE, **query)
        return [(found["seq"], found["entry"]) for found in answer["entries"]]

    return read


def _from_file(file: Path) -> Read:
    from broker.ledger import offline, records  # noqa: PLC0415 - loads the ledger, which few commands need

    async def read(after: int) -> Page:
        found = offline.read_file(file, lambda connection: records.records(connection, after, PAGE))
        return [(record.seq, dict(record.members)) for record in found]

    return read


def _appending(path: Path) -> BinaryIO:
    """Open a file to append to, for its owner alone if it is new; a line that a crash left torn is ended first."""
    try:
        out = os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "r+b")
        if out.seek(0, os.SEEK_END) > 0:
            out.seek(-1, os.SEEK_END)
            if out.read(1) != b"\n":
                out.write(b"\n")
    except OSError as error:
        raise unusable(f"--output: {path} cannot be written ({error.strerror})") from error
    return out


def _read_cursor(path: Path, since: int) -> int:
    """Return the next entry to write. Raises ``Failure`` for a file that holds something else."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_CURSOR + 1).strip()
    except FileNotFoundError:
        return since
    except OSError as error:
        raise unusable(f"--cursor: {path} cannot be read ({error.strerror})") from error
    if not text.isdigit() or len(text) > _MAX_CURSOR // 2:
        raise unusable(f"--cursor: {path} is not a cursor of an export")
    return int(text)


def _write_cursor(path: Path, upto: int) -> None:
    """Replace the cursor, durably and at once: a crash leaves the old one or the new one."""
    try:
        replace_file(path, f"{upto}\n".encode())
    except OSError as error:
        raise unusable(f"--cursor: {path} cannot be written ({error.strerror})") from error
