"""What becomes of old entries: archives, erasure, forgetting; and moving a ledger or putting an older one back."""
