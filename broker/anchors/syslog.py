"""An anchor that is a syslog receiver: a message for each checkpoint, to wherever logs are kept.

The text of a message is a JSON object in ASCII with ``note``, the signed checkpoint as it is; size and root also stand
in the structured data, for people who search.
"""

from __future__ import annotations

import json
from typing import Final

from broker.core.errors import AnchorFailed, Code, Unavailable
from broker.core.syslog import Message, Severity
from broker.delivery.syslog import SyslogSender, SyslogTarget
from broker.ports import Clock, Placed, Prove, SignedHead

KIND: Final = "ledger.checkpoint"


class SyslogAnchor:
    """Sends messages (port ``Anchor``), each over a connection of its own, whose end confirms that it was read."""

    remembers: Final = False

    def __init__(self, target: SyslogTarget, *, clock: Clock) -> None:
        """Nothing is opened before the first call."""
        self._target = target
        self._clock = clock

    async def place(self, checkpoint: SignedHead, _prove: Prove, /) -> Placed:
        """Send a checkpoint. A receiver that is connected to must have read it; of datagrams nobody ever knows."""
        try:
            async with SyslogSender(self._target) as sender:
                await sender.send([self._message(checkpoint)])
                read = await sender.finish()
        except Unavailable as error:
            raise AnchorFailed(Code.ANCHOR_UNAVAILABLE, error.public) from error
        except OSError as error:
            raise AnchorFailed(Code.ANCHOR_REFUSED, "a file for TLS cannot be used") from error
        if sender.is_stream and not read:
            raise AnchorFailed(Code.ANCHOR_UNAVAILABLE, "the receiver did not confirm that it has read the checkpoint")
        known = "read by the receiver" if read else "sent; nobody says whether it arrived"
        return Placed(f"{self._target.transport}: {self._target.place}: {known}")

    async def latest(self) -> None:
        """A syslog receiver only takes: there is nothing to ask it (see ``remembers``)."""

    async def close(self) -> None:
        """There is nothing to give back: no connection outlives a call."""

    def _message(self, checkpoint: SignedHead) -> Message:
        return Message(
            severity=Severity.INFORMATIONAL,
            milliseconds=int(self._clock.now() * 1000),
            kind=KIND,
            data={"size": str(checkpoint.size), "root": checkpoint.root.hex()},
            text=json.dumps({"note": checkpoint.note}, ensure_ascii=True),
        )
