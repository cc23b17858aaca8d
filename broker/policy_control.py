"""The policy in force: loaded as a whole, recorded in the ledger, replaced atomically."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from broker.core.change import Change
from broker.core.entry import Kind, entry
from broker.core.policy import Policy
from broker.ports import Caller, Clock, Ledger


class PolicyControl:
    """Holds the policy in force. A policy that cannot be loaded or recorded changes nothing."""

    def __init__(self, policy: Policy, load: Callable[[], Policy], *, ledger: Ledger, clock: Clock) -> None:
        """``load`` reads the policy file anew; it raises ``BrokerError`` (``POLICY_INVALID``) with every problem."""
        self._policy = policy
        self._load = load
        self._ledger = ledger
        self._clock = clock
        self._turn = asyncio.Lock()

    def current(self) -> Policy:
        """Return the policy in force."""
        return self._policy

    async def reload(self, *, by: str, caller: Caller | None = None) -> Policy:
        """Load the policy file and put it in force once the ledger has recorded its digest.

        Raises what ``load`` raises, or ``Unavailable``; the policy in force stays then. Reloads happen one after the
        other, and to the end even if the caller gives up: the last one that the ledger records is the one in force.
        """
        return await asyncio.shield(asyncio.ensure_future(self._replace(by, caller)))

    async def _replace(self, by: str, caller: Caller | None) -> Policy:
        async with self._turn:
            policy = self._load()
            await self._record(policy, by, caller)
            self._policy = policy
            return policy

    async def record(self) -> None:
        """Record the policy that the broker started with."""
        await self._record(self._policy, "broker", None)

    async def _record(self, policy: Policy, by: str, caller: Caller | None) -> None:
        members = {} if caller is None else caller.members()
        record = entry(Kind.POLICY_LOADED, self._clock.now(), by=by, policy=policy.digest, **members)
        await self._ledger.commit(Change(record))
