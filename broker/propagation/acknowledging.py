"""Taking acknowledgements: each is checked at once, and the newest of each verifier is written with all the others."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from broker.background import Background
from broker.core.errors import Code, Malformed, Refused, Unavailable
from broker.core.marks import is_mark
from broker.core.pacing import Timing
from broker.core.propagation import MAX_AGE, is_verifier_name
from broker.ports import Acknowledged, Events, Left, Presence, PresenceMeter

GATHER_SECONDS: Final = 0.025
"""How long news wait for others, which mostly come at once: a rule reaches everybody at the same time."""

PAUSE_SECONDS: Final = 0.025
"""After a transaction. With the time of gathering, there are twenty in a second at most."""

LAZY_SECONDS: Final = 1.0
"""How long signs of life wait for others before they are written."""

RETRY_SECONDS: Final = 1.0

MAX_WRITTEN: Final = 2000
"""The most that one transaction writes, so that no revocation waits long behind it."""

LATER_SECONDS: Final = 60
"""When to come back for a verifier for which there is no room."""

SILENT_SECONDS: Final = 15.0
"""Whoever was silent here for longer (three signs of life) may be forgotten elsewhere, and is as good as new."""

_Key = tuple[str, str]


@dataclass(slots=True)
class _Turn:
    """The next transaction, for those who wait for it. ``failure`` is why it was not durable."""

    done: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Unavailable | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many verifiers are remembered: ``each`` of one agent, ``most`` in all, for ``seconds`` after their last word.

    The numbers hold in each process.
    """

    each: int = 2_000
    most: int = 20_000
    seconds: float


