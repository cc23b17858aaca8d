"""``broker ledger key``, ``checkpoint`` and ``compare``: what the ledger signs, and that it takes nothing back."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from broker.cli.files import read_text
from broker.cli.keyfile import write_new
from broker.cli.keys import ledger_name, vkeys_of
from broker.cli.options import ConfigFile, Json, LedgerFile, Port, settings
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.output import Facts, note, show
from broker.cli.session import Session, call
from broker.core.merkle import verify_consistency

if TYPE_CHECKING:
    from broker.signing.checkpoint import Checkpoint

_CHECKPOINT: Final = "/v1/ledger/checkpoint"
_READ: Final = "ledger:read"


def key(
    file: LedgerFile = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Print the verifier key of the ledger's checkpoints, one a line if there are several. It is no secret."""
    if file is not None:
        vkeys = _vkeys_in(file)
    else:
        loaded = settings(config, port)
        answer = call(loaded, lambda session: session.get("/v1/keys", "operator:read"))
        vkeys = vkeys_of(answer["keys"], ledger_name(loaded.issuer))
    show({"vkeys": vkeys}, *vkeys, as_json=as_json)


def checkpoint(
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it to a new file; without it, standard output.")
    ] = None,
    config: ConfigFile = None,
    port: Port = None,
) -> None:
    """Get the signed checkpoint of the ledger as it is now (C2SP tlog-checkpoint). Keep it where others cannot."""
    text = call(settings(config, port), lambda session: session.text(_CHECKPOINT, _READ))
    if output is None:
        print(text, end="")
        return
    write_new(output, text.encode())
    note(f"The checkpoint is in {output}")


def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A checkpoint that was kept.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="A younger one.")],
    vkey: Annotated[
        list[str], typer.Option("--vkey", metavar="VKEY", help="A verifier key of the ledger's checkpoints. (for each)")
    ],
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Verify that NEW has every entry of OLD unchanged: by signatures, and by a proof that the broker gives."""
    first, second = (_opened(path, vkey) for path in (old, new))
    if first.origin != second.origin:
        raise _contradiction(f"the checkpoints are of two ledgers: {first.origin} and {second.origin}")
    if first.size > second.size:
        raise unusable("OLD has more entries than NEW: name the older one first")
    hashes = []
    if 0 < first.size < second.size:
        hashes = call(settings(config, port), lambda session: _proof(session, first.size, second.size))
    if not verify_consistency(first.size, first.root, second.size, second.root, hashes):
        raise _contradiction("NEW does not continue OLD: entries were changed, removed or put in between")
    answer = {"consistent": True, "ledger": first.origin, "old": first.size, "new": second.size}
    values = [("ledger", first.origin), ("entries in OLD", first.size), ("entries in NEW", second.size)]
    show(answer, Facts("NEW has all that OLD has, unchanged", values), as_json=as_json)


async def signed_head(session: Session) -> tuple[str, Checkpoint]:
    """Return the broker's checkpoint of now, and what it claims; its signature is not verified. Raises ``Failure``."""
    from broker.signing.checkpoint import NoteError, claimed  # noqa: PLC0415 - loads cryptography, as below

    text = await session.text(_CHECKPOINT, _READ)
    try:
        return text, claimed(text)
    except NoteError as error:
        raise Failure(ExitCode.UNAVAILABLE, "bad_answer", "what answers there is not a broker") from error


def _opened(path: Path, vkeys: Sequence[str]) -> Checkpoint:
    """Return the checkpoint in a file, once one of the keys has verified it. Raises ``Failure``."""
    from broker.signing.checkpoint import (  # noqa: PLC0415 - loads cryptography, which few commands need
        MAX_NOTE_SIZE,
        NoteError,
        VerifierKeyError,
        open_note,
    )

    text = read_text(path, "checkpoint", MAX_NOTE_SIZE)
    why = ""
    for vkey in vkeys:
        try:
            return open_note(text, vkey)
        except VerifierKeyError as error:
            raise unusable(f"--vkey: {error}") from error
        except NoteError as error:
            why = str(error)
    raise Failure(ExitCode.INTEGRITY, "not_signed", f"{path} is not a checkpoint of this key: {why}")


async def _proof(session: Session, old: int, new: int) -> list[bytes]:
    _, head = await signed_head(session)
    if head.size < new:
        raise _contradiction(f"the broker's ledger has only {head.size} of the {new} entries that NEW signs for")
    answer: Mapping[str, Any] = await session.get("/v1/ledger/consistency", _READ, old=old, new=new)
    return [base64.b64decode(text) for text in answer["hashes"]]


def _contradiction(text: str) -> Failure:
    return Failure(ExitCode.INTEGRITY, "not_consistent", text)


def _vkeys_in(file: Path) -> list[str]:
    """Return the verifier keys in a ledger file; the name of its keys is in what they have signed."""
    from broker.ledger import checkpoints  # noqa: PLC0415 - loads the ledger, which few commands need
    from broker.ledger.reading import offline, records  # noqa: PLC0415 - loads the ledger, which few commands need
    from broker.signing.checkpoint import claimed  # noqa: PLC0415

    keys, text = offline.read_file(file, lambda found: (records.keys(found), checkpoints.latest_note(found)))
    if text is None:
        raise unusable(f"--file: no checkpoint was signed in {file} yet, and so its keys have no name")
    described = [{"use": one.use, "revoked": one.revoked, "public_jwk": one.public_jwk} for one in keys]
    return vkeys_of(described, claimed(text).origin)
