"""A composed broker: opened as a whole, and closed again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from math import ceil

from broker.auditing import Auditing
from broker.config import Config
from broker.http.surface import Services, Site
from broker.policy_control import PolicyControl
from broker.ports import Backend, Events, Leadership
from broker.self_check import SelfCheck
from broker.upkeep import Job
from broker.wiring.ground import open_ground
from broker.wiring.jobs import compose_jobs, compose_reaper, compose_self_check, watch
from broker.wiring.place import ALONE, Place
from broker.wiring.services import compose_services


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A composed broker: what HTTP serves, what runs beside it, and what a signal can ask for."""

    config: Config
    services: Services
    site: Site
    auditing: Auditing
    policy_control: PolicyControl
    self_check: SelfCheck
    leadership: Leadership
    jobs: tuple[Job, ...]


@asynccontextmanager
async def open_broker(
    config: Config, events: Events, *, own_backends: Mapping[str, Backend] | None = None, place: Place = ALONE
) -> AsyncIterator[Broker]:
    """Open everything that a broker needs, and close it again, the ledger last.

    ``own_backends`` are backends of leases besides those that are configured, by their names. ``place`` is where this
    process stands among those that serve the same ledger.

    Raises ``BrokerError``, ``MasterKeyError`` or ``SealingError`` with a text for the operator.
    """
    async with AsyncExitStack() as stack:
        ground = await open_ground(config, events, stack, own_backends or {}, place)
        services = compose_services(ground, site_of(config, place))
        reaper = compose_reaper(ground)
        stack.push_async_callback(reaper.close)
        stack.push_async_callback(services.leasing.close)
        check = compose_self_check(ground)
        await check.look_outside()
        if check.unsound is None and place.announces:  # else its requests may not be what they were
            await services.approvals.announce_waiting()
        auditing = Auditing(ledger=ground.ledger, clock=ground.clock, events=events, strangers=ground.strangers)
        watch(ground, check)
        yield Broker(
            config=config,
            services=services,
            site=site_of(config, place),
            auditing=auditing,
            policy_control=ground.policy_control,
            self_check=check,
            leadership=ground.leadership,
            jobs=compose_jobs(ground, services, auditing, reaper, check),
        )


def site_of(config: Config, place: Place = ALONE) -> Site:
    """Return the public URLs and limits of a configured broker; workers share what an address may fail."""
    limits = config.limits
    return Site(
        issuer=config.issuer,
        body_bytes=limits.body_bytes,
        request_seconds=limits.request_seconds,
        failures_per_minute=ceil(limits.unauthenticated_per_minute / place.workers),
        trusted_proxies=tuple(ip_network(network) for network in config.listen.trusted_proxies),
        access_log=config.log.access,
        index_in_answers=config.index_in_answers,
    )
