"""A proxy before a real OpenBao that answers some paths as badly as it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from aiohttp import web

MEBIBYTE = 1024 * 1024

Fault = Callable[["FaultyVault", web.Request], Awaitable[web.StreamResponse]]


@dataclass
class FaultyVault:
    """Use it as a context. ``faults`` answer in place of a path (without ``v1/``); ``asked`` is what was asked for."""

    behind: str
    faults: dict[str, Fault] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    url: str = ""
    _runner: web.AppRunner | None = None
    _session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        application = web.Application()
        application.router.add_route("*", "/v1/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        assert self._session is not None
        await self._runner.cleanup()
        await self._session.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        self.asked.append(path)
        fault = self.faults.get(path)
        return await self.forward(request) if fault is None else await fault(self, request)

    async def forward(self, request: web.Request) -> web.Response:
        """Ask the real server."""
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.startswith("X-Vault")}
        async with self._session.request(
            request.method, f"{self.behind}{request.rel_url}", data=await request.read(), headers=headers
        ) as answer:
            return web.Response(status=answer.status, body=await answer.read(), content_type="application/json")

    async def send(self, response: web.StreamResponse) -> None:
        """Send a mebibyte of nothing."""
        await response.write(b" " * MEBIBYTE)
        self.sent += MEBIBYTE


def saying(status: int, body: Any = None, **headers: str) -> Fault:  # noqa: ANN401 - JSON
    """Answer with a status and a JSON body."""

    async def fault(vault: FaultyVault, request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(body, status=status, headers=named)

    return fault


def text(body: bytes, **headers: str) -> Fault:
    """Answer with bytes as they are."""

    async def fault(vault: FaultyVault, request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=body, headers=named)

    return fault


async def ten_megabytes(vault: FaultyVault, request: web.Request) -> web.StreamResponse:
    """Announce 10 MB and send them."""
    response = web.StreamResponse(headers={"Content-Length": str(10 * MEBIBYTE)})
    await response.prepare(request)
    for _ in range(10):
        await vault.send(response)
    return response


async def endless(vault: FaultyVault, request: web.Request) -> web.StreamResponse:
    """Send as fast as it is taken, without a word of how much it will be."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await vault.send(response)


async def dripping(vault: FaultyVault, request: web.Request) -> web.StreamResponse:
    """Send a byte at a time, each soon enough."""
    response = web.StreamResponse(headers={"Content-Length": "100000"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


async def hanging(vault: FaultyVault, request: web.Request) -> web.StreamResponse:
    """Say nothing."""
    await asyncio.Event().wait()
    raise AssertionError


async def hanging_up(vault: FaultyVault, request: web.Request) -> web.StreamResponse:
    """Close the connection without a word."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def done_but_lost(vault: FaultyVault, request: web.Request) -> web.StreamResponse:
    """Let the real server do it, and lose its answer."""
    await vault.forward(request)
    return await hanging_up(vault, request)
