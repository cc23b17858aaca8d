"""One worker as its supervisor sees it: a process, the channel to it, and what it has said of itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from broker.core.errors import BrokerError
from broker.workers.channel import Channel
from broker.workers.messages import DONE, Message, Ready

ASK_SECONDS: Final = 20.0
"""How long a worker may take to do what it is asked: to load a policy and make rules for what that narrows."""

_SUPERVISORS_OWN: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Variables by which systemd speaks to the supervisor alone."""

Command = Callable[[int], Sequence[str]]
"""Returns the command line of a worker that is given the descriptor of its channel."""

Said = Callable[[int, Channel, Message], Awaitable[Message]]
"""Answers what a worker asks; see ``Switchboard.answer``."""


class Child:
    """A worker process. Belongs to one event loop."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Use :meth:`started`."""
        self.process = process
        self.is_ready = asyncio.Event()
        self._channel: Channel | None = None
        self._talking: asyncio.Task[None] | None = None

    @classmethod
    async def started(cls, command: Command, inherits: Sequence[int], said: Said) -> Child:
        """Start a process, which inherits these descriptors and its end of a channel. Raises ``OSError``."""
        ours, theirs = socket.socketpair()
        try:
            environment = {name: value for name, value in os.environ.items() if name not in _SUPERVISORS_OWN}
            process = await asyncio.create_subprocess_exec(
                *command(theirs.fileno()), pass_fds=(theirs.fileno(), *inherits), env=environment
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        child = cls(process)
        ours.settimeout(0)

        async def answer(message: Message) -> Message:
            if isinstance(message, Ready):
                child.is_ready.set()
                return DONE
            return await said(process.pid, channel, message)

        channel = child._channel = await Channel.over(ours, answer)
        child._talking = asyncio.create_task(channel.serve())
        return child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    async def ended(self) -> int:
        """Wait until it has ended and everything that it said was heard; return its exit code."""
        code = await self.process.wait()
        if self._talking is not None:
            await asyncio.wait({self._talking})  # not the task itself: several wait here, and one may give up
        return code

    async def ready_or_ended(self) -> bool:
        """Wait until it serves; False if it ends before."""
        ready = asyncio.ensure_future(self.is_ready.wait())
        ended = asyncio.ensure_future(self.ended())
        try:
            await asyncio.wait({ready, ended}, return_when=asyncio.FIRST_COMPLETED)
            return not ended.done()
        finally:
            for each in (ready, ended):
                each.cancel()
            await asyncio.gather(ready, ended, return_exceptions=True)

    async def ask(self, message: Message) -> bool:
        """Ask it for something; whether it was done, within :data:`ASK_SECONDS`."""
        if self._channel is None:
            return False
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await self._channel.call(message)
        except (BrokerError, TimeoutError):
            return False
        return True

    async def end_within(self, seconds: float) -> int:
        """Wait until it has ended, which it was asked to do; end it without asking when the time is over."""
        try:
            async with asyncio.timeout(seconds):
                return await self.ended()
        except TimeoutError:
            self.send(signal.SIGKILL)
            return await self.ended()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
