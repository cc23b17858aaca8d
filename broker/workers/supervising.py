"""Composing a supervisor: the port and the metrics' port are taken once, and the workers are told about them."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from broker import __version__
from broker.clock import SystemClock
from broker.config import Config
from broker.core.errors import Code, Unavailable
from broker.core.used_proofs import UsedProofs
from broker.ledger.sharing.family import Elder
from broker.logs import configure
from broker.ports import Server
from broker.timing import SYSTEM
from broker.workers.child import Command
from broker.workers.listening import listen
from broker.workers.station import Station
from broker.workers.supervisor import Plan, Supervisor
from broker.workers.switchboard import Switchboard

SPARE_SECONDS = 10.0
"""What a worker may need to end beside answering what it has accepted: jobs end, a last checkpoint is placed."""


async def supervise(config: Config, path: Path, port: int | None) -> int:
    """Serve with several workers, each of which reads the settings in ``path`` by itself, until SIGTERM or SIGINT.

    SIGHUP reloads the policy and the certificate; SIGUSR2 replaces the workers one by one. Returns the exit code.
    Raises ``OSError`` if the address cannot be had, and ``Unavailable`` if the ledger cannot.
    """
    events = configure(config.log.level)
    clock = SystemClock()
    since = clock.now()
    if isinstance(config.ledger, Server):
        raise Unavailable(Code.LEDGER_UNAVAILABLE, "workers share a ledger file, and this ledger is in a database")
    with ExitStack() as stack:
        elder = await asyncio.to_thread(Elder.take, config.ledger, clock)
        stack.callback(elder.release)
        public = [stack.enter_context(each) for each in listen(config.listen.host, config.listen.port)]
        private = []
        if config.listen.metrics is not None:
            private = [stack.enter_context(each) for each in listen(*config.listen.metrics_address())]

        def command(place: int, replaces: bool) -> Command:  # noqa: FBT001 - told by position
            def of(channel: int) -> Sequence[str]:
                station = Station(
                    config=str(path.absolute()),
                    port=port,
                    workers=config.workers.count,
                    place=place,
                    replaces=replaces,
                    since=since,
                    channel=channel,
                    lock=elder.family.lock,
                    board=elder.family.board,
                    public=tuple(each.fileno() for each in public),
                    private=tuple(each.fileno() for each in private),
                )
                return (sys.executable, "-m", "broker.cli.worker", station.to_text())

            return of

        plan = Plan(
            count=config.workers.count,
            command=command,
            inherits=[each.fileno() for each in (*public, *private)] + list(elder.family.descriptors),
            stop_seconds=config.limits.stop_seconds + SPARE_SECONDS,
        )
        supervisor = Supervisor(plan, Switchboard(UsedProofs(since=since), events), SYSTEM, events)
        _on_signals(supervisor)
        place = public[0].getsockname()[1]
        events.info("workers.starting", issuer=config.issuer, port=place, version=__version__, workers=plan.count)
        code = await supervisor.run()
    events.info("workers.stopped", code=code)
    return code


def _on_signals(supervisor: Supervisor) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
    loop.add_signal_handler(signal.SIGUSR2, supervisor.roll)
