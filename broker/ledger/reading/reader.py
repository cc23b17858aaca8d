"""Run reads in a few threads of their own, beside the writer, each seeing one state of the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from broker.core.errors import Code, Refused, Unavailable
from broker.ledger.databases.failures import unavailable

_QUICK_THREADS: Final = 2
_SLOW_THREADS: Final = 1

T = TypeVar("T")


class Reader:
    """Read transactions. Nothing that runs here can write."""

    def __init__(self, engine: Engine) -> None:
        """``engine`` gives connections that cannot write."""
        self._engine = engine
        self._quick = ThreadPoolExecutor(_QUICK_THREADS, thread_name_prefix="ledger-reader")
        self._slow = ThreadPoolExecutor(_SLOW_THREADS, thread_name_prefix="ledger-slow-reader")
        self._closed = False

    async def read(self, query: Callable[[Connection], T], *, slow: bool = False) -> T:
        """Run a query in one read transaction. ``slow`` ones, which go through many entries, wait for each other only.

        Raises :class:`Unavailable` if the store cannot be read, and lets the query's own :class:`Refused` pass.
        """
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._slow if slow else self._quick, self._run, query)

    async def close(self) -> None:
        """Wait for running reads, then close the connections. Those that have not begun are refused."""
        self._closed = True
        await asyncio.to_thread(self._quick.shutdown)
        await asyncio.to_thread(self._slow.shutdown)
        self._engine.dispose()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(Code.STOPPING, "the broker is stopping")

    def _run(self, query: Callable[[Connection], T]) -> T:
        self._check_open()
        try:
            return self._read(query)
        except Refused:
            raise
        except Exception as error:
            raise unavailable(error) from error

    def _read(self, query: Callable[[Connection], T]) -> T:
        try:
            with self._engine.begin() as connection:
                return query(connection)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        # The server ended that session since it was used last. The others in the pool are gone with it.
        with self._engine.begin() as connection:
            return query(connection)
