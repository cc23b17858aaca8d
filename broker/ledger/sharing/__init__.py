"""One ledger, several processes: whose turn it is, what the others have changed, and whether what is known is fresh."""
