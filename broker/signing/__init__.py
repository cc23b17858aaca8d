"""What the broker signs with its own keys: tokens and ledger checkpoints."""
