"""``broker ledger archive``: old entries into files that can be verified by themselves, and out of the ledger."""

from __future__ import annotations

import asyncio
import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from broker.cli.options import ConfigFile, Json, settings
from broker.cli.outcome import unusable
from broker.cli.output import Facts, Table, show
from broker.clock import SystemClock
from broker.config import Config
from broker.core.inquiry import parse_moment
from broker.ports import Place

if TYPE_CHECKING:
    from broker.ledger.keeping.archiving import Made

_DAY: Final = 24 * 3600.0
_COLUMNS: Final = ("archive", "first", "end", "sha256")
_NOTHING: Final = "Nothing is old enough: whole tiles of 256 entries, older than anything alive and the last 100,000."


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the archives are, or will be.")],
    before: Annotated[
        str | None,
        typer.Option("--before", metavar="TIME", help="Older entries; without it, ledger.retain_days of the settings."),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove from the ledger what was archived; the broker must be stopped.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why entries are removed, which is recorded.")] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Write old entries to archives, in whole tiles; verify each; with --remove, take them out of the ledger."""
    if remove != (reason is not None):
        raise unusable("--remove: give a --reason, which is recorded, and no reason without it")
    loaded, now = settings(config), SystemClock().now()
    limit = _limit(loaded, before, now, remove=remove)
    if reason is None:
        made = _written(loaded.ledger, folder, limit, now)
    else:
        made = asyncio.run(_removed(loaded.ledger, folder, limit, reason))
    told = [each.described() for each in made]
    title = "Archived and removed" if remove else "Archived; the ledger still has all of it"
    entries = sum(each.end - each.first for each in made)
    rows = [(each.path.name, each.first, each.end, each.digest.hex()) for each in made]
    parts = Facts(title, [("entries", f"{entries:,}")]), Table(_COLUMNS, rows, _NOTHING)
    show({"folder": str(folder), "removed": remove, "archives": told}, *parts, as_json=as_json)


def _limit(config: Config, before: str | None, now: float, *, remove: bool) -> float:
    """Return from when on entries stay. Raises ``Failure`` for what the settings do not allow."""
    retained = None if config.retain_days is None else now - config.retain_days * _DAY
    asked = parse_moment("--before", before, now)
    if retained is None:
        if remove:
            raise unusable("--remove: ledger.retain_days is not set, so that all entries stay in the ledger")
        if asked is None:
            raise unusable("--before: needed, since ledger.retain_days is not set")
        return asked
    if asked is None:
        return retained
    return min(asked, retained) if remove else asked


def _written(ledger: Place, folder: Path, limit: float, now: float) -> list[Made]:
    from broker.ledger.keeping import archiving  # noqa: PLC0415 - loads the ledger, which few commands need

    return list(archiving.archives(ledger, folder, limit, now))


async def _removed(place: Place, folder: Path, limit: float, reason: str) -> list[Made]:
    """Archive with the ledger held for this process, so that no broker is reading what goes away."""
    from broker.ledger import SqlLedger  # noqa: PLC0415 - as above
    from broker.ledger.keeping import archiving  # noqa: PLC0415 - as above
    from broker.ports import Revocations  # noqa: PLC0415 - as above

    clock, made = SystemClock(), list["Made"]()
    ledger = await SqlLedger.open(place, Revocations(), clock=clock)
    try:
        for each in archiving.archives(place, folder, limit, clock.now()):
            await ledger.commit(archiving.removal(each, _who(), reason, clock.now()))
            made.append(each)
    finally:
        await ledger.close()
    return made


def _who() -> str:
    """Return who runs this, by the operating system: nobody has signed in to a broker that is stopped."""
    try:
        return f"os:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"os:{os.getuid()}"
