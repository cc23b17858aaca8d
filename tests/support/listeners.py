"""Verifiers that acknowledge by plain HTTP, as a program in any language would."""

from __future__ import annotations

import asyncio
import time

from broker.core.marks import PURPOSE, mark_of
from broker.signing.master_key import load_master_key
from broker.signing.sealing import derived_key
from broker.wiring import master_key_source
from tests.support.broker_app import BrokerApp, Reply

ACKS = "/v1/revocations/acks"
PATIENCE = 30.0
"""Seconds that a test waits for what comes at once on a machine with nothing else to do."""


class Listener:
    """A process of a resource server. What it is told of rules stands in the broker's own memory here."""

    def __init__(self, app: BrokerApp, token: str, name: str, *, max_age: float = 15.0) -> None:
        """``token`` is one of the agent that the verifier belongs to, with ``revocations:read``."""
        self._app = app
        self._token = token
        self.name = name
        self.max_age = max_age

    async def acknowledge(self, epoch: int | None = None, *, mark: str | None = None) -> Reply:
        """Say that an epoch is applied: the newest, with its own mark, unless told otherwise."""
        epoch = self._app.services.revocations.rules.epoch if epoch is None else epoch
        mark = mark_at(self._app, epoch) if mark is None else mark
        body = {"verifier": self.name, "epoch": epoch, "mark": mark, "max_age": self.max_age}
        return await self._app.call("POST", ACKS, token=self._token, json=body)

    async def join(self) -> None:
        """Acknowledge, and return once the broker remembers it."""
        reply = await self.acknowledge()
        assert reply.status == 204, reply.body
        await until_known(self._app, self.name, self._app.services.revocations.rules.epoch)

    async def leave(self) -> Reply:
        """Say that it has ended."""
        return await self._app.call("POST", ACKS, token=self._token, json={"verifier": self.name, "leaving": True})


def mark_at(app: BrokerApp, epoch: int) -> str:
    """Return the mark of an epoch, as statements of the rules tell it."""
    master_key = load_master_key(master_key_source(app.broker.config.master_key))
    return mark_of(derived_key(master_key, PURPOSE).reveal(), epoch)


async def until_known(app: BrokerApp, name: str, epoch: int | None) -> None:
    """Wait until a verifier is remembered at an epoch; with None, until it is not remembered any more."""
    end = time.monotonic() + PATIENCE
    while True:
        present = await app.services.propagations.present()
        known = {each.name: each.epoch for each in present.verifiers}
        if known.get(name) == epoch:
            return
        assert time.monotonic() < end, known
        await asyncio.sleep(0.01)
