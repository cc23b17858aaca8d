"""``broker ledger receipt`` and ``verify-receipt``: that one entry is in the ledger, shown to whoever doubts it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from broker.cli.files import read_file, read_text
from broker.cli.keyfile import write_new
from broker.cli.options import ConfigFile, Json, Port, settings
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.output import Facts, moment, note, show
from broker.cli.session import Session, call, path_part
from broker.core.entry import MAX_BODY, decode, encode

_READ: Final = "ledger:read"


def receipt(
    which: Annotated[str, typer.Argument(metavar="SEQ|REF", help="The place of the entry, or the id it is about.")],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the receipt to a new file; without it, standard output.")
    ] = None,
    entry: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the entry, byte for byte, to a new file.")
    ] = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Get the receipt of an entry (C2SP tlog-proof), by which others can verify without the broker that it is there."""
    found = call(settings(config, port), lambda session: _receipted(session, which))
    if entry is not None:
        write_new(entry, encode(found["entry"]))
    if output is not None:
        write_new(output, found["receipt"].encode())
        note(f"The receipt of entry {found['seq']} is in {output}")
    if as_json:
        show(found, as_json=True)
    elif output is None:
        print(found["receipt"], end="")


def verify_receipt(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The receipt.")],
    entry: Annotated[Path, typer.Option(metavar="FILE", help="The entry, byte for byte; - is standard input.")],
    vkey: Annotated[str, typer.Option("--vkey", metavar="VKEY", help="The verifier key of the ledger's checkpoints.")],
    as_json: Json = False,
) -> None:
    """Verify that a receipt shows that an entry is in the ledger. Needs no broker, no settings and no network."""
    from broker.signing import checkpoint, tlog_proof  # noqa: PLC0415 - load cryptography, which few commands need

    text = read_text(file, "FILE", tlog_proof.MAX_PROOF_SIZE)
    # An entry ends in a brace: a line feed after it is an editor's.
    body = read_file(entry, "--entry", MAX_BODY + 1).removesuffix(b"\n")
    try:
        head = tlog_proof.verify_receipt(text, body, vkey)
        index = tlog_proof.parse_tlog_proof(text).index
    except checkpoint.VerifierKeyError as error:
        raise unusable(f"--vkey: {error}") from error
    except ValueError as error:
        raise Failure(
            ExitCode.INTEGRITY, "not_proven", f"this does not show that the entry is there: {error}"
        ) from error
    answer = {"verified": True, "seq": index, "ledger": head.origin, "entries": head.size, "root": head.root.hex()}
    show(answer, Facts("The entry is in the ledger", [*_told(body), *list(answer.items())[1:]]), as_json=as_json)


async def _receipted(session: Session, which: str) -> dict[str, Any]:
    """Return an entry with its place and its receipt."""
    if which.isascii() and which.isdigit():
        found = await session.get(f"/v1/ledger/entries/{which}", _READ)
    else:
        answer = await session.get("/v1/ledger/entries", _READ, ref=path_part(which, "REF"))
        found = answer["entries"][0]
    text = await session.text(f"/v1/ledger/receipt/{found['seq']}", _READ)
    return {**found, "receipt": text}


def _told(body: bytes) -> list[tuple[str, object]]:
    """Return what an entry is about; nothing of what is none, which can be in a ledger of somebody else."""
    try:
        members = decode(body)
    except ValueError:
        return []
    return [
        ("kind", members["kind"]),
        ("at", moment(members["at"] / 1000)),
        ("ref", members.get("ref")),
        ("agent", members.get("agent")),
    ]
