"""Running another program as if it had been started itself: same terminal, same signals, same end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from broker.cli.outcome import unusable
from broker.cli.signals import Received, known

SIGNALLED: Final = 128
"""What is added to the number of the signal that ended a program, as shells do."""

TERMINAL: Final = "/dev/tty"
_TO_THE_GROUP: Final = known("SIGINT", "SIGQUIT", "SIGWINCH")
"""What a terminal sends to the whole foreground group; that it is gone, it tells the session's leader alone."""

_CHANGED_BY_PYTHON: Final = known("SIGPIPE", "SIGXFSZ")


def check_program(command: Sequence[str]) -> None:
    """Raise ``Failure`` if there is no such program, or if programs cannot be run so on this system."""
    if not hasattr(os, "posix_spawnp") or not hasattr(signal, "sigwaitinfo"):
        raise unusable("exec: this system cannot pass signals on to a program", "not_supported")
    if shutil.which(command[0]) is None:
        raise unusable(f"{command[0]}: no such program", "program_unusable")


class Child:
    """A program that was started.

    Where there is a terminal, the program is of our own process group, so that job control works for both alike, and
    what the terminal sends to the group is not passed on: the program has it. Where there is none, it gets a group of
    its own: what anybody sends to us, or to our group, reaches it once, through us.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it. Raises ``Failure`` if that is not possible."""
        self._has_terminal = _has_terminal()
        spawn = partial(
            os.posix_spawnp, command[0], list(command), environment, setsigmask=[], setsigdef=_CHANGED_BY_PYTHON
        )
        try:
            self._pid = spawn() if self._has_terminal else spawn(setpgroup=0)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "an argument that no program can be given"
            raise unusable(f"{command[0]}: cannot be started ({why})", "program_unusable") from error
        self._is_over = False

    def pass_on(self, received: Received) -> None:
        """Send a signal on to the program, unless it has had it."""
        is_the_terminals = self._has_terminal and received.by_kernel and received.number in _TO_THE_GROUP
        if self._is_over or is_the_terminals:
            return
        with suppress(ProcessLookupError, PermissionError):  # it has other rights now, or nothing is left of its group
            if self._has_terminal:
                os.kill(self._pid, received.number)
            else:
                os.killpg(self._pid, received.number)

    async def ended(self) -> int:
        """Wait for its end and return its exit code, as a shell would tell it."""
        # It stays a zombie while a thread waits, so that its number cannot become another process's.
        await asyncio.to_thread(os.waitid, os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        self._is_over = True
        return self._exit_code()

    def _exit_code(self) -> int:
        _, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else SIGNALLED - code


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
