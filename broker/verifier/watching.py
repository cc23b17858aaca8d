"""Tokens in use for longer than one request, and hearing at once when one of them is good no more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from broker.core.access_token import VerifiedToken
from broker.core.errors import BrokerError, Code
from broker.core.jwk import KeySet
from broker.core.pacing import Timing
from broker.core.rules import Rule
from broker.core.selector import EVERYTHING, Fact

LOOK_SECONDS: Final = 1.0
"""How often expiry, keys and the age of the view are looked at, at least: clocks may step."""

_SHORTEST: Final = 0.001
_TEXTS: Final = {
    Code.TOKEN_REVOKED: "the token has been revoked",
    Code.TOKEN_EXPIRED: "the token has expired",
    Code.TOKEN_INVALID: "the key that signed the token is good no more",
    Code.VIEW_STALE: "what is known here of revocations is too old",
}
_log: Final = logging.getLogger("broker.verifier")

Ended = Callable[[Code], None]
"""Told once why a token is good no more; it must not block, and not raise."""


@dataclass(eq=False, slots=True)
class Watch:
    """One token in use. :meth:`stop` when it is not any more."""

    token: VerifiedToken = field(repr=False)
    ended: Ended = field(repr=False)
    watches: Watches = field(repr=False)

    def stop(self) -> None:
        """Do not tell any more. May be called twice."""
        self.watches.forget(self)


class Watches:
    """All tokens in use, by their facts: a rule costs as much as there are tokens with the first of its facts."""

    def __init__(self, *, keys: Callable[[], KeySet], left: Callable[[], float], timing: Timing) -> None:
        """``keys`` are the broker's now; ``left`` says for how many seconds more tokens may be accepted at all."""
        self._keys = keys
        self._left = left
        self._timing = timing
        self._by_fact: dict[Fact, dict[Watch, None]] = {}
        self._looking: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many tokens are in use."""
        return len(self._by_fact.get(EVERYTHING, ()))

    def add(self, token: VerifiedToken, ended: Ended) -> Watch:
        """Begin to watch a token that is good now."""
        watch = Watch(token, ended, self)
        for fact in (*token.facts, EVERYTHING):
            self._by_fact.setdefault(fact, {})[watch] = None
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())
        return watch

    def forget(self, watch: Watch) -> None:
        """Stop watching a token."""
        for fact in (*watch.token.facts, EVERYTHING):
            bucket = self._by_fact.get(fact, {})
            bucket.pop(watch, None)
            if not bucket:
                self._by_fact.pop(fact, None)

    def told(self, rules: Collection[Rule]) -> None:
        """End the tokens that new rules kill."""
        for rule in rules:
            facts = rule.selector.facts()
            for watch in tuple(self._by_fact.get(facts[0], ())):
                token = watch.token
                if token.claims.epoch < rule.rank and rule.selector.selects(token.facts):
                    self._end(watch, Code.TOKEN_REVOKED)

    def end_all(self, code: Code) -> None:
        """End every token."""
        for watch in tuple(self._by_fact.get(EVERYTHING, ())):
            self._end(watch, code)

    async def close(self) -> None:
        """End every token, since nothing is heard of revocations any more."""
        self.end_all(Code.VIEW_STALE)
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        """End what has expired, what is signed with a key that is gone, and everything when the view is too old."""
        while len(self):
            ends = self._look_once(self._timing.wall())
            await self._timing.sleep(max(min(ends, self._left()), _SHORTEST))

    def _look_once(self, now: float) -> float:
        """Look at each token; return in how many seconds to look again."""
        if self._left() < 0:
            self.end_all(Code.VIEW_STALE)
            return LOOK_SECONDS
        keys, soonest = self._keys(), now + LOOK_SECONDS
        for watch in tuple(self._by_fact.get(EVERYTHING, ())):
            if watch.token.kid not in keys:
                self._end(watch, Code.TOKEN_INVALID)
            elif watch.token.claims.exp <= now:
                self._end(watch, Code.TOKEN_EXPIRED)
            else:
                soonest = min(soonest, watch.token.claims.exp)
        return soonest - now

    def _end(self, watch: Watch, code: Code) -> None:
        if watch not in self._by_fact.get(EVERYTHING, ()):
            return  # stopped meanwhile, by what another one was told
        self.forget(watch)
        try:
            watch.ended(code)
        except Exception as error:  # noqa: BLE001 - one that fails must not keep the others from hearing
            _log.error("what was to end with a token failed: %s", type(error).__name__)


class Hanging:
    """A context whose body is cancelled when the token that it hangs on is good no more.

    Then it raises ``BrokerError`` with the reason, instead of the cancellation.
    """

    def __init__(self) -> None:
        """It hangs on nothing yet."""
        self._bound = asyncio.timeout(None)
        self._why: Code | None = None
        self._watch: Watch | None = None

    def on(self, watching: Callable[[Ended], Watch]) -> None:
        """Hang on a token; ``watching`` begins to watch it. A second time changes nothing."""
        if self._watch is None:
            self._watch = watching(self._ended)

    async def __aenter__(self) -> Self:
        """Begin."""
        await self._bound.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        if self._watch is not None:
            self._watch.stop()
        try:
            await self._bound.__aexit__(kind, error, trace)
        except TimeoutError:
            if self._why is None:
                raise
            raise BrokerError(self._why, _TEXTS[self._why]) from None

    def _ended(self, code: Code) -> None:
        self._why = code
        self._bound.reschedule(asyncio.get_running_loop().time())