class Acknowledging:
    """Takes what verifiers say, and writes it. Belongs to one event loop."""

    def __init__(
        self,
        presence: Presence,
        *,
        marks_key: bytes,
        limits: Limits,
        timing: Timing,
        meter: PresenceMeter,
        events: Events,
        written: Callable[[], None],
    ) -> None:
        """``marks_key`` proves that an epoch was told; ``written`` is called whenever there is news in the store."""
        self._presence = presence
        self._marks_key = marks_key
        self._limits = limits
        self._timing = timing
        self._meter = meter
        self._events = events
        self._written = written
        self._known: OrderedDict[_Key, tuple[int, float]] = OrderedDict()
        self._names: Counter[str] = Counter()
        self._waiting: dict[_Key, Acknowledged | Left] = {}
        self._new: set[_Key] = set()
        self._turn = _Turn()
        self._urgent = asyncio.Event()
        self._background = Background()
        self._writing = False

    async def take(self, told: Acknowledged, mark: str) -> None:
        """Take an acknowledgement. It is in the store soon, and lost if the process ends before.

        Of a verifier that is new here it is in the store on return: from then on no rule is called applied without it.

        ``mark`` proves that the broker has told of the epoch, so that nobody can acknowledge what is to come; it may be
        news to this process. Raises ``Malformed`` for what no verifier says, ``Refused`` (``ACK_INVALID``) for a wrong
        mark, ``Refused`` (``RATE_LIMITED``) if there is no room for another verifier, and ``Unavailable`` if a new one
        cannot be written now.
        """
        _check(told)
        if not is_mark(self._marks_key, told.epoch, mark):
            self._meter.acknowledged("invalid")
            raise Refused(Code.ACK_INVALID, "the mark is not that of this epoch: repeat both as the broker told them")
        key, now = (told.agent, told.name), self._timing.elapsed()
        known = self._known.get(key)
        if known is None:
            self._make_room(told.agent, now)
            self._names[told.agent] += 1
        if known is None or now - known[1] > SILENT_SECONDS:
            self._new.add(key)
        epoch = told.epoch if known is None else max(known[0], told.epoch)
        self._known[key] = (epoch, now)
        self._known.move_to_end(key)
        self._meter.acknowledged("taken")
        waiting = self._waiting.get(key)
        if not (isinstance(waiting, Acknowledged) and waiting.epoch > told.epoch):
            self._write_soon(key, told, urgent=key in self._new or known is None or known[0] < told.epoch)
        await self._until_known(key)

    def leave(self, gone: Left) -> None:
        """Take note that a verifier has ended. Raises ``Malformed``."""
        _check_name(gone.name)
        key = (gone.agent, gone.name)
        self._forget(key)
        self._meter.acknowledged("left")
        if key in self._waiting or len(self._waiting) < self._limits.most:
            self._write_soon(key, gone, urgent=True)

    async def close(self) -> None:
        """Write what is waiting, if that can be done now."""
        await self._background.cancel()
        if self._waiting:
            try:
                await self._write_some()
            except Unavailable as error:
                self._events.error("acknowledgements.not_written", code=error.code.value)

    async def _until_known(self, key: _Key) -> None:
        """Wait until a new verifier is in the store. Others are there already."""
        while key in self._new:
            turn = self._turn
            await turn.done.wait()
            if turn.failure is not None:
                # As if it had never come: it is told so, and what does not come again takes no room.
                self._forget(key)
                self._waiting.pop(key, None)
                raise turn.failure

    def _make_room(self, agent: str, now: float) -> None:
        """Forget whoever is silent, and raise ``Refused`` if there is no room for one more of this agent even so."""
        while self._known:
            key, (_, heard) = next(iter(self._known.items()))
            if now - heard <= self._limits.seconds:
                break
            self._forget(key)
        if len(self._known) >= self._limits.most or self._names[agent] >= self._limits.each:
            self._meter.acknowledged("refused")
            raise Refused(Code.RATE_LIMITED, "there are too many verifiers already", retry_after=LATER_SECONDS)

    def _forget(self, key: _Key) -> None:
        self._new.discard(key)
        if self._known.pop(key, None) is not None:
            self._names[key[0]] -= 1
            if not self._names[key[0]]:
                del self._names[key[0]]

    def _write_soon(self, key: _Key, told: Acknowledged | Left, *, urgent: bool) -> None:
        self._waiting[key] = told
        if urgent:
            self._urgent.set()
        if not self._writing:
            self._writing = True
            self._background.begin(self._write())

    async def _write(self) -> None:
        """Write until nothing is waiting."""
        told: Code | None = None
        try:
            while self._waiting:
                await self._gather()
                try:
                    await self._write_some()
                except Unavailable as error:
                    if error.code is not told:
                        self._events.error("acknowledgements.not_written", code=error.code.value)
                    told = error.code
                    await self._timing.sleep(RETRY_SECONDS)
                    continue
                told = None
                await self._timing.sleep(PAUSE_SECONDS)
        finally:
            self._writing = False

    async def _gather(self) -> None:
        """Let what is said wait for what others say: signs of life longer than news."""
        await self._timing.sleep(GATHER_SECONDS)
        if not self._urgent.is_set():
            try:
                async with asyncio.timeout(LAZY_SECONDS):
                    await self._urgent.wait()
            except TimeoutError:
                pass
        self._urgent.clear()

    async def _write_some(self) -> None:
        batch = dict(list(self._waiting.items())[:MAX_WRITTEN])
        for key in batch:
            del self._waiting[key]
        if self._waiting:
            self._urgent.set()
        turn, self._turn = self._turn, _Turn()
        try:
            await self._presence.heard(list(batch.values()))
        except BaseException as error:
            self._waiting = {**batch, **self._waiting}  # what was said meanwhile is newer
            stopping = Unavailable(Code.STOPPING, "the broker is stopping")
            turn.failure = error if isinstance(error, Unavailable) else stopping
            raise
        finally:
            turn.done.set()
        self._new.difference_update(batch)
        self._written()


def _check(told: Acknowledged) -> None:
    _check_name(told.name)
    if told.epoch < 0:
        raise Malformed("epoch: must be a whole number from 0 up")
    if not (math.isfinite(told.max_age) and 0 < told.max_age <= MAX_AGE):
        raise Malformed(f"max_age: must be above 0 and at most {MAX_AGE:g} seconds")


def _check_name(name: str) -> None:
    if not is_verifier_name(name):
        raise Malformed("verifier: must be 1 to 64 of A-Z a-z 0-9 . _ -")
