"""Write a range of entries as an archive, and read it back before anybody relies on it.

Nothing is removed here. An archive gets its name only when it is complete, on the disk, and was verified by reading it
again; what a crash or a full disk leaves has another name, and is written over by the next attempt.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import msgspec
from sqlalchemy import Connection, select

from broker.core import base64url
from broker.core.change import Change, RemoveEntries
from broker.core.entry import Kind, entry
from broker.core.errors import Code, Unavailable
from broker.core.personal import SALT_SIZE
from broker.core.tiles import TILE_WIDTH
from broker.durable_files import sync_folder
from broker.ledger import schema, tree
from broker.ledger.keeping.archive_file import FORMAT, Archive, Header, archives_in, encoded, file_name
from broker.ledger.keeping.retention import NEWEST, border, first_entry
from broker.ledger.reading.offline import read_file
from broker.ledger.reading.records import ENTRY
from broker.ledger.verifying.course import Course
from broker.ledger.verifying.lines import LinesEntries
from broker.ledger.verifying.report import Found
from broker.ledger.verifying.tree import Claim, Tree
from broker.ports import Place

ENTRIES: Final = TILE_WIDTH * TILE_WIDTH
"""The most entries in one archive: those of a tile of level 1."""

_PIECE: Final = 1000
_READ: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Made:
    """An archive that was verified. ``digest`` is the SHA-256 of the file, ``covered`` says a checkpoint covers it."""

    path: Path
    first: int
    end: int
    root: bytes
    digest: bytes
    covered: bool

    def described(self) -> dict[str, Any]:
        """Return what an entry says of it."""
        return {
            "archive": self.path.name,
            "first": self.first,
            "end": self.end,
            "root": self.root.hex(),
            "digest": self.digest.hex(),
        }


def archives(ledger: Place, folder: Path, before: float, now: float, *, newest: int = NEWEST) -> Iterator[Made]:
    """Write the archives of all that may leave a ledger, one after the other; those that are there are verified.

    See :func:`broker.ledger.keeping.retention.border`. Each must be settled before the next one is asked for. Raises
    :class:`Unavailable`; what was yielded until then stays good.
    """
    with only_one(folder):
        place = read_file(ledger, first_entry)
        end = read_file(ledger, lambda connection: border(connection, before, now, newest=newest))
        while (found := next_range(folder, place, end)) is not None:
            first, place = found
            yield read_file(ledger, partial(archive, folder=folder, first=first, end=place))


def removal(made: Made, by: str, reason: str, now: float) -> Change:
    """Return the change that takes the entries of an archive out of the ledger, and records where they are.

    Raises :class:`Unavailable` if no signed checkpoint covers them yet.
    """
    if not made.covered:
        text = f"no signed checkpoint covers {made.path.name} yet; broker serve signs one when it stops"
        raise Unavailable(Code.LEDGER_UNAVAILABLE, text)
    record = entry(Kind.LEDGER_ARCHIVED, now, **made.described(), by=by, reason=reason)
    return Change(record, writes=(RemoveEntries(made.first, made.end),))


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a folder of archives for this process.

    Raises :class:`Unavailable` if it cannot be used, or if another process has it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def next_range(folder: Path, first: int, border: int) -> tuple[int, int] | None:
    """Return the range of the next archive from ``first`` on, which may be there already; None at the border."""
    for path in archives_in(folder):
        start, end = map(int, path.name.removesuffix(".jsonl.gz").split("-")[1:])
        if start == first:
            return (start, end) if end <= border else None
    end = min(border, first - first % ENTRIES + ENTRIES)
    return (first, end) if first < end else None


def archive(connection: Connection, folder: Path, first: int, end: int) -> Made:
    """Write the archive of a range of whole tiles, or find that it is there; either way it is verified.

    Raises :class:`Unavailable` if it cannot be written, or is not what the ledger says.
    """
    path = folder / file_name(first, end)
    header = _header(connection, first, end)
    # One that was made before there was a checkpoint to cover it is made again, now that there is.
    if not path.exists() or _verified(path, header) != header:
        beside = folder / f".{path.name}.new"
        try:
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                _write(connection, file, header)
                file.flush()
                os.fsync(file.fileno())
            _verified(beside, header)
            beside.rename(path)
            sync_folder(folder)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise _unusable(folder, error) from error
    return Made(path, first, end, header.hashes()[0], digest_of(path), covered=header.checkpoint is not None)


def _header(connection: Connection, first: int, end: int) -> Header:
    table = schema.checkpoints.c
    query = select(table.size, table.note).where(table.size >= end, table.note.is_not(None)).order_by(table.size)
    covering = connection.execute(query.limit(1)).one_or_none()
    proof = () if covering is None else tree.consistency(connection, end, covering.size)
    return Header(
        archive=FORMAT,
        ledger=str(connection.scalar(select(schema.meta.c.ledger))),
        first=first,
        end=end,
        before=tuple(map(encoded, tree.frontier(connection, first).nodes)),
        root=encoded(tree.frontier(connection, end).root()),
        checkpoint=None if covering is None else covering.note,
        proof=tuple(map(encoded, proof)),
    )


def _write(connection: Connection, out: IO[bytes], header: Header) -> None:
    table, notes = schema.entries.c, schema.checkpoints.c
    # Without a name or time in it, so that the same entries make the same bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as lines:
        lines.write(msgspec.json.encode(header) + b"\n")
        inside = notes.size > header.first, notes.size <= header.end, notes.note.is_not(None)
        for note in connection.scalars(select(notes.note).where(*inside).order_by(notes.size)):
            lines.write(msgspec.json.encode({"checkpoint": note}) + b"\n")
        query = ENTRY.where(table.seq >= header.first, table.seq < header.end)
        for piece in connection.execute(query.order_by(table.seq)).partitions(_PIECE):
            lines.write(b"".join(_line(*row) for row in piece))


def _line(seq: int, body: bytes, personal: bytes | None) -> bytes:
    """Return an entry as an export writes it, its bytes and those of what is personal verbatim."""
    if personal is None:
        return b'{"seq":%d,"entry":%s}\n' % (seq, body)
    salt = base64url.encode(personal[:SALT_SIZE]).encode()
    beside = b'{"salt":"%s","members":%s}' % (salt, personal[SALT_SIZE:])
    return b'{"seq":%d,"entry":%s,"personal":%s}\n' % (seq, body, beside)


def _verified(path: Path, header: Header) -> Header:
    """Check that a file holds the entries of which the ledger keeps the tree; return the header that it has.

    What the ledger says of them counts, not what the file says of itself.
    """
    found = Archive.read(path)
    if found is None or _entries_of(found.header) != _entries_of(header):
        raise Unavailable(Code.LEDGER_CORRUPT, f"{path.name} is not the archive of these entries of this ledger")
    problems = Found()
    root, _ = header.hashes()
    course = Course(Tree([Claim(header.end, root, "the ledger")], before=header.frontier()), problems)
    course.follow(LinesEntries(path))
    course.finish()
    if problems.count or course.tree.size != header.end:
        what = problems.texts[0] if problems.texts else "it holds other entries than its name says"
        raise Unavailable(Code.LEDGER_CORRUPT, f"{path.name}: {what}")
    return found.header


def _entries_of(header: Header) -> tuple[object, ...]:
    """Return what a header says of the entries themselves."""
    return header.ledger, header.first, header.end, header.before, header.root


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"another process is writing archives to {folder}") from error


def digest_of(path: Path) -> bytes:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _unusable(folder: Path, error: OSError) -> Unavailable:
    what = "the disk is full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else error.strerror
    return Unavailable(Code.LEDGER_UNAVAILABLE, f"no archive can be written to {folder}: {what}; nothing was removed")
