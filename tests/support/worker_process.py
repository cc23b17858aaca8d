"""A worker that does nothing but what its argument says, for tests of the supervisor: ``CHANNEL WAY FILE``.

It adds a line with its process id to the file when it begins. The ways: ``serves`` until SIGTERM; ``fails`` before it
serves; ``stays`` whatever it is told; ``dies`` once it has served for a moment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from broker.workers.channel import Channel
from broker.workers.messages import DONE, Message, Ready, Retire


async def main(descriptor: int, way: str, begun: Path) -> int:
    """Live as told; return the exit code."""
    with begun.open("a") as file:
        file.write(f"{os.getpid()}\n")
    over = asyncio.Event()

    async def answer(message: Message) -> Message:
        if isinstance(message, Retire):
            over.set()
        return DONE

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, (lambda: None) if way == "stays" else over.set)
    if way == "fails":
        return 7
    channel = await Channel.over(socket.socket(fileno=descriptor), answer)
    talking = asyncio.create_task(channel.serve())
    talking.add_done_callback(lambda _: over.set())
    await channel.call(Ready())
    if way == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    await over.wait()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))))
