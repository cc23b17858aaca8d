"""What this process has in memory of the ledger: brought up to date by its own commits, and by looking.

Belongs to the event loop, as the indexes of rules and blocks do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from broker.core.change import StoredKey
from broker.ledger.reading.reader import Reader
from broker.ledger.sharing import memory
from broker.ledger.sharing.catching_up import changes, require_continuation
from broker.ledger.sharing.head import Head
from broker.ledger.sharing.memory import Effects
from broker.ports import Clock, Revocations

KeysFollower = Callable[[Sequence[StoredKey]], None]
"""Told all keys of the ring whenever any may have changed. Must not raise."""

PolicyFollower = Callable[[str], None]
"""Told the digest of a policy that another process recorded. Must not raise."""


class View:
    """Rules, blocks and keys as of one size of the ledger; whoever holds more of it is told what changed."""

    def __init__(self, loaded: Effects, revocations: Revocations, clock: Clock) -> None:
        """``loaded`` is all that is in force in the ledger; it is applied at once."""
        self._revocations = revocations
        self._clock = clock
        self._keys_follower: KeysFollower | None = None
        self._policy_follower: PolicyFollower | None = None
        self.keys: Sequence[StoredKey] = ()
        """All keys of the ring, revoked ones included."""
        self._policy: str | None = None
        self.size = loaded.size
        """Everything that was committed up to this size of the ledger is in force in this process."""
        self._apply(loaded)

    def follow(self, *, keys: KeysFollower | None = None, policy: PolicyFollower | None = None) -> None:
        """Tell of keys and policies from now on, and at once of a policy that was recorded since the opening."""
        self._keys_follower = keys or self._keys_follower
        self._policy_follower = policy or self._policy_follower
        if policy is not None and self._policy is not None:
            policy(self._policy)

    def take(self, effects: Effects) -> bool:
        """Apply what became durable; whether it was new: what was looked up before may be ahead of what was told."""
        if effects.size <= self.size:
            return False
        self._apply(effects)
        self.size = effects.size
        return True

    async def look(self, reader: Reader, known: Head) -> Effects:
        """Read what was changed beyond this view, to be taken (:meth:`take`). Raises :class:`Unavailable`.

        ``known`` is a head that was durable before, which the ledger must continue.
        """
        epoch, size, now = self._revocations.rules.epoch, self.size, self._clock.now()

        def read(connection: Connection) -> Effects:
            found = Head.read(connection)
            require_continuation(connection, known, found)
            return changes(connection, epoch, size, found, now)

        return await reader.read(read)

    def _apply(self, effects: Effects) -> None:
        memory.apply(effects, self._revocations)
        if effects.keys is not None:
            self.keys = effects.keys
            if self._keys_follower is not None:
                self._keys_follower(effects.keys)
        if effects.policy is not None:
            self._policy = effects.policy
            if self._policy_follower is not None:
                self._policy_follower(effects.policy)
