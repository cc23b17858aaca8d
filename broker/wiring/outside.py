"""Who keeps checkpoints of the ledger outside the broker's reach. No logic."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from broker.anchoring import Known, ask
from broker.clock import SystemClock
from broker.config import Config
from broker.core.errors import BrokerError
from broker.core.tree_head import KnownHead
from broker.ids import RandomIds
from broker.outbound import Outbound
from broker.ports import SignedHead
from broker.self_check import Outside
from broker.signing.identity_token import IdentityTokenSigner
from broker.signing.keyring import KeyRing
from broker.signing.ledger_identity import own_note_opener
from broker.wiring.anchors import open_anchors


def compose_outside(known: Callable[[], Awaitable[Mapping[str, Known]]]) -> Outside:
    """Return what asks everybody who keeps checkpoints: the anchors, which ``known`` asks."""

    async def asked() -> Mapping[str, KnownHead | BrokerError | None]:
        return _called(await known())

    return asked


async def ask_outside(config: Config, ring: KeyRing) -> Mapping[str, KnownHead | BrokerError | None]:
    """Ask the anchors of a broker that is not running. Raises ``Unavailable`` if one cannot be used as configured."""
    clock = SystemClock()
    identities = IdentityTokenSigner(ring, clock, RandomIds(), issuer=config.issuer)
    async with Outbound() as outbound:
        anchors = open_anchors(config, outbound, clock, own_token=identities.own_token)
        try:
            return _called(await ask(anchors, own_note_opener(ring)))
        finally:
            await asyncio.gather(*(anchor.close() for anchor in anchors.values()), return_exceptions=True)


def _called(known: Mapping[str, Known]) -> Mapping[str, KnownHead | BrokerError | None]:
    return {f"the checkpoint at the anchor {name}": _head(answer) for name, answer in known.items()}


def _head(answer: Known) -> KnownHead | BrokerError | None:
    return KnownHead(answer.size, answer.root) if isinstance(answer, SignedHead) else answer
