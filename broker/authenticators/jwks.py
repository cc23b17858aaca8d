"""The keys of one trusted issuer, kept fresh: nothing that a stranger sends causes a request of its own (law 10)."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Final

from broker.authenticators.key_source import KeySource
from broker.core.errors import Code, Unavailable
from broker.core.jwk import KeySet

STALE_SECONDS: Final = 3600
"""For how long after their time keys are still used while the issuer cannot be asked."""

UNKNOWN_SECONDS: Final = 60
"""A token with an unknown ``kid`` makes the keys be fetched before their time at most once in so many seconds."""

RETRY_SECONDS: Final = 5
"""After a failure the issuer is left alone for so many seconds."""

OVERTAKEN_SECONDS: Final = 10.0
"""By how much one request's time may lie before that of another, which came in later and asked for the keys sooner."""


class IssuerKeys:
    """Keys of one issuer's definition. Belongs to one event loop.

    Fresh keys are given out at once. Keys past their time are given out, too, while a request for new ones is under
    way, up to :data:`STALE_SECONDS`. There is never more than one request at a time. ``now`` is Unix seconds; a clock
    that steps back makes keys stale, no more.
    """

    def __init__(self, source: KeySource) -> None:
        """Nothing is fetched before somebody asks."""
        self._source = source
        self._keys: KeySet | None = None
        self._thumbprints: frozenset[str] = frozenset()
        self._inline = False
        self._fetched_at = 0.0
        self._ttl = 0
        self._failed_at: float | None = None
        self._failure = ""
        self._unknown_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def for_token(self, kid: str | None, now: float) -> KeySet:
        """Return the keys to verify a token with. Raises ``Unavailable`` if there are none that may be used.

        If none is called ``kid``, new ones are fetched first, unless that was done a moment ago.
        """
        keys = self.current(now)
        if keys is None:
            return await self._needed(now)
        if kid is not None and kid not in keys and not self._inline:
            return await self._looked_up_again(keys, now)
        return keys

    def trusts(self, thumbprint: str, now: float) -> bool:
        """Whether the issuer still publishes this key, as far as is known; asks nobody, and waits for nothing."""
        return self.current(now) is not None and thumbprint in self._thumbprints

    def current(self, now: float) -> KeySet | None:
        """Return the keys that may be used now, without waiting; begins to fetch new ones if it is time."""
        if self._keys is None:
            self._adopt_inline()
        if self._keys is None or self._inline:
            return self._keys
        if _within(now - self._fetched_at, self._ttl):
            return self._keys
        self._start(now)
        return self._keys if _within(now - self._fetched_at, self._ttl + STALE_SECONDS) else None

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self._fetching is not None

    async def refresh(self, now: float) -> None:
        """Fetch the keys if it is time, so that no request has to wait for it. Failures are kept for later."""
        with contextlib.suppress(Unavailable):
            if self.current(now) is None:
                self._start(now)
            if self._fetching is not None:
                await asyncio.wait({self._fetching})

    async def close(self) -> None:
        """End a request that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _needed(self, now: float) -> KeySet:
        self._start(now)
        if self._fetching is not None:
            await asyncio.wait({self._fetching})  # a caller that goes away leaves it to the others
        keys = self.current(now)
        if keys is None:
            left = RETRY_SECONDS if self._failed_at is None else RETRY_SECONDS - (now - self._failed_at)
            raise Unavailable(Code.ISSUER_UNAVAILABLE, self._failure, retry_after=max(1, math.ceil(left)))
        return keys

    async def _looked_up_again(self, keys: KeySet, now: float) -> KeySet:
        if self._fetching is None and not _recent(self._unknown_at, now, UNKNOWN_SECONDS):
            self._unknown_at = now
            self._start(now)
        if self._fetching is not None:
            await asyncio.wait({self._fetching})
        return self._keys or keys

    def _adopt_inline(self) -> None:
        inline = self._source.inline()
        if inline is not None:
            self._inline = True
            self._take(inline)

    def _take(self, keys: KeySet) -> None:
        self._keys = keys
        self._thumbprints = frozenset(key.thumbprint for key in keys)

    def _start(self, now: float) -> None:
        """Begin to fetch, unless that is under way, or has just failed."""
        if self._fetching is None and not _recent(self._failed_at, now, RETRY_SECONDS):
            self._fetching = asyncio.create_task(self._fetch(now), name="fetching an issuer's keys")

    async def _fetch(self, now: float) -> None:
        try:
            fetched = await self._source.fetch()
        except Unavailable as error:
            self._failed_at, self._failure = now, error.public
        else:
            self._failed_at, self._failure = None, ""
            self._take(fetched.keys)
            self._fetched_at, self._ttl = now, fetched.ttl
        finally:
            self._fetching = None


def _within(age: float, limit: float) -> bool:
    return -OVERTAKEN_SECONDS <= age < limit


def _recent(at: float | None, now: float, seconds: float) -> bool:
    return at is not None and _within(now - at, seconds)
