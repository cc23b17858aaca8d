"""Webhooks: telling chat tools and pagers that a person is waited for, signed as Standard Webhooks has it.

At least once and in no order: a receiver drops what it has seen by ``webhook-id``. Nothing here ever delays a caller;
what cannot be delivered is dropped after a while, and the request still waits where people list it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from broker.core.approval import ApprovalState
from broker.core.errors import Code, Unavailable
from broker.core.pacing import Backoff
from broker.core.secret import Secret
from broker.core.task import looks_like_instructions
from broker.outbound import Destination, Outbound
from broker.ports import Clock, Events
from broker.timing import SYSTEM

MAX_WAITING: Final = 1_000
"""How many messages wait for one receiver at most; when there are more, the oldest is dropped."""

MAX_ATTEMPTS: Final = 12
BACKOFF: Final = Backoff(first=1.0, longest=300.0)
"""After 12 attempts, about half an hour, a message is given up."""

PREFIX: Final = "whsec_"
_SHORTEST_SECRET: Final = 24
_SUCCESS: Final = frozenset(range(200, 300))
_REFUSED: Final = frozenset(range(400, 500))
_PASSING: Final = frozenset({408, 425, 429})
"""Refusals that may pass; for any other one it makes no sense to send the same again."""

_encode: Final = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """Who is told: ``secret`` signs; ``events`` are the only ones it wants, all of them if there are none."""

    url: str
    secret: Secret
    events: tuple[str, ...] = ()
    destination: Destination = field(default_factory=Destination)


@dataclass(frozen=True, slots=True)
class _Message:
    id: str
    body: bytes
    failures: int = 0


class _Outbox:
    """What one receiver is still to be told: what can be sent now, and what failed and is sent again later.

    A message that the receiver chokes on holds up no other.
    """

    def __init__(self) -> None:
        """Nothing waits."""
        self._ready: asyncio.Queue[_Message] = asyncio.Queue()
        self._later: OrderedDict[asyncio.TimerHandle, None] = OrderedDict()

    async def next(self) -> _Message:
        """Return the next message to send, once there is one."""
        return await self._ready.get()

    def put(self, message: _Message) -> bool:
        """Take a message; False if the oldest one had to be dropped for it, of those that failed first."""
        has_room = self._ready.qsize() + len(self._later) < MAX_WAITING
        if not has_room and self._later:
            self._later.popitem(last=False)[0].cancel()
        elif not has_room:
            self._ready.get_nowait()
        self._ready.put_nowait(message)
        return has_room

    def put_later(self, message: _Message, seconds: float) -> None:
        """Take a message that can be sent after so many seconds."""

        def is_due() -> None:
            del self._later[handle]
            self._ready.put_nowait(message)

        handle = asyncio.get_running_loop().call_later(seconds, is_due)
        self._later[handle] = None

    def close(self) -> None:
        """Send nothing later."""
        for handle in self._later:
            handle.cancel()


class Webhooks:
    """Sends messages to receivers (port ``Notifier``). Belongs to the event loop that starts it."""

    def __init__(
        self, receivers: Sequence[Receiver], outbound: Outbound, *, api: str, clock: Clock, events: Events
    ) -> None:
        """``api`` is the public URL of the broker's API, for the link in each message."""
        self._receivers = tuple(receivers)
        self._outbound = outbound
        self._api = api
        self._clock = clock
        self._events = events
        self._outboxes = [_Outbox() for _ in self._receivers]
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to deliver."""
        self._workers = [
            asyncio.create_task(self._deliver(receiver, outbox), name="webhook")
            for receiver, outbox in zip(self._receivers, self._outboxes, strict=True)
        ]

    async def close(self) -> None:
        """Stop; what was not delivered is announced again after the next start, if it still waits by then."""
        for worker in self._workers:
            worker.cancel()
        for outbox in self._outboxes:
            outbox.close()
        await asyncio.gather(*self._workers, return_exceptions=True)

    def approval(self, state: ApprovalState, event: str) -> None:
        """Announce a request for approval; see the port."""
        message = _Message(f"{state.request.id}.{event}", _encode(self._body(state, event)))
        for receiver, outbox in zip(self._receivers, self._outboxes, strict=True):
            if receiver.events and event not in receiver.events:
                continue
            if not outbox.put(message):
                self._events.error("webhook.dropped", url=receiver.url)

    def _body(self, state: ApprovalState, event: str) -> dict[str, Any]:
        request = state.request
        return {
            "type": f"approval.{event}",
            "timestamp": int(self._clock.now()),
            "data": {
                "id": request.id,
                "kind": request.kind,
                "agent": request.agent,
                "role": request.role,
                "asked": dict(request.asked),
                "task": request.task,
                "purpose": request.purpose,
                "purpose_flagged": request.purpose is not None and looks_like_instructions(request.purpose),
                "reason": request.reason,
                "chain": list(request.chain),
                "approvers": request.approvers,
                "quorum": request.quorum,
                "expires_at": request.expires_at,
                "url": f"{self._api}/approvals/{request.id}",
            },
        }

    async def _deliver(self, receiver: Receiver, outbox: _Outbox) -> None:
        while True:
            message = await outbox.next()
            if await self._sent(receiver, message):
                continue
            failed = replace(message, failures=message.failures + 1)
            if failed.failures < MAX_ATTEMPTS:
                outbox.put_later(failed, BACKOFF.delay(message.failures, SYSTEM.spread()))
            else:
                self._events.error("webhook.given_up", url=receiver.url, message=message.id)

    async def _sent(self, receiver: Receiver, message: _Message) -> bool:
        """Send once; whether there is nothing more to do about it."""
        headers = {"Content-Type": "application/json"} | signed(
            receiver.secret, message.id, message.body, self._clock.now()
        )
        try:
            reply = await self._outbound.post(receiver.url, message.body, receiver.destination, headers=headers)
        except Unavailable:
            return False
        if reply.status in _REFUSED - _PASSING:
            self._events.error("webhook.refused", url=receiver.url, message=message.id, status=reply.status)
            return True
        return reply.status in _SUCCESS


def signed(secret: Secret, message_id: str, body: bytes, now: float) -> dict[str, str]:
    """Return the headers that sign a message (Standard Webhooks): id, time, and HMAC-SHA256 over both and the body."""
    timestamp = str(int(now))
    key = base64.b64decode(secret.reveal().decode().removeprefix(PREFIX))
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def webhook_secret(text: str, where: str) -> Secret:
    """Return a secret as it is configured: ``whsec_`` and base64 of at least 24 bytes. Raises ``Unavailable``."""
    try:
        key = base64.b64decode(text.strip().removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < _SHORTEST_SECRET or not text.strip().startswith(PREFIX):
        problem = f"{where}: must be {PREFIX} and the base64 of at least {_SHORTEST_SECRET} random bytes"
        raise Unavailable(Code.INTERNAL, problem)
    return Secret(text.strip().encode())
