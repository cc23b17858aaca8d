"""``broker ledger tiles``: the whole ledger as static files, in the layout that transparency-log tools read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Final

import typer

from broker.cli.ledger_checkpoint import signed_head
from broker.cli.options import ConfigFile, Json, LedgerFile, Port, settings
from broker.cli.outcome import unusable
from broker.cli.output import Facts, show
from broker.cli.session import Session, call
from broker.cli.tile_folder import Made, Source, TileFolder
from broker.core.tiles import Tile

_READ: Final = "ledger:read"


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files are, or will be.")],
    file: LedgerFile = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Write the ledger as files (C2SP tlog-tiles), up to a signed checkpoint. Run again to go on after a crash."""
    there = TileFolder(folder)
    if file is not None:
        made = asyncio.run(_from_file(there, file))
    else:
        made = call(settings(config, port), lambda session: _from_broker(there, session))
    values = [("folder", folder), ("entries", f"{made.size:,}"), ("root", made.root), ("files written", made.written)]
    answer = {"folder": str(folder), "entries": made.size, "root": made.root, "written": made.written}
    show(answer, Facts("The tiles are complete", values), as_json=as_json)


async def _from_broker(folder: TileFolder, session: Session) -> Made:
    note, head = await signed_head(session)

    async def read(tile: Tile) -> bytes:
        return await session.data(f"/v1/ledger/tile/{tile.path}", _READ)

    return await folder.complete(Source(note, head.size, head.root, read))


async def _from_file(folder: TileFolder, file: Path) -> Made:
    from broker.ledger import checkpoints, tree  # noqa: PLC0415 - loads the ledger, which few commands need
    from broker.ledger.reading import offline  # noqa: PLC0415 - loads the ledger, which few commands need
    from broker.signing.checkpoint import claimed  # noqa: PLC0415

    note = offline.read_file(file, checkpoints.latest_note)
    if note is None:
        raise unusable(f"--file: no checkpoint was signed in {file} yet; broker serve signs one when it stops")
    head = claimed(note)

    async def read(tile: Tile) -> bytes:
        return offline.read_file(file, lambda connection: tree.tile(connection, tile))

    return await folder.complete(Source(note, head.size, head.root, read))
