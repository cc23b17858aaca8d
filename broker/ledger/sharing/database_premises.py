"""What a writer stands on when the ledger is in a database that several hosts reach: nothing but that database."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from sqlalchemy import Connection

from broker.ports import Server


class DatabasePremises:
    """Implements ``Premises``. The database keeps writers apart, from the first look at the head on."""

    log_is_long = False

    def __init__(self, server: Server) -> None:
        """Nothing is taken: everybody may write to a database, one after the other."""
        self.server = server

    def turn(self) -> AbstractContextManager[None]:
        """Do nothing: the transaction waits for the head, and has it until it ends."""
        return nullcontext()

    def check(self) -> None:
        """Do nothing: a database that is not the known ledger shows by its head."""

    def connecting(self) -> AbstractContextManager[None]:
        """Do nothing: there are no files."""
        return nullcontext()

    def disconnecting(self) -> AbstractContextManager[None]:
        """Do nothing, as well."""
        return nullcontext()

    def committed(self) -> None:
        """Do nothing: a commit that the database confirmed is durable."""

    def announce(self, changed: int) -> None:
        """Do nothing: other hosts are told by the database, when the transaction has committed."""

    def copy_back(self, connection: Connection) -> None:
        """Do nothing: the database does that by itself."""

    def empty_log(self, connection: Connection) -> bool:
        """Do nothing, and say that it cannot be done: the database's own log is not ours to cut."""
        del connection
        return False

    def close(self) -> None:
        """Do nothing: nothing was taken."""
