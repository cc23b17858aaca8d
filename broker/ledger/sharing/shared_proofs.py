"""Used DPoP proofs of all replicas on one database: rows of ``single_use``, made beside the head's lock.

What is used is durable before it is accepted, as far as a commit of that server is. Each replica remembers its own
besides, which bounds what one agent can write, and tells what was used here without asking.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from broker.core.used_proofs import ProofUse, UsedProofs
from broker.ledger.databases.clock_difference import ClockDifference
from broker.ledger.databases.postgresql_sessions import connect
from broker.ports import Server

if TYPE_CHECKING:
    import psycopg

_MOST_AT_ONCE: Final = 512

# In the order of the keys, so that of two that insert the same ones none waits for what the other waits for.
_USE: Final = """
INSERT INTO single_use (key, expires_at) SELECT * FROM unnest(%s::bytea[], %s::bigint[]) AS used (key, ends)
ORDER BY used.key ON CONFLICT DO NOTHING RETURNING key
"""


@dataclass(frozen=True, slots=True)
class _Asked:
    key: bytes
    forget_at: int
    answer: asyncio.Future[ProofUse]


class SharedProofs:
    """Implements ``ProofMemory`` among replicas, in a thread with a session of its own. Belongs to one event loop."""

    def __init__(self, server: Server, clocks: ClockDifference, *, since: float) -> None:
        """``since`` (Unix seconds) is when this process begins to remember its own."""
        self._server = server
        self._clocks = clocks
        self._own = UsedProofs(since=since)
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Asked | None] = SimpleQueue()
        self._session: psycopg.Connection[Any] | None = None
        # A daemon: a server that does not answer must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="ledger-proofs", daemon=True)
        self._thread.start()

    async def use(self, agent: str, key: bytes, expires_at: int, now: float) -> ProofUse:
        """Use a proof up among all replicas; see the port.

        A clock that is too wrong could take a proof that the others have forgotten. So it decides nothing.
        """
        use = await self._own.use(agent, key, expires_at, now)
        if use is not ProofUse.FRESH:
            return use
        if self._clocks.problem is not None:
            return ProofUse.UNCERTAIN
        # A clock that is behind by as much as it may be takes the proof for as long; so does that of who forgets it.
        forget_at = expires_at + ceil(2 * self._server.max_clock_difference)
        asked = _Asked(_key(key), forget_at, self._loop.create_future())
        self._queue.put(asked)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._server.max_staleness):
                return await asked.answer
        return ProofUse.UNCERTAIN

    async def close(self) -> None:
        """Remember no more. Who waits for a server that does not answer is not waited for."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, self._server.max_staleness)

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (asked := self._take()) is not None:
            wanted = [each for each in asked if not each.answer.done()]
            try:
                fresh = self._use(wanted) if wanted else frozenset()
                uses = [ProofUse.FRESH if each.key in fresh else ProofUse.USED for each in wanted]
            except Exception:  # noqa: BLE001 - nothing is accepted by it; the watch over the ledger says what is wrong
                self._end_session()  # it may be with a server that is a standby now
                uses = [ProofUse.UNCERTAIN for _ in wanted]
            self._answer(wanted, uses)
        self._end_session()

    def _take(self) -> Sequence[_Asked] | None:
        """Wait for work, then take all there is; None when there will be no more."""
        first = self._queue.get()
        taken = [first, *(self._queue.get_nowait() for _ in range(min(self._queue.qsize(), _MOST_AT_ONCE)))]
        asked = [each for each in taken if each is not None]
        if len(asked) < len(taken):
            self._queue.put(None)  # again, after what was asked before
        return asked or None

    def _use(self, asked: Sequence[_Asked]) -> frozenset[bytes]:
        """Return which keys nobody had used. They are used then, durably."""
        import psycopg  # noqa: PLC0415 - optional, as for every session

        if self._session is not None:
            with suppress(psycopg.OperationalError):
                return self._insert(self._session, asked)
            # Lost since it was used last. If these were written by it, they count as used, which is on the safe side.
            self._end_session()
        self._session = connect(self._server)
        self._session.autocommit = True
        return self._insert(self._session, asked)

    def _insert(self, session: psycopg.Connection[Any], asked: Sequence[_Asked]) -> frozenset[bytes]:
        columns = ([each.key for each in asked], [each.forget_at for each in asked])
        return frozenset(row[0] for row in session.execute(_USE, columns).fetchall())

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _answer(self, asked: Sequence[_Asked], uses: Sequence[ProofUse]) -> None:
        def on_loop() -> None:
            for each, use in zip(asked, uses, strict=True):
                if not each.answer.done():
                    each.answer.set_result(use)

        with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(on_loop)


def _key(key: bytes) -> bytes:
    """Return the key under which a proof is used up at the broker's API: none that a writing transaction uses."""
    return hashlib.sha256(b"api\n" + key).digest()
