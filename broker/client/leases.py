"""Asking the broker for leases: taken once whatever gets lost, renewed, given back, and never forgotten half way."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from broker.background import Background
from broker.client.api import Api
from broker.client.delivery import DeliveryKey
from broker.client.errors import LeaseRefused, LeaseUnavailable
from broker.client.lease_answers import LeaseWant, Taken, Term, is_lease_id, read_lease, read_term
from broker.client.waiting import MAX_WAITING, Wait, Waiting
from broker.core.errors import BrokerError, Code
from broker.core.pacing import Backoff, Timing

SCOPE: Final = "leases:take"
ASKING_SECONDS: Final = 35.0
"""How long one request may take: as long as the broker gives it, its backend's answer included, and a little."""

RETURN_SECONDS: Final = 10.0
"""How long giving a lease back may take when nobody waits for the answer."""

MAX_LOST: Final = 3
"""How many answers may get lost before the broker is not asked for another lease."""

_BACKOFF: Final = Backoff(first=0.5, longest=8.0)
_log: Final = logging.getLogger("broker.client")

T = TypeVar("T")


class Leases:
    """The leases of one agent. Belongs to one event loop."""

    def __init__(self, api: Api, waiting: Waiting, timing: Timing, *, patience: float) -> None:
        """``patience`` is how many seconds taking one may take, besides waiting for people."""
        self._api = api
        self._waiting = waiting
        self._timing = timing
        self._patience = patience
        self._background = Background()
        self._keys: OrderedDict[LeaseWant, DeliveryKey] = OrderedDict()

    async def take(self, want: LeaseWant, auth_req_id: str | None = None) -> Taken:
        """Take a lease. If the broker's answer is lost, that lease is given back, and another one is taken.

        Where a person has to decide first, this waits for it, and goes on with an earlier request for the same. What
        cost somebody's word is not asked for twice: then a failure is final. Raises ``LeaseRefused``,
        ``LeaseUnavailable``, and what getting a token raises.
        """
        wait, key, lost, failures = Wait(self._waiting, want), _fresh_key(), 0, 0
        if auth_req_id is not None:
            self._waiting.remember(want, auth_req_id, expires_in=0)
        deadline = self._timing.elapsed() + self._patience
        while True:
            asked_at, approval = self._timing.elapsed(), self._waiting.of(want)
            is_free = approval is None and want.break_glass is None
            try:
                taken = await self._once(want, key, approval)
            except LeaseRefused as refused:
                if refused.pending is not None:
                    await wait.pause(refused.pending, asked_at)
                    deadline = self._timing.elapsed() + self._patience
                    continue
                self._forget(want)
                delay = max(_BACKOFF.delay(failures, self._timing.spread()), refused.retry_after or 0)
                if refused.code is not Code.BACKEND_UNAVAILABLE or not is_free or asked_at + delay > deadline:
                    raise
                failures += 1
                await self._timing.sleep(delay)
            else:
                self._forget(want)
                if taken is not None:
                    return taken
                lost += 1
                if lost == MAX_LOST or not is_free:
                    raise LeaseUnavailable("the broker's answer with the secret was lost; the lease was given back")
            key = _fresh_key()

    async def renew(self, lease: str, want: LeaseWant) -> Term:
        """Let a lease go on. Raises as :meth:`take` does."""
        asked_at = self._timing.elapsed()
        body = {} if want.ttl is None else {"ttl": want.ttl}
        path = f"/v1/leases/{lease}/renew"
        answer = await self._api.send("POST", path, SCOPE, body, task=want.task, subject_token=want.handed)
        return read_term(answer, asked_at)

    async def give_back(self, lease: str, want: LeaseWant) -> None:
        """End a lease; ending it again changes nothing. Raises as :meth:`take` does.

        One that the broker is still taking can be ended a moment later.
        """
        deadline = self._timing.elapsed() + RETURN_SECONDS
        while True:
            try:
                await self._end(lease, want)
            except LeaseRefused as refused:
                delay = refused.retry_after or 1
                if refused.code is not Code.CONFLICT or self._timing.elapsed() + delay > deadline:
                    raise
                await self._timing.sleep(delay)
            else:
                return

    async def to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what must not be left half done: being cancelled once waits for it, for ten seconds at most."""
        doing = self._background.start(work)
        try:
            return await asyncio.shield(doing)
        except asyncio.CancelledError:
            if not doing.done():
                await asyncio.wait([doing], timeout=RETURN_SECONDS)
            raise

    async def close(self) -> None:
        """End what is still under way."""
        await self._background.cancel()

    # --- one request ------------------------------------------------------------------------------------------------

    async def _once(self, want: LeaseWant, key: str, approval: str | None) -> Taken | None:
        """Ask once; None if the answer with the secret was lost. A lease whose secret is not had is given back."""
        asked_at, delivery = self._timing.elapsed(), self._delivery_key(want)
        answer = await self._ask(want, key, approval, delivery)
        try:
            taken = read_lease(answer, want, delivery, asked_at)
        except LeaseUnavailable:
            await self._discard(answer.get("lease_id"), want)
            raise
        if taken is None:
            await self._discard(answer.get("lease_id"), want)
        return taken

    async def _ask(
        self, want: LeaseWant, key: str, approval: str | None, delivery: DeliveryKey | None
    ) -> dict[str, Any]:
        """Send the request. Whoever is cancelled meanwhile leaves no lease behind, if the broker answers in time."""
        body = want.body()
        if approval is not None:
            body["auth_req_id"] = approval
        if delivery is not None:
            body["encrypt_to"] = delivery.jwk
        await self._api.ready(SCOPE, task=want.task, subject_token=want.handed)
        asking = self._background.start(
            self._api.send(
                "POST", "/v1/leases", SCOPE, body, idempotency_key=key, task=want.task, subject_token=want.handed
            )
        )
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            undoing = self._background.start(self._undo(asking, want))
            await asyncio.wait([undoing], timeout=RETURN_SECONDS)
            raise

    async def _end(self, lease: str, want: LeaseWant) -> None:
        path = f"/v1/leases/{lease}"
        await self._api.send("DELETE", path, SCOPE, task=want.task, subject_token=want.handed, patience=RETURN_SECONDS)

    async def _undo(self, asking: asyncio.Task[dict[str, Any]], want: LeaseWant) -> None:
        """Wait for an answer that nobody wants any more, and give back what it brings."""
        with suppress(BrokerError):
            await self._discard((await asking).get("lease_id"), want)

    async def _discard(self, lease: object, want: LeaseWant) -> None:
        """Give back a lease whose secret nobody has. If that fails, it ends by itself."""
        if not is_lease_id(lease):
            return
        try:
            await self.to_the_end(self.give_back(lease, want))
        except BrokerError as error:
            _log.warning("the lease %s could not be given back: %s", lease, error)

    def _delivery_key(self, want: LeaseWant) -> DeliveryKey | None:
        """Return the key that a secret is to be encrypted to: the same one while people decide, who agree to it too."""
        if not want.encrypted:
            return None
        key = self._keys.pop(want, None) or DeliveryKey()
        self._keys[want] = key
        if len(self._keys) > MAX_WAITING:
            self._keys.popitem(last=False)
        return key

    def _forget(self, want: LeaseWant) -> None:
        """Begin anew the next time."""
        self._waiting.forget(want)
        self._keys.pop(want, None)


def _fresh_key() -> str:
    return secrets.token_urlsafe(24)
