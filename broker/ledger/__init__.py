"""The ledger: the append-only record and the only store, in SQL."""
