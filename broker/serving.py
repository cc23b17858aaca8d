"""Running a composed broker until it is told to stop: listeners, periodic work, signals."""

from __future__ import annotations

import asyncio
import gc
import signal
import ssl

from broker import __version__
from broker.config import Config
from broker.core.errors import BrokerError
from broker.http.app import create_app, create_metrics_app
from broker.http.server import Bounds, Certificate, Door, HttpServer
from broker.logs import configure
from broker.policy_control import Reload
from broker.ports import Events
from broker.upkeep import Upkeep
from broker.wiring import Broker, open_broker


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads the policy and the TLS certificate.

    What was accepted before the stop is answered. Raises ``OSError`` if the address cannot be had, and the errors of
    :func:`open_broker`.
    """
    events = configure(config.log.level)
    # What was imported stays: the collector need not look through it again and again while requests come in.
    gc.collect()
    gc.freeze()
    async with open_broker(config, events) as broker:
        await _record_start(broker)
        server = server_of(broker)
        upkeep = Upkeep(broker.jobs, events)
        stop = asyncio.Event()
        _on_signals(stop, broker, server, events)
        await server.start()
        upkeep.start()
        watching = asyncio.create_task(broker.services.pressure.watch())
        issuing = broker.self_check.unsound is None
        events.info("broker.serving", issuer=config.issuer, port=server.port, version=__version__, issuing=issuing)
        try:
            await stop.wait()
            events.info("broker.stopping")
        finally:
            await server.stop()
            watching.cancel()
            await upkeep.close()
            await broker.auditing.record_strangers()
    events.info("broker.stopped")


async def _record_start(broker: Broker) -> None:
    """Record that the broker starts, and with which policy; nothing is recorded in a ledger that is not sound."""
    if broker.self_check.unsound is None:
        await broker.auditing.started(__version__)
        await broker.policy_control.start()


def server_of(broker: Broker) -> HttpServer:
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
    public = Door(create_app(broker.services, site), listen.host, listen.port, bounds, site.issuer)
    private = None
    if listen.metrics is not None:
        host, _, port = listen.metrics.rpartition(":")
        private = Door(create_metrics_app(broker.services, site), host.strip("[]"), int(port), bounds, site.issuer)
    certificate = None
    if listen.certificate is not None and listen.key is not None:
        certificate = Certificate(chain=listen.certificate, key=listen.key)
    return HttpServer(public, private, certificate)


def _on_signals(stop: asyncio.Event, broker: Broker, server: HttpServer, events: Events) -> None:
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(_reload(broker, server, events))
        running.add(task)
        task.add_done_callback(running.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload)


async def _reload(broker: Broker, server: HttpServer, events: Events) -> None:
    """Take the policy and the certificate from their files; what cannot be used changes nothing."""
    try:
        _tell(await broker.policy_control.reload(by="signal"), events)
    except BrokerError as error:
        events.error("policy.not_reloaded", code=error.code.value, reason=error.public)
    try:
        server.reload_certificates()
    except (OSError, ssl.SSLError) as error:
        events.error("certificate.not_reloaded", exc_info=error)


def _tell(done: Reload, events: Events) -> None:
    """Log what a reload did, and each rule that it should have made and could not."""
    rules = [effect.rule.id for effect in done.effects if effect.rule is not None]
    events.info("policy.reloaded", digest=done.policy.digest, narrowed=len(done.effects), rules=len(rules))
    for effect in done.effects:
        if effect.failure is not None:
            selector, code = str(effect.cover.selector), effect.failure.code.value
            events.error("policy.rule_not_made", selector=selector, code=code)
