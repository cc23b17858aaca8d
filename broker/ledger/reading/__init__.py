"""Questions to the ledger, answered beside the writer."""
