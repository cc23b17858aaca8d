"""The backends that are configured, each behind a gate: so many calls at once, none while it is out of order.

A gate has two lanes, so that a flood of revocations keeps no agent from its secret, and a flood of agents no secret
from being revoked. Each lane has a circuit breaker: a backend that failed there again and again is left alone for a
while, and whoever asks meanwhile is told so at once instead of waiting for a time-out. It is one for each lane, since
secrets that cannot be ended, as those of a database that is gone, do not keep the backend from making others.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from broker.core.circuit import Circuit, CircuitState, Passage
from broker.core.errors import BackendFailed, Code
from broker.core.lease import Ended, LeaseOrder, Taken
from broker.core.pacing import Timing
from broker.ports import Backend, RevokesPrefixes

MAX_WAITING: Final = 16
"""How many agents may wait for one place, at most; the next one is told to come back."""

_BUSY_SECONDS: Final = 1
_BY_GRAVITY: Final = (CircuitState.CLOSED, CircuitState.HALF_OPEN, CircuitState.OPEN)

T = TypeVar("T")


class GatedBackends:
    """Every configured backend by its name (port ``Backends``). Belongs to one event loop."""

    def __init__(self, backends: Mapping[str, Backend], *, concurrency: Mapping[str, int], timing: Timing) -> None:
        """``concurrency`` is how many calls of each backend may run at once: half in each lane, one each at least."""
        self._backends = dict(backends)
        self._gates = {name: _Gate(name, each, concurrency[name], timing) for name, each in backends.items()}

    def of(self, name: str) -> Backend:
        """Return a backend behind its gate. Raises ``BackendFailed`` (``BACKEND_REFUSED``) if none has this name."""
        gate = self._gates.get(name)
        if gate is None:
            raise BackendFailed(Code.BACKEND_REFUSED, "no such backend is configured")
        return gate

    async def revoke_prefix(self, name: str, prefix: str) -> None:
        """End everything below a path of a backend (see the port)."""
        gate = self._gates.get(name)
        if gate is None:
            raise BackendFailed(Code.BACKEND_REFUSED, "no such backend is configured")
        await gate.revoke_prefix(prefix)

    def names(self) -> frozenset[str]:
        """Return the names of all backends."""
        return frozenset(self._gates)

    def states(self) -> Mapping[str, str]:
        """Return ``closed``, ``open`` or ``half_open`` for each: the worse state of its two lanes."""
        return {name: gate.state().value for name, gate in self._gates.items()}

    def ends_secrets(self, name: str) -> bool:
        """Whether a backend is to be asked to end secrets now, or is left alone; of an unknown one, True."""
        gate = self._gates.get(name)
        return gate is None or gate.ends_secrets()

    async def close(self) -> None:
        """Close every backend, whatever becomes of the others; raises the first thing that went wrong."""
        ends = await asyncio.gather(*(each.close() for each in self._backends.values()), return_exceptions=True)
        for error in ends:
            if isinstance(error, BaseException):
                raise error


class _Gate:
    """A backend that is asked through two lanes (port ``Backend``)."""

    def __init__(self, name: str, backend: Backend, concurrency: int, timing: Timing) -> None:
        for_takes = max(1, concurrency // 2)
        self._backend = backend
        self._takes = _Lane(name, for_takes, timing, most_waiting=MAX_WAITING * for_takes)
        self._revocations = _Lane(name, max(1, concurrency - for_takes), timing)

    def state(self) -> CircuitState:
        return max(self._takes.state(), self._revocations.state(), key=_BY_GRAVITY.index)

    def ends_secrets(self) -> bool:
        return self._revocations.state() is not CircuitState.OPEN

    async def prepare(self, order: LeaseOrder) -> Mapping[str, str]:
        # It may come to pass without asking anybody.
        return await self._takes.ask(lambda: self._backend.prepare(order), proves=None)

    async def take(self, order: LeaseOrder, handle: Mapping[str, str]) -> Taken:
        return await self._takes.ask(lambda: self._backend.take(order, handle), proves=lambda _: True)

    async def renew(self, handle: Mapping[str, str], seconds: int) -> int:
        return await self._takes.ask(lambda: self._backend.renew(handle, seconds), proves=lambda _: True)

    async def revoke(self, handle: Mapping[str, str]) -> Ended:
        # That a secret cannot be ended is known without asking.
        return await self._revocations.ask(lambda: self._backend.revoke(handle), proves=lambda ended: ended.revoked)

    async def revoke_prefix(self, prefix: str) -> None:
        backend = self._backend
        if not isinstance(backend, RevokesPrefixes):
            raise BackendFailed(Code.BACKEND_REFUSED, "this kind of backend has no paths to revoke below")
        await self._revocations.ask(lambda: backend.revoke_prefix(prefix), proves=lambda _: True)

    async def close(self) -> None:
        await self._backend.close()


class _Lane:
    """So many calls at once, first come first served, while the circuit lets them pass."""

    def __init__(self, name: str, places: int, timing: Timing, *, most_waiting: int | None = None) -> None:
        """``most_waiting`` is how many may wait for a place; without it any number, whose caller must bound itself."""
        self._name = name
        self._places = asyncio.Semaphore(places)
        self._timing = timing
        self._most_waiting = most_waiting
        self._waiting = 0
        self._circuit = Circuit()

    def state(self) -> CircuitState:
        return self._circuit.state(self._timing.elapsed())

    async def ask(self, call: Callable[[], Awaitable[T]], *, proves: Callable[[T], bool] | None) -> T:
        """Make a call; what becomes of it tells the circuit whether the backend is there.

        ``proves`` says whether a result can only have come from the backend; None, if no answer at all proves that.
        Raises ``BackendFailed`` as the call does, and (``BACKEND_UNAVAILABLE``, not uncertain) if it was not made.
        """
        self._refuse_if_open()
        await self._enter()
        try:
            passage = self._passage()
            try:
                result = await call()
            except BackendFailed as error:
                self._report(passage, error, proven=proves is not None)
                raise
            except BaseException:
                self._circuit.left(passage)
                raise
            if proves is not None and proves(result):
                self._circuit.answered(passage)
            else:
                self._circuit.left(passage)
            return result
        finally:
            self._places.release()

    async def _enter(self) -> None:
        if self._most_waiting is not None and self._waiting >= self._most_waiting:
            text = f"too many wait for the backend {self._name}"
            raise BackendFailed(Code.BACKEND_UNAVAILABLE, text, retry_after=_BUSY_SECONDS)
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1

    def _passage(self) -> Passage:
        """Return the leave to make a call: the circuit may have opened while this one waited for its place."""
        now = self._timing.elapsed()
        passage = self._circuit.enter(now)
        if passage is None:
            raise self._out_of_order(self._circuit.retry_in(now))
        return passage

    def _refuse_if_open(self) -> None:
        wait = self._circuit.retry_in(self._timing.elapsed())
        if wait is not None:
            raise self._out_of_order(wait)

    def _out_of_order(self, wait: float | None) -> BackendFailed:
        text = f"the backend {self._name} has failed again and again, and is left alone for a moment"
        return BackendFailed(Code.BACKEND_UNAVAILABLE, text, retry_after=max(1, math.ceil(wait or 0.0)))

    def _report(self, passage: Passage, error: BackendFailed, *, proven: bool) -> None:
        if error.code is Code.BACKEND_UNAVAILABLE:
            self._circuit.failed(passage, self._timing.elapsed(), self._timing.spread())
        elif proven and error.code is not Code.LEASE_NOT_RENEWABLE:  # which is known without asking
            self._circuit.answered(passage)
        else:
            self._circuit.left(passage)
