"""The parts of verifying a ledger: where entries come from, what is checked of each alone, and the tree over them."""
