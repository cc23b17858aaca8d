"""What somebody knows of the ledger's tree: how many entries it had once, and the root over them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownHead:
    """The tree had ``size`` entries and this RFC 6962 root."""

    size: int
    root: bytes
