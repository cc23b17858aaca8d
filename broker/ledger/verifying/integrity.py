"""Whether the ledger in use is sound: what is known of that, and finding it out beside everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection

from broker.core.errors import Code, Unavailable
from broker.core.soundness import Fault, Unsound
from broker.core.tree_head import KnownHead
from broker.ledger.databases.engines import examining_engine
from broker.ledger.opening import Opened
from broker.ledger.reading.reader import Reader
from broker.ledger.verifying import outside
from broker.ledger.verifying.claims import OpenNote
from broker.ledger.verifying.examining import Examination
from broker.ledger.verifying.high_water import HighWater
from broker.ledger.verifying.last_check import LastCheck, LastCheckFile
from broker.ledger.writing.writer import Writer
from broker.ports import Clock, beside


class Integrity:
    """Implements the port ``SelfExamined``. Belongs to the event loop that opened the ledger."""

    def __init__(self, opened: Opened, writer: Writer, clock: Clock, open_note: OpenNote | None) -> None:
        """``open_note`` verifies the signatures of checkpoints, if there are keys to do so."""
        self._writer = writer
        self._clock = clock
        self._open_note = open_note
        self._high_water = HighWater(beside(opened.place))
        self._last_check = LastCheckFile(beside(opened.place))
        self._reader = Reader(examining_engine(opened.place))
        self._known_problem = opened.unsound
        self._is_remembered = opened.is_remembered
        if opened.unsound is not None:
            writer.condemn(_refusal(opened.unsound))

    @property
    def unsound(self) -> Unsound | None:
        """Why the ledger must not be built upon; None if nothing is known against it."""
        refusal = self._writer.condemned
        if refusal is None or self._known_problem is not None:
            return self._known_problem
        return Unsound(Fault.DAMAGED, (refusal.public,))

    @property
    def is_remembered(self) -> bool:
        """Whether all that is known against it is what others knew when an earlier process asked them."""
        return self._is_remembered

    async def contradictions(self, known: Mapping[str, KnownHead]) -> Sequence[str]:
        """Return what others know that the ledger's own checkpoints do not confirm. Raises ``Unavailable``."""
        everything = self._all_known(known)
        return await self._reader.read(lambda connection: list(outside.contradictions(connection, everything)))

    async def examine(self, known: Mapping[str, KnownHead]) -> RunningExamination:
        """Begin to examine everything, with what others know of the ledger by now. Raises ``Unavailable``."""
        running = RunningExamination(self._reader, Examination(self._open_note, self._all_known(known), growing=True))
        await running.begin()
        return running

    async def passed(self, entries: int) -> None:
        """Note that so many entries, and all that belongs to them, were found sound."""
        await self._note(LastCheck(at=self._clock.now(), entries=entries))

    async def condemn(self, unsound: Unsound, entries: int) -> None:
        """Let nothing be written any more, nor after a restart."""
        self._known_problem, self._is_remembered = unsound, False
        self._writer.condemn(_refusal(unsound))
        await self._note(
            LastCheck(at=self._clock.now(), entries=entries, fault=unsound.fault, problems=unsound.problems)
        )

    async def absolve(self, entries: int) -> None:
        """Forget what an earlier process had heard: it does not hold any more."""
        if self._is_remembered:
            self._known_problem, self._is_remembered = None, False
            self._writer.absolve()
            await self.passed(entries)

    async def heed(self) -> None:
        """Take over what another process of this ledger has found of it: what was noted beside it says so."""
        check = await asyncio.to_thread(self._last_check.read)
        if check is None:
            return
        found = check.unsound
        if found is not None and self.unsound is None:
            self._known_problem = found
            self._writer.condemn(_refusal(found))
        elif found is None and self._is_remembered:
            self._known_problem, self._is_remembered = None, False
            self._writer.absolve()

    def kept_beside(self, note: str) -> None:
        """Keep a new checkpoint beside the ledger, by which an older one shows that is put in its place."""
        self._high_water.rise(note)

    async def close(self) -> None:
        """Wait for what is being read."""
        await self._reader.close()

    def _all_known(self, known: Mapping[str, KnownHead]) -> Mapping[str, KnownHead]:
        # Read before the ledger is: what is written beside it meanwhile, the ledger has by then.
        return {**self._high_water.known(), **known}

    async def _note(self, check: LastCheck) -> None:
        await asyncio.to_thread(self._last_check.write, check)


class RunningExamination:
    """An examination of a ledger that goes on being written; implements the port ``Examining``."""

    def __init__(self, reader: Reader, examination: Examination) -> None:
        """``reader`` runs each piece in a thread and in a transaction of its own."""
        self._reader = reader
        self._examination = examination

    @property
    def entries(self) -> int:
        """How many entries were gone through."""
        return self._examination.entries

    async def begin(self) -> None:
        """Look at what does not depend on how many entries there are. Raises ``Unavailable``."""
        await self._read(self._examination.begin)

    async def step(self, limit: int) -> int:
        """Examine the next entries, ``limit`` at most; return how many there were. Raises ``Unavailable``."""
        before = self.entries
        await self._read(lambda connection: self._examination.step(connection, limit))
        return self.entries - before

    async def finish(self) -> Unsound | None:
        """Examine what is not an entry; return what is wrong. Raises ``Unavailable``."""
        await self._read(self._examination.finish)
        return self._examination.verdict()

    async def _read(self, work: Callable[[Connection], object]) -> None:
        try:
            await self._reader.read(work, slow=True)
        except Unavailable:
            # A damaged file cannot even end a transaction; that it is damaged was found by then.
            if self._examination.is_readable:
                raise


def _refusal(unsound: Unsound) -> Unavailable:
    return Unavailable(Code.LEDGER_CORRUPT, unsound.public)
