"""What a writer stands on beside the database: whose turn it is, and whether the ground is still its own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import Connection


class Premises(Protocol):
    """One for each way in which a ledger is shared: one host's file, or a database that several hosts reach.

    Used in the thread of the writer alone. But for :meth:`turn`, everything is called inside of a turn.
    """

    def turn(self) -> AbstractContextManager[None]:
        """Keep the other writers of the ledger out until the end of the context, or of this process.

        Where the database itself keeps them out from the first look at the head on, there is nothing to do. Raises
        :class:`Unavailable`.
        """
        ...

    def check(self) -> None:
        """Raise :class:`Unavailable` if this process must not write now; with ``LEDGER_CORRUPT``, never again."""
        ...

    def connecting(self) -> AbstractContextManager[None]:
        """Take what the ground has become at the end of the context for our own doing.

        Raises :class:`Unavailable` (``LEDGER_CORRUPT``) if that cannot be.
        """
        ...

    def disconnecting(self) -> AbstractContextManager[None]:
        """Like :meth:`connecting`, around giving up the connection."""
        ...

    def committed(self) -> None:
        """Look at the ground once more after a commit: what went into files that are gone is not durable (law 1).

        Raises :class:`Unavailable` (``LEDGER_CORRUPT``) if it did.
        """
        ...

    def announce(self, changed: int) -> None:
        """Let every process know how far it must know the ledger before it judges anything; see ``Head.changed``.

        Called before the commit that makes it so, and again with what is so at the start of each turn: a commit that
        was announced may have failed.
        """
        ...

    @property
    def log_is_long(self) -> bool:
        """Whether the log is so long that it must be copied back even if there is other work."""
        ...

    def copy_back(self, connection: Connection) -> None:
        """Copy the log back into the database, as far as nobody needs it. Raises what the database raises."""
        ...

    def empty_log(self, connection: Connection) -> bool:
        """Copy the log back and cut it to nothing; whether that was possible now. Raises like :meth:`copy_back`."""
        ...

    def close(self) -> None:
        """Give up what was taken. The last call, from any thread."""
        ...
