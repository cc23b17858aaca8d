"""Telling the broker which rules are applied here, so that it can say when a revocation has reached everybody."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import socket
from typing import Any, Final

from broker.core.errors import BrokerError, Malformed
from broker.core.pacing import Backoff, Timing
from broker.core.propagation import is_verifier_name
from broker.verifier.following import follow
from broker.verifier.source import Source
from broker.verifier.view import View

EVERY_SECONDS: Final = 5.0
"""A sign of life is sent so often, when there is no other news."""

LEAVING_SECONDS: Final = 1.0
"""How long closing waits for the broker to hear of it."""

_BACKOFF: Final = Backoff(first=0.25, longest=EVERY_SECONDS)
_log: Final = logging.getLogger("broker.verifier")


class Acknowledging:
    """Sends acknowledgements. That one cannot be sent never keeps anybody from verifying."""

    def __init__(self, *, source: Source, view: View, name: str | None, max_age: float, timing: Timing) -> None:
        """``name`` tells this process from others of the same agent; by default it is the host's and a random part.

        After ``max_age`` seconds without news this process refuses everything. Raises ``Malformed`` for a bad name.
        """
        self.name = _own_name() if name is None else name
        if not is_verifier_name(self.name):
            raise Malformed("name: must be 1 to 64 letters, digits, dots, underscores and hyphens")
        self._source = source
        self._view = view
        self._max_age = max_age
        self._timing = timing
        self._applied = asyncio.Event()
        self.tried = asyncio.Event()
        """Set once the broker has answered the first acknowledgement, or could not be told."""
        self._told: int | None = None

    def applied(self) -> None:
        """The view has changed: the broker is to hear of it at once, if it has not heard of this epoch."""
        if self._view.epoch != self._told:
            self._applied.set()

    async def follow(self) -> None:
        """Acknowledge each new epoch, and give signs of life, until cancelled."""
        await follow(
            "acknowledging rules",
            self._acknowledge,
            every=EVERY_SECONDS,
            backoff=_BACKOFF,
            timing=self._timing,
            rest=self._rest,
        )

    async def leave(self) -> None:
        """Tell the broker that this process accepts nothing any more, if it can be told at once."""
        if self._view.epoch is None:
            return
        try:
            async with asyncio.timeout(LEAVING_SECONDS):
                await self._source.acknowledge({"verifier": self.name, "leaving": True})
        except (BrokerError, TimeoutError):
            _log.debug("the broker could not be told that this verifier leaves")
        except Exception as error:  # noqa: BLE001 - as above
            _log.debug("the broker could not be told that this verifier leaves: %s", type(error).__name__)

    async def _acknowledge(self) -> None:
        self._applied.clear()
        self._told = epoch = self._view.epoch
        if epoch is not None:
            told: dict[str, Any] = {
                "verifier": self.name,
                "epoch": epoch,
                "mark": self._view.mark,
                "max_age": self._max_age,
            }
            try:
                await self._source.acknowledge(told)
            finally:
                self.tried.set()

    async def _rest(self) -> None:
        """Wait until there is news, or a sign of life is due."""
        waits = {
            asyncio.ensure_future(self._timing.sleep(EVERY_SECONDS)),
            asyncio.ensure_future(self._applied.wait()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _own_name() -> str:
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:48]
    return f"{host or 'host'}-{secrets.token_hex(4)}"
