"""A road passes everything on while it is good, and nothing while it is not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.detour import Detour
from tests.support.road import Road

PATIENCE = 30.0
LARGE = b"x" * 3_000_000


@contextlib.asynccontextmanager
async def echo(greeting: bytes = b"") -> AsyncIterator[int]:
    """A server that greets and says everything again; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(writer):
            writer.write(greeting)
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def said_again(port: int, text: bytes) -> bytes:
    """Say something, hang up in this direction, and return all that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def say() -> None:
        writer.write(text)
        await writer.drain()
        writer.write_eof()

    try:
        _, answer = await asyncio.wait_for(asyncio.gather(say(), reader.read(-1)), PATIENCE)
        return answer
    finally:
        writer.close()


async def test_a_good_road() -> None:
    """Everything arrives in both directions, up to the end."""
    async with echo() as port, Road([port]) as road:
        assert await said_again(road.port, LARGE) == LARGE


async def test_a_cut_road() -> None:
    """What is under way ends with a reset, and so does what comes, until it is mended."""
    async with echo() as port, Road([port]) as road:
        reader, writer = await asyncio.open_connection("127.0.0.1", road.port)
        writer.write(b"a")
        assert await reader.read(1) == b"a"
        road.cut()
        with pytest.raises(OSError, match="reset"):
            await asyncio.wait_for(reader.readexactly(1), PATIENCE)
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await said_again(road.port, b"b")
        road.mend()
        assert await said_again(road.port, b"c") == b"c"
        writer.close()


async def test_a_blocked_road() -> None:
    """Nothing arrives, in a connection that stays up; mended, it goes on where it was."""
    async with echo() as port, Road([port]) as road:
        reader, writer = await asyncio.open_connection("127.0.0.1", road.port)
        writer.write(b"a")
        assert await reader.read(1) == b"a"
        road.block()
        writer.write(b"b")
        waiting = asyncio.ensure_future(reader.read(1))
        assert not (await asyncio.wait([waiting], timeout=0.3))[0]
        road.mend()
        assert await asyncio.wait_for(waiting, PATIENCE) == b"b"
        writer.close()


async def test_a_slow_road() -> None:
    """Each direction takes longer by as much as was asked for."""
    async with echo() as port, Road([port]) as road:
        road.slow(0.2)
        before = time.monotonic()
        assert await said_again(road.port, b"a") == b"a"
        assert time.monotonic() - before >= 0.4


async def test_several_ends() -> None:
    """Connections go to all of them in turn, and past one that is gone."""
    async with echo(b"1") as one, echo(b"2") as other:
        async with Road([one, other]) as road:
            assert {await said_again(road.port, b""), await said_again(road.port, b"")} == {b"1", b"2"}
        async with echo() as gone:
            pass
        async with Road([one, gone]) as road:
            assert [await said_again(road.port, b"") for _ in range(3)] == [b"1"] * 3


async def test_a_socket_in_the_file_system(tmp_path: Path) -> None:
    """It is an end as well, and one that may be gone."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            writer.write(b"1")

    end = tmp_path / "s"
    async with await asyncio.start_unix_server(greet, end), Road([end]) as road:
        assert await said_again(road.port, b"") == b"1"
    end.unlink(missing_ok=True)
    async with Road([end]) as road:
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await said_again(road.port, b"")


def test_a_detour() -> None:
    """What one process connects to is another port, and only for this port."""

    async def ask(one: int) -> tuple[bytes, bytes]:
        async with echo(b"1") as first, echo(b"2") as second:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Detour)
            loop._around[one] = second
            return await said_again(one, b""), await said_again(first, b"")

    with asyncio.Runner(loop_factory=lambda: Detour(9, 9)) as runner:
        assert runner.run(ask(9)) == (b"2", b"1")
