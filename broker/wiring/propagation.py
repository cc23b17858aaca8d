"""Composing who is there, and who has applied a rule. No logic."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from typing import Final

from broker import __version__
from broker.config import Config
from broker.core.propagation import Replica
from broker.ledger.store import SqlLedger
from broker.metrics import Metrics
from broker.policy_control import PolicyControl
from broker.ports import Events, Revocations, Server
from broker.propagation import Acknowledging, Limits, OwnReplica, Propagations
from broker.timing import SYSTEM

LOCAL: Final = "local"
"""What the one replica of a ledger in a file is called, whatever its processes."""


@dataclass(frozen=True, slots=True)
class OpenPropagation:
    """The parts that tell who has applied a rule."""

    propagations: Propagations
    acknowledging: Acknowledging
    own: OwnReplica

    async def close(self) -> None:
        """Write what is waiting, and record what is not recorded yet."""
        await self.acknowledging.close()
        await self.propagations.close()


def open_propagation(  # noqa: PLR0913 - a composition root passes each part by name
    config: Config,
    ledger: SqlLedger,
    revocations: Revocations,
    policy_control: PolicyControl,
    *,
    since: float | None,
    marks_key: bytes,
    metrics: Metrics,
    events: Events,
) -> OpenPropagation:
    """Return what follows rules. Nothing is told to anybody yet.

    ``since`` (Unix seconds) is when the first of the processes began that share a file; None if this one is alone.
    """
    began = SYSTEM.wall() if since is None else since
    host, process = socket.gethostname(), os.getpid()
    # A ledger in a file belongs to the processes of one host, none of which answers from older rules than its last.
    own_id, max_staleness = LOCAL, 0.0
    if isinstance(config.ledger, Server):
        own_id, max_staleness = f"replica_{secrets.token_hex(8)}", config.ledger.max_staleness

    def now() -> Replica:
        return Replica(
            id=own_id,
            host=host,
            pid=process,
            version=__version__,
            policy=policy_control.current().digest,
            epoch=revocations.rules.epoch,
            max_staleness=max_staleness,
            known=max(0.0, SYSTEM.wall() - began),
        )

    own = OwnReplica(ledger, now, elapsed=SYSTEM.elapsed, events=events)
    propagations = Propagations(
        presence=ledger,
        revocations=revocations,
        ledger=ledger,
        own=own,
        timing=SYSTEM,
        meter=metrics,
        events=events,
    )
    acknowledging = Acknowledging(
        ledger,
        marks_key=marks_key,
        limits=Limits(seconds=config.feed.forget_seconds),
        timing=SYSTEM,
        meter=metrics,
        events=events,
        written=propagations.news,
    )
    return OpenPropagation(propagations, acknowledging, own)
