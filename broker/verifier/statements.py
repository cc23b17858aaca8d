"""Reading the broker's signed statements with the keys that it publishes, which are fetched when one of them is new."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from broker.core.feed import Heartbeat, RuleStatement, verify_heartbeat, verify_rule
from broker.core.jwk import KeySet
from broker.core.jwt import InvalidToken, parse
from broker.core.snapshot import MAX_SNAPSHOT, Snapshot, verify_snapshot
from broker.core.statement import StatementError
from broker.verifier.broker_keys import BrokerKeys

LARGE: Final = 64 * 1024
"""Statements from this size on (bytes) are read in a thread, so that requests are answered meanwhile."""

Statement = Snapshot | RuleStatement | Heartbeat

T_co = TypeVar("T_co", bound=Statement, covariant=True)
T = TypeVar("T", bound=Statement)


class _Read(Protocol[T_co]):
    def __call__(self, token: str, keys: KeySet, *, issuer: str, now: float, skew: float) -> T_co: ...


_KINDS: Final[dict[str, _Read[Statement]]] = {
    "snapshot": verify_snapshot,
    "rule": verify_rule,
    "heartbeat": verify_heartbeat,
}


class Statements:
    """Verifies statements of one broker."""

    def __init__(self, issuer: str, *, keys: BrokerKeys, leeway: float, wall: Callable[[], float]) -> None:
        """``leeway`` (seconds) is by how much the broker's clock may differ from ``wall``, which is in Unix seconds."""
        self._issuer = issuer
        self._keys = keys
        self._leeway = leeway
        self._wall = wall

    async def snapshot(self, token: str) -> Snapshot:
        """Verify a snapshot and return what it says.

        Raises ``InvalidToken``, :class:`~broker.core.statement.StatementError`, and what fetching keys raises.
        """
        return await self._read(verify_snapshot, token, self._wall())

    async def event(self, name: str, token: str) -> Statement:
        """Verify the statement that an event of the feed carries; ``name`` is the event's. Raises the same."""
        return await self._read(_kind(name), token, self._wall())

    async def past(self, name: str, token: str) -> Statement:
        """Verify a statement that was kept, as of the moment it was made, which must not be to come. Raises the same.

        How old it is, is for the view to say.
        """
        stated = parse(token, max_bytes=MAX_SNAPSHOT).payload.get("iat")
        at = stated if isinstance(stated, int) and not isinstance(stated, bool) else 0
        return await self._read(_kind(name), token, min(self._wall(), float(at)))

    async def _read(self, read: _Read[T], token: str, now: float) -> T:
        try:
            return await self._verified(read, token, now)
        except InvalidToken as error:
            if error.why != "kid":
                raise
        await self._keys.refresh()  # what the broker signs with a new key is told apart from what strangers send
        return await self._verified(read, token, now)

    async def _verified(self, read: _Read[T], token: str, now: float) -> T:
        def verified() -> T:
            return read(token, self._keys.current, issuer=self._issuer, now=now, skew=self._leeway)

        return verified() if len(token) < LARGE else await asyncio.to_thread(verified)


def _kind(name: str) -> _Read[Statement]:
    """Return how an event is read. One of a kind that is not known may say anything: it is refused."""
    if name not in _KINDS:
        raise StatementError("an event of an unknown kind")
    return _KINDS[name]
