"""Verify a whole ledger without a broker: everything that is stored is derived again from the entries' bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError

from broker.core.errors import Code, Unavailable
from broker.core.merkle import Frontier
from broker.core.tree_head import KnownHead
from broker.ledger import schema
from broker.ledger.databases import statements
from broker.ledger.keeping.archive_file import Archive
from broker.ledger.reading.offline import connected
from broker.ledger.verifying.checking import pool_of
from broker.ledger.verifying.claims import Claims, Kept, OpenNote
from broker.ledger.verifying.course import Course, Progress
from broker.ledger.verifying.database import DatabaseEntries, tile_roots
from broker.ledger.verifying.lines import LinesEntries
from broker.ledger.verifying.outside import accepted_heads
from broker.ledger.verifying.report import Found, Report
from broker.ledger.verifying.stored import Source
from broker.ledger.verifying.tables import epoch_problems, head_problems, node_problems, state_problems
from broker.ledger.verifying.tree import Claim, Tree
from broker.ports import Place, Server

__all__ = ["Kept", "OpenNote", "Report", "verify_file"]

_SQLITE: Final = b"SQLite format 3\x00"


def verify_file(
    place: Place,
    *,
    archives: Sequence[Path] = (),
    kept: Sequence[Kept] = (),
    open_note: OpenNote | None = None,
    processes: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Verify a ledger's database, which a broker may be using at the same time, or an export, or an archive.

    ``archives`` hold what was before. ``open_note`` verifies signatures of checkpoints. Several ``processes`` check
    entries at the same time; what is found does not depend on their number. Raises :class:`Unavailable` if there is
    nothing that can be read as a ledger.
    """
    if isinstance(place, Path) and not place.is_file():
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"there is no ledger at {place}")
    before = _ordered(map(_archive, archives))
    with pool_of(processes) as pool:
        run = _Verification(kept, open_note, pool, progress)
        if isinstance(place, Server) or _is_database(place):
            return _in_database(place, lambda connection: run.of_database(place, before, connection))
        archive = Archive.read(place)
        return run.of_export(place, before) if archive is None else run.of_archives(_ordered([*before, archive]))


def _in_database(place: Place, verify: Callable[[Connection], Report]) -> Report:
    try:
        with connected(place) as connection:
            return verify(connection)
    except UnicodeDecodeError as error:  # what SQLite has to say about a damaged schema quotes it
        raise Unavailable(Code.LEDGER_CORRUPT, "this is not a ledger: its schema is damaged") from error


def _is_database(path: Path) -> bool:
    """Whether SQLite should say what is wrong with the file: it has its mark, or no content at all."""
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) in {_SQLITE, b""}
    except OSError as error:
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"{path} cannot be read") from error


def _archive(path: Path) -> Archive:
    archive = Archive.read(path)
    if archive is None:
        raise Unavailable(Code.LEDGER_CORRUPT, f"{path.name} is not an archive of a ledger")
    return archive


def _ordered(archives: Iterable[Archive]) -> list[Archive]:
    """Return archives by their first entry; of those that begin together, the longest one first."""
    return sorted(archives, key=lambda archive: (archive.header.first, -archive.header.end))


def _parted(archives: Sequence[Archive], limit: int | None) -> tuple[list[Archive], list[Archive]]:
    """Part archives, in their order, into those that follow one another and those that repeat what others have."""
    behind: list[Archive] = []
    aside: list[Archive] = []
    place = 0
    for archive in archives:
        if archive.header.first >= place and (limit is None or archive.header.end <= limit):
            behind.append(archive)
            place = archive.header.end
        else:
            aside.append(archive)
    return behind, aside


