"""An HTTP receiver on loopback that answers as it is told to, and keeps what it has accepted."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web


@dataclass
class Got:
    """A request."""

    path: str
    headers: dict[str, str]
    body: str

    @property
    def lines(self) -> list[str]:
        """The lines of the body."""
        return self.body.splitlines()


Judge = Callable[[Got], Awaitable[web.Response]]


async def accept(_: Got) -> web.Response:
    """Accept it."""
    return web.Response()


@dataclass
class HttpServer:
    """``judge`` answers; what it answers with a 2xx is in ``accepted``.

    Once that is ``stops_at`` lines, nothing is answered any more.
    """

    judge: Judge = accept
    url: str = ""
    stops_at: int | None = None
    asked: list[Got] = field(default_factory=list)
    accepted: list[Got] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def lines(self) -> list[str]:
        """The lines of all bodies that were accepted."""
        return [line for got in self.accepted for line in got.lines]

    async def stopped(self) -> None:
        """Wait until nothing is answered any more."""
        await self.until(self._is_enough)

    def _is_enough(self) -> bool:
        return self.stops_at is not None and len(self.lines) >= self.stops_at

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that is about what was received."""
        async with self.changed:
            await self.changed.wait_for(holds)

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a request."""
        got = Got(request.path, dict(request.headers), await request.text())
        self.asked.append(got)
        await self._tell()
        if self._is_enough():
            await asyncio.Event().wait()
        answer = await self.judge(got)
        if answer.status < 300:
            self.accepted.append(got)
        await self._tell()
        return answer

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@asynccontextmanager
async def http_server(
    judge: Judge = accept, *, certificate: tuple[Path, Path] | None = None
) -> AsyncIterator[HttpServer]:
    """Run a receiver; with a certificate over TLS."""
    server = HttpServer(judge)
    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_post("/{path:.*}", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    server.url = f"http{'' if certificate is None else 's'}://127.0.0.1:{port}"
    try:
        yield server
    finally:
        await runner.cleanup()
