"""Signals that are for the program that a command runs: held back from the command itself, and told with their origin.

A terminal sends its signals to every process of the foreground group, so that the program has them already; what
another process sends, it sends to us alone. Only the kernel knows which is which, and tells it with the signal.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final


def known(*names: str) -> frozenset[signal.Signals]:
    """Return those of the named signals that this system has."""
    return frozenset(number for number in signal.Signals if number.name in names)


HELD: Final = known("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGWINCH", "SIGUSR1", "SIGUSR2")
"""Signals that are for the program."""

ENDING: Final = known("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
"""Signals that end a command that has not started its program yet."""

_FROM_KERNEL: Final = 0  # a process's own code is 0 or below (sigaction(2)), the kernel's are above


@dataclass(frozen=True, slots=True)
class Received:
    """A signal; ``by_kernel`` says that no process sent it: a key at the terminal, or the terminal itself."""

    number: signal.Signals
    by_kernel: bool


class HeldSignals:
    """Signals that are held, until somebody listens. Use :func:`held_signals`."""

    def __init__(self, numbers: frozenset[signal.Signals]) -> None:
        """``numbers`` are blocked in this thread, and in all that it starts."""
        self._numbers = numbers

    @contextmanager
    def heard(self, tell: Callable[[Received], None]) -> Iterator[None]:
        """Tell each signal on the running loop, for as long as the block lasts."""
        if not self._numbers:
            yield
            return
        listener = _Listener(self._numbers, asyncio.get_running_loop(), tell)
        listener.start()
        try:
            yield
        finally:
            listener.end()


@contextmanager
def held_signals() -> Iterator[HeldSignals]:
    """Hold back the signals of :data:`HELD` that are not ignored anyway; those that come too late are dropped."""
    numbers = frozenset(number for number in HELD if signal.getsignal(number) is not signal.SIG_IGN)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield HeldSignals(numbers)
    finally:
        while signal.sigpending() & numbers:
            signal.sigwait(numbers)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Listener(threading.Thread):
    """Waits for signals, which a loop cannot do with their origin."""

    def __init__(
        self, numbers: frozenset[signal.Signals], loop: asyncio.AbstractEventLoop, tell: Callable[[Received], None]
    ) -> None:
        super().__init__(name="signals", daemon=True)
        self._numbers = numbers
        self._loop = loop
        self._tell = tell
        self._over = False

    def run(self) -> None:
        while True:
            received = _next(self._numbers)
            if self._over:
                return
            self._loop.call_soon_threadsafe(self._tell, received)

    def end(self) -> None:
        """Wake it up, and wait until it has gone."""
        self._over = True
        os.kill(os.getpid(), min(self._numbers))  # held, so that it reaches nobody else
        self.join()


def _next(numbers: frozenset[signal.Signals]) -> Received:
    info = signal.sigwaitinfo(numbers)
    return Received(signal.Signals(info.si_signo), by_kernel=info.si_code > _FROM_KERNEL)
