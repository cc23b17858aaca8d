"""The processes of a run besides the brokers; forked from one that has everything loaded, so that many are cheap."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from typing import Any, Final

_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.chaos.verifying", "tests.chaos.revoking"])


@dataclass
class Hand:
    """One process, which runs ``does`` and can be started anew."""

    name: str
    does: Callable[..., None]
    arguments: tuple[Any, ...]
    settings: Mapping[str, Any]
    process: ForkServerProcess = field(init=False)

    def start(self) -> None:
        """Start it, and do not wait for anything."""
        self.process = _FORKS.Process(target=self.does, args=self.arguments, kwargs=dict(self.settings), daemon=True)
        self.process.start()

    def kill(self) -> None:
        """End it without any warning."""
        self.process.kill()
        self.process.join()

    def signal(self, which: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, which)
