"""The way into the ledger: batches of changes, judged and written in one transaction."""
