"""Vault tokens of tasks and leases: when a task's token goes, all goes that was made with it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from broker.backends.vault_failures import certain, needs, reason, refused
from broker.backends.vault_http import VaultHttp
from broker.backends.vault_messages import Answer, Ask
from broker.backends.vault_session import VaultSession
from broker.core.errors import BackendFailed
from broker.core.lease import LeaseOrder
from broker.core.secret import Secret
from broker.ports import Clock

MAX_TASKS: Final = 10_000
"""Tokens of so many tasks are held. A task whose token is forgotten gets another one for its next lease."""

MAX_WAITING: Final = 10_000
"""So many tokens of leases wait between ``prepare`` and ``take``."""

CREATE_ORPHAN: Final = "auth/token/create-orphan"
CREATE: Final = "auth/token/create"
REVOKE: Final = "auth/token/revoke-accessor"

_FORBIDDEN: Final = 403


@dataclass(frozen=True, slots=True)
class _Token:
    """A token. ``made`` and ``ends`` are Unix seconds; ``wanted`` is the end that was asked for."""

    value: Secret
    accessor: str
    made: float
    ends: int
    wanted: int

    def serves(self, until: int, now: float) -> bool:
        """Whether a lease until then can be made with it.

        One that Vault gave a shorter life than it was asked for serves until two thirds of that are over.
        """
        if self.ends >= until:
            return now < self.ends
        return self.wanted >= until and now < self.made + (self.ends - self.made) * 2 / 3


@dataclass(frozen=True, slots=True)
class LeaseToken:
    """The token that one lease is read with, by the name that ends it. ``ends`` is in Unix seconds."""

    accessor: str
    task_accessor: str
    ends: int


class VaultTokens:
    """Makes one orphan token for each task, and a child of it for each lease. Their values stay in memory.

    A task's token has no parent, so that it does not end with the broker's own; it ends with the task. Belongs to one
    event loop.
    """

    def __init__(self, http: VaultHttp, session: VaultSession, *, namespace: str | None, clock: Clock) -> None:
        """``namespace`` is where the tokens are made: the one that the broker signs in to."""
        self._http = http
        self._session = session
        self._namespace = namespace
        self._clock = clock
        self._tasks: OrderedDict[str, _Token] = OrderedDict()
        self._making: dict[str, asyncio.Task[_Token]] = {}
        self._waiting: OrderedDict[str, _Token] = OrderedDict()

    async def open(self, order: LeaseOrder, until: int) -> LeaseToken:
        """Make the token of a lease, to live until then (Unix seconds) at the longest.

        Raises ``BackendFailed``, never ``uncertain``: what may have been made holds nothing, and ends by itself.
        """
        try:
            task = await self._of_task(order, until)
            answer = await self._child(order, task, until)
            if answer.status == _FORBIDDEN:  # it was ended behind our back, or the policy lacks something
                if self._tasks.get(order.task) is task:
                    del self._tasks[order.task]
                task = await self._of_task(order, until)
                answer = await self._child(order, task, until)
        except BackendFailed as error:
            raise certain(error) from error
        token = self._made(answer, CREATE, until)
        self._waiting[token.accessor] = token
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
        return LeaseToken(token.accessor, task.accessor, min(token.ends, task.ends))

    def hand_out(self, accessor: str) -> Secret | None:
        """Return the value of a lease's token, once; None if this process did not make it, or it waited too long."""
        token = self._waiting.pop(accessor, None)
        return None if token is None or token.ends <= self._clock.now() else token.value

    async def revoke_task(self, accessor: str) -> None:
        """End the token of a task, and forget it. Raises like :meth:`revoke`."""
        for task in [task for task, token in self._tasks.items() if token.accessor == accessor]:
            del self._tasks[task]
        await self.revoke(accessor)

    async def revoke(self, accessor: str) -> None:
        """End a token, its children, and what was made with them. One that is unknown has ended."""
        self._waiting.pop(accessor, None)
        ask = Ask("POST", REVOKE, self._namespace, body={"accessor": accessor}, often=True)
        answer = await self._session.send(ask)
        if not answer.ok and not answer.says("invalid accessor", "no token found", "token not found"):
            raise self._http.refusal(ask, answer)

    async def close(self) -> None:
        """End what is under way, and forget all tokens."""
        making = list(self._making.values())
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)
        self._tasks.clear()
        self._waiting.clear()

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _of_task(self, order: LeaseOrder, until: int) -> _Token:
        """Return the token of the order's task; leases that are taken at the same time make one only."""
        held = self._tasks.get(order.task)
        if held is not None and held.serves(until, self._clock.now()):
            self._tasks.move_to_end(order.task)
            return held
        making = self._making.get(order.task)
        if making is None:
            making = asyncio.create_task(self._task_token(order, until), name=f"a token of {self._http.name}")
            self._making[order.task] = making
            making.add_done_callback(lambda done: self._finished(order.task, done))
        return await asyncio.shield(making)

    def _finished(self, task: str, making: asyncio.Task[_Token]) -> None:
        del self._making[task]
        if making.cancelled() or making.exception() is not None:
            return
        now = self._clock.now()
        for over in [name for name, token in self._tasks.items() if token.ends <= now]:
            del self._tasks[over]
        self._tasks[task] = making.result()
        if len(self._tasks) > MAX_TASKS:
            self._tasks.popitem(last=False)

    async def _task_token(self, order: LeaseOrder, until: int) -> _Token:
        until = max(until, order.task_ends)
        ask = self._ask(CREATE_ORPHAN, until, {"agent": order.agent, "task": order.task})
        return self._made(await self._session.send(ask), CREATE_ORPHAN, until)

    async def _child(self, order: LeaseOrder, task: _Token, until: int) -> Answer:
        meta = {"agent": order.agent, "task": order.task, "lease": order.lease, "secret": order.secret}
        return await self._http.send(self._ask(CREATE, until, meta), token=task.value)

    def _ask(self, path: str, until: int, meta: Mapping[str, str]) -> Ask:
        life = f"{max(1, until - int(self._clock.now()))}s"
        body = {"ttl": life, "explicit_max_ttl": life, "renewable": False, "meta": dict(meta)}
        return Ask("POST", path, self._namespace, body=body)

    def _made(self, answer: Answer, path: str, until: int) -> _Token:
        """Read the token that was made, or say what the operator has to allow."""
        if not answer.ok:
            said = "" if answer.status == _FORBIDDEN else f" ({reason(answer.errors) or f'HTTP {answer.status}'})"
            raise refused(f"{self._http.name} made no token for the lease{said}: {needs('POST', path)}")
        auth, now = answer.auth, self._clock.now()
        if auth is None or not auth.client_token or not auth.accessor:
            raise refused(f"{self._http.name} made a token without an accessor, which nobody could end")
        ends = min(until, int(now) + auth.lease_duration) if auth.lease_duration > 0 else until
        return _Token(Secret(auth.client_token), auth.accessor, now, ends, until)
