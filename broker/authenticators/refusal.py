"""The one answer to every bad assertion: it does not tell which issuers, agents or keys exist."""

from __future__ import annotations

from broker.core.errors import Code, Refused

TEXT = "the assertion is not one that this broker accepts"


def refused() -> Refused:
    """Return what to raise from the ``InvalidToken`` that is the cause; its ``why`` is for logs and metrics only."""
    return Refused(Code.ASSERTION_INVALID, TEXT)
