"""A task to work in: opened at the start of a block, kept alive while it runs, closed at its end."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from broker.client.api import Api
from broker.client.errors import TaskRefused, TaskUnavailable
from broker.client.token import Token
from broker.core.errors import BrokerError, Code
from broker.core.pacing import Timing

OPEN_SCOPE: Final = "tasks:open"
CLOSE_SCOPE: Final = "tasks:close"
HEARTBEATS: Final = 3
"""How many heartbeats there are in one idle time-out: two may get lost."""

FASTEST: Final = 2.0
"""Seconds between two heartbeats at least; the broker takes one a second."""

_OVER: Final = frozenset({Code.TASK_NOT_OPEN, Code.NOT_FOUND})
_ID: Final = re.compile(r"[A-Za-z0-9._:~-]{1,128}")
_log: Final = logging.getLogger("broker.client")


class OpenTask:
    """A task of the broker, for one ``async with`` block; :meth:`broker.client.Client.open_task` makes it.

    Within the block ``id`` names it in requests for tokens (``client.token(…, task=task.id)``). When the block ends,
    however it ends, the task is closed, and with it end all tokens in it.
    """

    def __init__(
        self,
        api: Api,
        wish: Mapping[str, Any],
        ended: Callable[[str], None],
        *,
        subject_token: Token | str | None,
        timing: Timing,
    ) -> None:
        """``wish`` is the body of ``POST /v1/tasks``; ``ended`` is told the id once the task is over."""
        self._api = api
        self._wish = wish
        self._ended = ended
        self._subject_token = subject_token
        self._timing = timing
        self._id: str | None = None
        self._state: Mapping[str, Any] = {}
        self._beating: asyncio.Task[None] | None = None
        self._over = False

    @property
    def id(self) -> str:
        """The task's id. Raises ``RuntimeError`` before it was opened."""
        if self._id is None:
            raise RuntimeError("the task is not open yet: use it with async with")
        return self._id

    @property
    def state(self) -> Mapping[str, Any]:
        """What the broker said of it when it was opened or last heard of: ``deadline``, ``budget`` and so on."""
        return self._state

    @property
    def is_over(self) -> bool:
        """Whether it is known to have ended: closed here, or found to be so by a heartbeat."""
        return self._over

    async def open(self) -> None:
        """Open it. An answer that gets lost does not open a second one.

        Raises ``TaskRefused``, ``TaskUnavailable``, and what getting a token raises.
        """
        key = secrets.token_urlsafe(24)
        state = await self._api.send(
            "POST", "/v1/tasks", OPEN_SCOPE, self._wish, idempotency_key=key, subject_token=self._subject_token
        )
        task = state.get("id")
        if not isinstance(task, str) or _ID.fullmatch(task) is None:
            raise TaskUnavailable("the broker's answer names no task")
        self._id, self._state = task, state

    async def heartbeat(self) -> None:
        """Say that work on it goes on. Raises what :meth:`open` raises; ``TaskRefused`` if it has ended."""
        self._state = await self._api.send(
            "POST", f"/v1/tasks/{self.id}/heartbeat", OPEN_SCOPE, subject_token=self._subject_token
        )

    async def close(self) -> None:
        """End it with everything in it; again changes nothing. Raises what :meth:`open` raises."""
        await self._api.send("DELETE", f"/v1/tasks/{self.id}", CLOSE_SCOPE, subject_token=self._subject_token)
        self._finish()

    async def __aenter__(self) -> Self:
        """Open it, and keep it alive from now on, if it has an idle time-out."""
        await self.open()
        timeout = self._state.get("idle_timeout")
        if isinstance(timeout, int) and timeout > 0:
            self._beating = asyncio.ensure_future(self._beat(max(FASTEST, timeout / HEARTBEATS)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it. If the block failed, its own error goes on, and one of closing is only logged."""
        await self._stop_beating()
        try:
            await self.close()
        except BrokerError as failed:
            if error is None:
                raise
            _log.warning("closing the task %s failed: %s", self.id, failed)

    async def _stop_beating(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
            self._beating = None

    async def _beat(self, every: float) -> None:
        """Send heartbeats until the task is found to be over. A broker that is away for a while ends nothing here."""
        while True:
            await self._timing.sleep(every)
            try:
                await self.heartbeat()
            except BrokerError as error:
                _log.warning("a heartbeat of the task %s failed: %s", self.id, error.public)
                if isinstance(error, TaskRefused) and error.code in _OVER:
                    self._finish()
                    return

    def _finish(self) -> None:
        self._over = True
        self._ended(self.id)
