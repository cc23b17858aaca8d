"""A whole broker on a loop in a thread of its own, for tests of code that runs a loop itself, such as commands."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from broker.http.surface import Services
from broker.ports import Backend
from tests.support.broker_app import BrokerApp, Template, running_app

START_SECONDS = 30.0

T = TypeVar("T")


class BrokerThread:
    """A running broker, its folder, and a way to ask it things on its own loop."""

    def __init__(self, app: BrokerApp, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        """Use :func:`broker_thread`."""
        self.app = app
        self.folder = folder
        self._loop = loop

    @property
    def issuer(self) -> str:
        """The issuer URL."""
        return self.app.issuer

    @property
    def config(self) -> Path:
        """The settings file; the port in it is another one."""
        return self.folder / "broker.toml"

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.app.broker.config.listen.port

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the broker's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_SECONDS)

    def entries(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the ledger's entries, oldest first."""
        return self.run(self.app.entries(kind))


@contextmanager
def broker_thread(
    template: Template,
    folder: Path,
    *,
    adjust: Callable[[Services], Services] = lambda services: services,
    own_backends: Mapping[str, Backend] | None = None,
) -> Iterator[BrokerThread]:
    """Run a broker on a copy of ``template`` in ``folder``."""
    ready = threading.Event()
    running: list[BrokerThread] = []
    stop = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        try:
            async with running_app(template, folder, adjust=adjust, own_backends=own_backends) as app:
                running.append(BrokerThread(app, folder, loops[0]))
                ready.set()
                await stop.wait()
        finally:
            ready.set()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="broker")
    thread.start()
    try:
        assert ready.wait(START_SECONDS)
        assert running, "the broker did not start"
        yield running[0]
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(START_SECONDS)
