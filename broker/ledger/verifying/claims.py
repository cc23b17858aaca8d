"""What was written down of the tree: in the database, in archives, and by those who kept checkpoints elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, select

from broker.core.merkle import verify_consistency
from broker.ledger import schema
from broker.ledger.keeping.archive_file import Archive
from broker.ledger.verifying.report import Found
from broker.ledger.verifying.tree import Claim

OpenNote = Callable[[str], tuple[int, bytes]]
"""Verifies a signed note and returns the size and root it speaks of. Raises ``ValueError`` if it is not good."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint that somebody kept elsewhere. ``where`` names the place to whoever reads the report."""

    size: int
    root: bytes
    where: str

    def claim(self) -> Claim:
        """Return what it says of the tree."""
        return Claim(
            self.size, self.root, f"the checkpoint of {self.size} entries in {self.where}", vouches=True, elsewhere=True
        )


class Claims:
    """Gathers claims, and counts the checkpoints among them and those whose signature is good."""

    def __init__(self, open_note: OpenNote | None, found: Found) -> None:
        """``found`` takes up signatures that are not good. Without ``open_note`` none is verified."""
        self.checkpoints = 0
        self.signatures = 0
        self._open_note = open_note
        self._found = found

    def of_database(self, connection: Connection, above: int = -(2**63), up_to: int = 2**63 - 1) -> Iterator[Claim]:
        """Yield the checkpoints of a database, of those of more than ``above`` entries and ``up_to`` so many."""
        size = schema.checkpoints.c.size
        query = select(schema.checkpoints).where(size > above, size <= up_to).order_by(size)
        for row in connection.execute(query).all():
            says = f"the checkpoint of {row.size} entries"
            signed = self._opened(row.note, says)
            if signed is not None and signed != (row.size, row.root):
                self._found.add(f"{says} was signed for another size or root than is stored with it")
            yield Claim(row.size, row.root, says, vouches=signed == (row.size, row.root))

    def of_archive(self, archive: Archive) -> Iterator[Claim]:
        """Yield what an archive says of the tree at its end, its checkpoints, and the one that covers it."""
        name, header = archive.path.name, archive.header
        root, proof = header.hashes()
        yield Claim(header.end, root, f"the header of {name}")
        for note in archive.notes:
            if (signed := self._opened(note, f"a checkpoint in {name}")) is not None:
                yield Claim(*signed, f"the checkpoint of {signed[0]} entries in {name}", vouches=True)
        if header.checkpoint is None:
            return
        covering = self._opened(header.checkpoint, f"the checkpoint that covers {name}")
        if covering is None:
            return
        if verify_consistency(header.end, root, *covering, proof):
            yield Claim(header.end, root, f"the checkpoint of {covering[0]} entries that covers {name}", vouches=True)
        else:
            self._found.add(f"the proof in {name} does not lead to the checkpoint that it was made for")

    def _opened(self, note: str | None, says: str) -> tuple[int, bytes] | None:
        self.checkpoints += 1
        if note is None or self._open_note is None:
            return None
        try:
            signed = self._open_note(note)
        except ValueError as error:
            self._found.add(f"{says} has no good signature: {error}")
            return None
        self.signatures += 1
        return signed
