"""A syslog receiver of entries. None acknowledges anything, so that after a break the last part is sent again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from broker.core.errors import Unavailable
from broker.core.exporting import syslog_message
from broker.delivery.receiver import Accepted, Later, Line, Outcome
from broker.delivery.syslog import SyslogSender

WINDOW: Final = 4 * 1024 * 1024
"""Bytes that may be on their way in a connection: more than Linux lets two ends of one keep by default."""


class SyslogReceiver:
    """Sends entries as messages."""

    def __init__(self, sender: SyslogSender) -> None:
        """``sender`` belongs to this receiver from now on."""
        self._sender = sender
        self.window = WINDOW if sender.is_stream else 0

    @property
    def broken(self) -> bool:
        """See the port."""
        return self._sender.broken

    async def send(self, lines: Sequence[Line]) -> Outcome:
        """See the port."""
        try:
            await self._sender.send([syslog_message(line.event, line.text) for line in lines])
        except Unavailable as error:
            return Later(error.public)
        return Accepted()

    async def finish(self) -> bool:
        """See the port."""
        return await self._sender.finish()