class _Verification:
    """One run over one state of the ledger."""

    def __init__(
        self, kept: Sequence[Kept], open_note: OpenNote | None, pool: Executor | None, progress: Progress | None
    ) -> None:
        self._kept = kept
        self._pool = pool
        self._progress = progress
        self._found = Found()
        self._claims = Claims(open_note, self._found)
        self._course = self._begin(())

    def of_database(self, place: Place, archives: Sequence[Archive], connection: Connection) -> Report:
        """Verify a database with everything that it derives from the entries."""
        meta = connection.execute(select(schema.meta)).one_or_none()
        head = connection.execute(select(schema.head.c.size, schema.head.c.frontier)).one_or_none()
        if meta is None or head is None:
            raise Unavailable(Code.LEDGER_CORRUPT, "this is not a ledger: it has no head or no identity")
        try:
            self._verify(place, archives, connection, head)
        except DBAPIError as error:
            # Not readable to the end: say so beside what was found until then.
            self._found.add(f"the database file itself is damaged ({type(error.orig).__name__}): {error.orig}")
        except (ValueError, TypeError, ArithmeticError):
            self._found.add("the database file itself is damaged: it holds values that its columns cannot have")
        self._same_ledger(str(meta.ledger), archives)
        return self._report(str(meta.ledger))

    def of_export(self, path: Path, archives: Sequence[Archive]) -> Report:
        """Verify JSON Lines, which keep nothing but the entries."""
        self._course = self._begin([kept.claim() for kept in self._kept], archives)
        self._follow(LinesEntries(path))
        if not self._course.entries:
            raise Unavailable(Code.LEDGER_CORRUPT, f"{path.name} is not a ledger, nor an export or archive of one")
        self._finish()
        return self._report(archives[0].header.ledger if archives else None)

    def of_archives(self, archives: Sequence[Archive]) -> Report:
        """Verify archives alone. What comes after them is known by the checkpoint and the proof in the last one."""
        end = max(archive.header.end for archive in archives)
        claims = [kept.claim() for kept in self._kept if kept.size <= end]
        self._course = self._begin(claims, archives, before=archives[0].header.frontier())
        self._finish()
        ledger = archives[0].header.ledger
        self._same_ledger(ledger, archives)
        return self._report(ledger)

    def _verify(self, place: Place, archives: Sequence[Archive], connection: Connection, head: Any) -> None:  # noqa: ANN401 - a row of the head table, whose values are not trusted
        offered = statements.of(connection)
        self._found.add_all((*offered.integrity_problems(connection), *offered.schema_problems(connection)))
        claims = [*self._claims.of_database(connection), *(kept.claim() for kept in self._kept)]
        first = connection.scalar(select(func.min(schema.entries.c.seq)))
        self._course = self._begin(claims, archives, limit=first, nodes=tile_roots(connection))
        self._follow(DatabaseEntries(place, connection, head.size))
        self._finish(accepted_heads(connection))
        self._found.add_all(head_problems(self._course, head))
        self._found.add_all(self._course.personal.compare())
        self._found.add_all(node_problems(connection, self._course))
        self._found.add_all(epoch_problems(connection, self._course))
        self._found.add_all(state_problems(connection, self._course))

    def _begin(
        self,
        claims: Iterable[Claim],
        archives: Sequence[Archive] = (),
        *,
        limit: int | None = None,
        before: Frontier = Frontier(),  # noqa: B008 - frozen
        nodes: Mapping[int, bytes] = MappingProxyType({}),
    ) -> Course:
        """Return a course with what is in the archives behind it, as far as they end before the entry ``limit``."""
        behind, aside = _parted(archives, limit)
        told = [claim for archive in behind for claim in self._claims.of_archive(archive)]
        told += [claim for archive in aside for claim in self._verify_aside(archive)]
        course = Course(Tree([*claims, *told], nodes, before), self._found, self._pool)
        for archive in behind:
            promised = archive.header.first, archive.header.end
            course.follow(LinesEntries(archive.path), self._progress, promised=promised)
        return course

    def _follow(self, source: Source) -> None:
        self._course.follow(source, self._progress)

    def _verify_aside(self, archive: Archive) -> Sequence[Claim]:
        """Verify an archive whose entries come from elsewhere, too, by itself; return what it says of their tree."""
        told = list(self._claims.of_archive(archive))
        course = Course(Tree(told, before=archive.header.frontier()), self._found, self._pool)
        course.follow(LinesEntries(archive.path), promised=(archive.header.first, archive.header.end))
        course.finish()
        return told

    def _finish(self, accepted: Mapping[KnownHead, int] = MappingProxyType({})) -> None:
        self._found.add_all(each.told() for each in self._course.finish(accepted))

    def _same_ledger(self, ledger: str, archives: Sequence[Archive]) -> None:
        for archive in archives:
            if archive.header.ledger != ledger:
                self._found.add(f"{archive.path.name} is of another ledger")

    def _report(self, ledger: str | None) -> Report:
        course = self._course
        frontier, voucher = course.tree.frontier(), course.voucher()
        return Report(
            ledger=ledger,
            size=course.tree.size,
            entries=course.entries,
            root=None if frontier is None else frontier.root(),
            epoch=course.derived.epoch,
            checkpoints=self._claims.checkpoints,
            signatures=self._claims.signatures,
            problem_count=self._found.count,
            problems=tuple(self._found.texts),
            archived=course.archived,
            removed_at=course.removed_at,
            spans=course.spans(),
            voucher=None if voucher is None else voucher.says,
        )
