"""Several processes on one host that serve one ledger: the supervisor, its workers, and what they tell each other."""
