"""Telling others: metrics, logs, and people who decide."""

from __future__ import annotations

from typing import Any, Protocol

from broker.core.approval import ApprovalState


class Meter(Protocol):
    """Counts what happens, with fixed label values."""

    def issued(self, role: str, method: str) -> None:
        """Count one issued token."""
        ...

    def refused(self, code: str) -> None:
        """Count one refusal, of an agent or of a stranger."""
        ...

    def revoked(self, *, durable: bool) -> None:
        """Count one revocation."""
        ...

    def lease(self, event: str, backend: str) -> None:
        """Count what happens to leases: ``taken``, ``renewed``, ``failed``, ``missed``, or the state they end in."""
        ...

    def lease_ended(self, backend: str, seconds: float) -> None:
        """Record how long after its end a backend confirmed that a lease is dead."""
        ...

    def consent(self, event: str) -> None:
        """Count what happens to requests for approval; ``event`` as in :meth:`Notifier.approval`, or ``used``."""
        ...


class FeedMeter(Protocol):
    """Counts what those who follow the feed are told, with fixed label values."""

    def fed(self, event: str, followers: int) -> None:
        """Count an event (``rule``, ``heartbeat``, ``snapshot``) as often as it was sent."""
        ...

    def unfollowed(self, why: str) -> None:
        """Count a follower whom the broker sent away: ``slow``, ``expired``, ``revoked``."""
        ...


class Notifier(Protocol):
    """Tells people that somebody waits for them. At least once, in no order, never blocking the caller."""

    def approval(self, state: ApprovalState, event: str) -> None:
        """Announce a request: ``event`` is ``requested``, ``approved``, ``denied``, ``break_glass`` or ``reviewed``.

        Nothing is promised about when; a failure is retried and never reaches the caller.
        """
        ...


class Events(Protocol):
    """Structured operational log. Values are text or numbers; secrets and tokens never go here."""

    def info(self, event: str, **members: Any) -> None:  # noqa: ANN401 - JSON values
        """Something normal that an operator wants to find later."""
        ...

    def error(self, event: str, **members: Any) -> None:  # noqa: ANN401 - JSON values
        """Something an operator must look at."""
        ...
