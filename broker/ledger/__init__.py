"""The ledger: the append-only record and the only store, in SQL."""

from broker.ledger.store import SqlLedger

__all__ = ["SqlLedger"]
