"""Signed checkpoints: the size and root are durable before they are signed, and no size ever has two roots."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection, insert, select, update

from broker.core.errors import BrokerError, Code, Unavailable
from broker.ledger import schema
from broker.ledger.sharing.head import Head
from broker.ledger.writing.group_commit import GroupCommit
from broker.ports import Clock, SignedHead

EVERY_SECONDS: Final = 1.0
"""How often a checkpoint is made while entries are being added."""

Sign = Callable[[int, bytes], str]
"""Makes a signed note (C2SP tlog-checkpoint) of a tree's size and root."""


class Checkpoints:
    """Makes checkpoints of the head: on demand, and by itself while there is traffic."""

    def __init__(
        self,
        group: GroupCommit,
        sign: Sign | None,
        size: Callable[[], int],
        clock: Clock,
        made: Callable[[str], None],
    ) -> None:
        """``size`` returns the number of entries without reading the store; ``sign`` is None when there is no key.

        ``made`` is told each new signed checkpoint, in a thread.
        """
        self._group = group
        self._sign = sign
        self._size = size
        self._clock = clock
        self._made = made
        self._one_at_a_time = asyncio.Lock()
        self._signed: SignedHead | None = None
        self._task = None if sign is None else asyncio.create_task(self._keep_up(), name="ledger-checkpoints")

    @property
    def signed(self) -> SignedHead | None:
        """The newest head that this process has signed."""
        return self._signed

    async def make(self) -> SignedHead:
        """Return the current head, signed. Raises :class:`Unavailable`."""
        return await self.covering(self._size())

    async def covering(self, size: int) -> SignedHead:
        """Return the last signed head if it has so many entries, or else the current one. Raises :class:`Unavailable`.

        So whoever asks for what is older than the last checkpoint causes no write.
        """
        if self._sign is None:
            raise Unavailable(Code.LEDGER_UNAVAILABLE, "there is no key to sign checkpoints with")
        async with self._one_at_a_time:
            if self._signed is None or self._signed.size < size:
                self._signed = await self._make(self._sign)
            return self._signed

    async def close(self) -> None:
        """Make a last checkpoint, if the store still can, and stop."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        try:
            await self.make()
        except BrokerError:
            return  # nothing is lost: the next start signs the same head

    async def _make(self, sign: Sign) -> SignedHead:
        now = self._clock.now()
        size, root, note = await self._group.run(lambda connection: _persist(connection, now))
        if note is None:
            # Only now: the size and root are durable, so no other root can follow.
            note = signed = _signed(sign, size, root)
            await self._group.run(lambda connection: _store(connection, size, signed))
        await asyncio.to_thread(self._made, note)
        return SignedHead(size, root, note)

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                await self.make()
            except BrokerError:
                continue  # the ledger says itself that it is not well; the next second tries again


def latest_note(connection: Connection) -> str | None:
    """Return the signed checkpoint of the most entries, if there is one."""
    table = schema.checkpoints.c
    return connection.scalar(select(table.note).where(table.note.is_not(None)).order_by(table.size.desc()).limit(1))


def _signed(sign: Sign, size: int, root: bytes) -> str:
    try:
        return sign(size, root)
    except BrokerError:
        raise
    except Exception as error:
        raise Unavailable(Code.INTERNAL, "the checkpoint could not be signed") from error


def _persist(connection: Connection, now: float) -> tuple[int, bytes, str | None]:
    """Write down the current size and root, or find that they are; return them with the note, if it exists."""
    frontier = Head.read(connection).frontier
    size, root = frontier.size, frontier.root()
    table = schema.checkpoints.c
    known = connection.execute(select(table.root, table.note).where(table.size == size)).one_or_none()
    if known is None:
        connection.execute(insert(schema.checkpoints).values(size=size, root=root, note=None, at=now))
        return size, root, None
    if known.root != root:
        text = f"the ledger is damaged: the tree of {size} entries had another root when its checkpoint was made"
        raise Unavailable(Code.LEDGER_CORRUPT, text)
    return size, root, known.note


def _store(connection: Connection, size: int, note: str) -> None:
    table = schema.checkpoints
    connection.execute(update(table).where(table.c.size == size, table.c.note.is_(None)).values(note=note))
