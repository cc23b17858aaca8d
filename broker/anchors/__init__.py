"""Anchors: places beyond the broker's reach that keep checkpoints of the ledger."""
