"""Running a composed broker until it is told to stop: listeners, periodic work, signals."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import ssl
from collections.abc import Sequence
from typing import Protocol

from broker import __version__
from broker.background import Background
from broker.config import Config
from broker.core.errors import BrokerError
from broker.http.app import create_app, create_metrics_app
from broker.http.server import Bounds, Certificate, Door, HttpServer
from broker.logs import configure
from broker.policy_control import Reload
from broker.ports import Events
from broker.systemd import notify
from broker.upkeep import Upkeep
from broker.wiring import ALONE, Broker, Place, open_broker


class Kin(Protocol):
    """The other processes that serve together with this one, and what they have in common."""

    @property
    def place(self) -> Place:
        """Where this process stands among them."""
        ...

    @property
    def public(self) -> Sequence[socket.socket]:
        """The listening sockets that all of them accept from."""
        ...

    @property
    def private(self) -> Sequence[socket.socket]:
        """Those of the private listener; none if there is none."""
        ...

    async def join(self, running: Running) -> None:
        """Take part, right before the first request is served. Raises ``Unavailable``."""
        ...

    async def ready(self) -> None:
        """Say that requests are served. Raises ``Unavailable``."""
        ...

    async def leave(self) -> None:
        """Say that no request will be served any more. Never raises."""
        ...


class Running:
    """A broker that serves, and what can be asked of it from outside of a request."""

    def __init__(self, broker: Broker, server: HttpServer, events: Events) -> None:
        """It goes on until :meth:`stop` or :meth:`retire`."""
        self.broker = broker
        self._server = server
        self._events = events
        self._ended = asyncio.Event()
        self._retires = False
        self._reloading = Background()

    def stop(self) -> None:
        """End: what was accepted is answered, what comes from now on is refused."""
        self._retires = False
        self._ended.set()

    def retire(self) -> None:
        """End because another process has taken over: what comes on open connections is still answered."""
        self._retires = True
        self._ended.set()

    def on_signals(self) -> None:
        """Let SIGTERM and SIGINT stop, and SIGHUP reload."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._reloading.begin(self.reload()))

    async def until_ended(self) -> None:
        """Wait until it is to end, and until whoever must be answered before everything stops was answered."""
        await self._ended.wait()
        self._events.info("broker.stopping")
        if self._retires:
            await self._server.retire()

    async def reload(self, *, policy: bool = True) -> None:
        """Take the policy and the certificate from their files; what cannot be used changes nothing."""
        if policy:
            try:
                _tell(await self.broker.policy_control.reload(by="signal"), self._events)
            except BrokerError as error:
                self._events.error("policy.not_reloaded", code=error.code.value, reason=error.public)
        try:
            self._server.reload_certificates()
        except (OSError, ssl.SSLError) as error:
            self._events.error("certificate.not_reloaded", exc_info=error)


async def serve(config: Config, kin: Kin | None = None) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads the policy and the TLS certificate.

    What was accepted before the stop is answered. ``kin`` are the other processes, if this one is not alone. Raises
    ``OSError`` if the address cannot be had, and the errors of :func:`open_broker`.
    """
    events = configure(config.log.level)
    # What was imported stays: the collector need not look through it again and again while requests come in.
    gc.collect()
    gc.freeze()
    async with open_broker(config, events, place=ALONE if kin is None else kin.place) as broker:
        await _record_start(broker)
        server = server_of(broker, kin)
        upkeep = Upkeep(broker.jobs, events, leads=broker.leadership.leads)
        running = Running(broker, server, events)
        running.on_signals()
        if kin is not None:
            await kin.join(running)
        await server.start()
        upkeep.start()
        watching = asyncio.create_task(broker.services.pressure.watch())
        issuing = broker.self_check.unsound is None
        events.info("broker.serving", issuer=config.issuer, port=server.port, version=__version__, issuing=issuing)
        await _say_ready(kin)
        try:
            await running.until_ended()
        finally:
            await server.stop()
            watching.cancel()
            await upkeep.close()
            await broker.auditing.record_strangers()
            if kin is not None:
                await kin.leave()
    events.info("broker.stopped")


async def _say_ready(kin: Kin | None) -> None:
    """Tell whoever started this process that requests are served."""
    if kin is None:
        notify("READY=1")
    else:
        await kin.ready()


async def _record_start(broker: Broker) -> None:
    """Record that the broker starts, and with which policy; nothing is recorded in a ledger that is not sound."""
    if broker.self_check.unsound is None:
        await broker.auditing.started(__version__)
        await broker.policy_control.start()


def server_of(broker: Broker, kin: Kin | None = None) -> HttpServer:
    """Return the listeners that the settings ask for."""
    config, site = broker.config, broker.site
    listen, limits = config.listen, config.limits
    bounds = Bounds(
        connections=limits.connections,
        header_bytes=limits.header_bytes,
        body_bytes=limits.body_bytes,
        header_seconds=limits.header_seconds,
        keep_alive_seconds=limits.keep_alive_seconds,
        stop_seconds=limits.stop_seconds,
    )
    public = Door(
        create_app(broker.services, site),
        listen.host,
        listen.port,
        bounds,
        site.issuer,
        shared=() if kin is None else kin.public,
    )
    private = None
    if listen.metrics is not None:
        host, port = listen.metrics_address()
        private = Door(
            create_metrics_app(broker.services, site),
            host,
            port,
            bounds,
            site.issuer,
            shared=() if kin is None else kin.private,
        )
    certificate = None
    if listen.certificate is not None and listen.key is not None:
        certificate = Certificate(chain=listen.certificate, key=listen.key)
    return HttpServer(public, private, certificate)


def _tell(done: Reload, events: Events) -> None:
    """Log what a reload did, and each rule that it should have made and could not."""
    rules = [effect.rule.id for effect in done.effects if effect.rule is not None]
    events.info("policy.reloaded", digest=done.policy.digest, narrowed=len(done.effects), rules=len(rules))
    for effect in done.effects:
        if effect.failure is not None:
            selector, code = str(effect.cover.selector), effect.failure.code.value
            events.error("policy.rule_not_made", selector=selector, code=code)
