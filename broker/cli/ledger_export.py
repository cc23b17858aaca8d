"""``broker ledger export``: entries for other systems, at least once each, with a cursor that outlives this process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from broker.cli import export_target
from broker.cli.options import ConfigFile, LedgerFile, Port, settings
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.output import note
from broker.cli.session import Session, call
from broker.core.entry import decode
from broker.core.exporting import FORMATS, MAX_SOURCE, Format
from broker.core.personal import personal_beside
from broker.delivery.cursor import Cursor, CursorUnusable
from broker.delivery.forwarding import EntryRefused, Forwarding, Manner, Page, Read, ReceiverDown
from broker.delivery.http import HttpTarget
from broker.delivery.lines import LinesReceiver, appending
from broker.delivery.receiver import Receiver
from broker.delivery.syslog import SyslogTarget
from broker.timing import SYSTEM

PAGE: Final = 100
"""Entries read at once. So many of the longest ones are less than an answer of the broker may be."""

WAIT_SECONDS: Final = 1.0
"""How long an export that follows waits before it asks a broker again that does not answer."""

SOURCE: Final = "urn:credential-broker:ledger"


def command(
    *,
    form: Annotated[str, typer.Option("--format", metavar="NAME", help=f"One of: {', '.join(FORMATS)}.")] = "jsonl",
    since: Annotated[int, typer.Option(metavar="SEQ", min=0, help="The first entry, if there is no cursor yet.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones until Ctrl-C.")] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Append to this file; without it, standard output.")
    ] = None,
    to: export_target.To = None,
    token_file: export_target.TokenFile = None,
    token_variable: export_target.TokenVariable = None,
    ca_file: export_target.CaFile = None,
    server_name: export_target.ServerName = None,
    certificate: export_target.Certificate = None,
    key: export_target.Key = None,
    allow_plain: export_target.AllowPlain = False,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Leave out what the receiver refuses for good, instead of stopping.")
    ] = False,
    cursor: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Keep in this file what was written, and go on from there.")
    ] = None,
    source: Annotated[str, typer.Option(metavar="URI", help="How the ledger is called in the events.")] = SOURCE,
    file: LedgerFile = None,
    config: ConfigFile = None,
    port: Port = None,
) -> None:
    """Send entries in the format of another system, one a line. Repeats some after a crash, and leaves none out."""
    if form not in FORMATS:
        raise unusable(f"--format: one of {', '.join(FORMATS)}")
    if not (0 < len(source) <= MAX_SOURCE and source.isascii() and source.isprintable() and " " not in source):
        raise unusable(f"--source: must be a URI of at most {MAX_SOURCE} letters")
    target = None
    if to is not None:
        options = export_target.Options(
            url=to,
            token_file=token_file,
            token_variable=token_variable,
            ca_file=ca_file,
            server_name=server_name,
            certificate=certificate,
            key=key,
            allow_plain=allow_plain,
        )
        target = export_target.target_of(options, FORMATS[form])
    elif any(option is not None for option in (token_file, token_variable, ca_file, server_name, certificate, key)):
        raise unusable("--to: is missing, and other options are about it")
    if output is not None and to is not None:
        raise unusable("--output and --to: give one of them")
    work = _Export(
        FORMATS[form], target or output, cursor, Manner(source=source, follow=follow, skip_refused=skip_refused)
    )
    if file is not None:
        asyncio.run(work.run(_from_file(file), since))
    else:
        call(settings(config, port), lambda session: work.run(_from_broker(session, follow=follow), since))


class _Export:
    """One run, and how its end is told to whoever typed the command."""

    def __init__(
        self, form: Format, target: SyslogTarget | HttpTarget | Path | None, cursor: Path | None, manner: Manner
    ) -> None:
        """``target`` is a receiver, a file, or None for standard output."""
        self._form = form
        self._target = target
        self._cursor = None if cursor is None else Cursor(cursor)
        self._manner = manner

    async def run(self, read: Read, since: int) -> None:
        """Export from the cursor on, or from ``since`` if there is none yet. Raises ``Failure``."""
        try:
            following = None if self._cursor is None else self._cursor.read()
            if following:
                await _reach(read, following)
            async with self._receiver() as receiver:
                work = Forwarding(self._form, receiver, self._cursor, self._manner, timing=SYSTEM, tell=note)
                await work.run(_whole(read), since if following is None else following)
        except CursorUnusable as error:
            raise unusable(f"--cursor: {error}") from error
        except EntryRefused as refused:
            text = f"{refused.why}. To go on without it: --skip-refused"
            raise Failure(ExitCode.REFUSED, "entry_refused", text) from refused
        except ReceiverDown as down:
            raise Failure(
                ExitCode.UNAVAILABLE, "receiver_unavailable", f"the receiver takes nothing: {down.why}"
            ) from down
        except BrokenPipeError:
            raise
        except OSError as error:
            text = f"the output cannot be written ({error.strerror})"
            raise Failure(ExitCode.UNAVAILABLE, "output_failed", text) from error
        if work.skipped:
            note(f"skipped: {work.skipped} entries in all, which the receiver refuses")

    @asynccontextmanager
    async def _receiver(self) -> AsyncIterator[Receiver]:
        match self._target:
            case None:
                yield LinesReceiver(sys.stdout.buffer, durable=False)
            case Path() as path:
                try:
                    out = appending(path)
                except OSError as error:
                    raise unusable(f"--output: {path} cannot be written ({error.strerror})") from error
                with out:
                    yield LinesReceiver(out, durable=True)
            case target:
                async with export_target.receiver_at(target, self._form) as receiver:
                    yield receiver


async def _reach(read: Read, following: int) -> None:
    """Raise ``Failure`` if the ledger ends before the cursor: what comes up to there would be left out."""
    if not await read(following - 2):
        text = (
            f"the ledger has no entry {following - 1}, which was exported: an older one may have been put in its place"
        )
        raise Failure(ExitCode.INTEGRITY, "ledger_too_short", text)


def _whole(read: Read) -> Read:
    """Return a reading that raises ``Failure`` where entries would be left out, because they are no longer there."""

    async def whole(after: int) -> Page:
        page = await read(after)
        if page and (first := page[0][0]) > after + 1:
            text = (
                f"entries {after + 1} to {first - 1} were archived and removed; broker ledger query"
                f" --kind ledger.archived names the archives, and --since {first} begins with what is left"
            )
            raise Failure(ExitCode.REFUSED, "archived", text)
        return page

    return whole


def _from_broker(session: Session, *, follow: bool) -> Read:
    """Read from a broker; an export that follows waits while none answers."""

    async def read(after: int) -> Page:
        query = {} if after < 0 else {"after": after}
        while True:
            try:
                answer = await session.get("/v1/ledger/entries", "ledger:read", limit=PAGE, **query)
            except Failure as failure:
                if not follow or failure.exit_code is not ExitCode.UNAVAILABLE:
                    raise
                note(f"waiting: {failure.text}")
                await asyncio.sleep(WAIT_SECONDS)
            else:
                return [(found["seq"], found) for found in answer["entries"]]

    return read


def _from_file(file: Path) -> Read:
    from broker.ledger.reading import offline, records  # noqa: PLC0415 - loads the ledger, which few commands need

    async def read(after: int) -> Page:
        found = offline.read_file(file, lambda connection: records.records(connection, after, PAGE))
        return [
            (record.seq, {"entry": decode(record.body), **personal_beside(record.members, record.personal)})
            for record in found
        ]

    return read
