"""A relay of the feed that knows nothing but where an event ends: it has no keys, and reads no statement."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web


class Relay:
    """Follows one stream, keeps the newest snapshot, what came after it, and the last heartbeat; serves many."""

    def __init__(self, upstream: aiohttp.ClientResponse) -> None:
        self._upstream = upstream
        self.kept: list[bytes] = []
        self._readers: set[asyncio.Queue[bytes]] = set()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self._following = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()

    async def _follow(self) -> None:
        while event := await self._upstream.content.readuntil(b"\n\n"):
            if b"event: snapshot\n" in event:
                self.kept = [event]
            elif b"event: heartbeat\n" in event:
                self.kept = [each for each in self.kept if b"event: heartbeat\n" not in each] + [event]
            else:
                self.kept.append(event)
            for reader in self._readers:
                reader.put_nowait(event)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        for event in self.kept:
            queue.put_nowait(event)
        self._readers.add(queue)
        while True:
            await response.write(await queue.get())
