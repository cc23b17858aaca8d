"""Secrets of others: their backends, and the record of leases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from broker.core.lease import Ended, LeaseOrder, LeaseState, LeaseStatus, Taken
from broker.core.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseFilter:
    """Which leases to list; None is any. ``below`` is a task with all below it."""

    agent: str | None = None
    below: str | None = None
    status: LeaseStatus | None = None
    secret: str | None = None
    backend: str | None = None
    before: str | None = None
    limit: int = 100


class LeaseRecords(Protocol):
    """Reading leases; like :class:`Records` otherwise."""

    async def lease(self, lease_id: str) -> LeaseState | None:
        """Return a lease."""
        ...

    async def leases(self, wanted: LeaseFilter) -> Sequence[LeaseState]:
        """Return leases, the youngest first, with ids below ``before``."""
        ...

    async def running_leases(self, *, after: str = "", limit: int = 1000) -> Sequence[LeaseState]:
        """Return leases that are opening, live, or held although they have ended, by id, with ids above ``after``."""
        ...

    async def over_leases(self, now: float, limit: int = 1000) -> Sequence[LeaseState]:
        """Return live leases whose time is over, the longest ended first."""
        ...

    async def lease_backends(self, now: float) -> Sequence[str]:
        """Return the backends with leases that are to be revoked at ``now``; held ones are left out."""
        ...

    async def lease_work(
        self, backend: str, now: float, limit: int, *, without: frozenset[str] = frozenset()
    ) -> Sequence[LeaseState]:
        """Return the leases of a backend that are to be revoked at ``now``, the longest waiting first.

        Those whose ids are in ``without`` are left out.
        """
        ...

    async def lease_outcomes(self, rule: int) -> Mapping[LeaseStatus, int]:
        """Return how many of the leases that a rule ended are in each state."""
        ...

    async def oldest_lease_end(self) -> float | None:
        """Return since when (Unix seconds) the lease has waited that waits the longest to be confirmed dead."""
        ...

    async def lease_counts(self) -> Mapping[tuple[str, LeaseStatus], int]:
        """Return how many leases there are by backend and state, those that were settled long ago left out."""
        ...


class Backend(Protocol):
    """Where leased secrets come from: it makes or gives them, renews and ends them.

    A *handle* is text by text, holds no secret, and is all that a later process needs to go on. Every method may be
    cancelled, is bounded in time, and raises ``BackendFailed`` and nothing else; with ``uncertain`` if what was asked
    may have happened all the same. Calls run at the same time, for one lease as well.
    """

    async def prepare(self, order: LeaseOrder) -> Mapping[str, str]:
        """Return the handle with which a secret that :meth:`take` made can be ended although its answer was lost.

        It is recorded, durably, before ``take`` is called with it. What this itself makes holds no secret of its own,
        and ends by itself.
        """
        ...

    async def take(self, order: LeaseOrder, handle: Mapping[str, str]) -> Taken:
        """Make or read the secret. If this raises without ``uncertain``, no secret was made."""
        ...

    async def renew(self, handle: Mapping[str, str], seconds: int) -> int:
        """Let a secret live for ``seconds`` from now; return for how many it does, which may be fewer.

        Raises ``BackendFailed`` with ``LEASE_ENDED`` if there is nothing to renew any more.
        """
        ...

    async def revoke(self, handle: Mapping[str, str]) -> Ended:
        """End a secret, by the handle of a ``prepare`` or of a :class:`Taken`. Returns once the backend says so.

        Ending what has ended, or was never made, succeeds. Doing it twice, at the same time as well, is harmless.
        """
        ...

    async def close(self) -> None:
        """Give back connections and threads. What is still running is left to its time-out."""
        ...


@runtime_checkable
class RevokesPrefixes(Protocol):
    """A backend that can end everything below a path at once, whoever took it."""

    async def revoke_prefix(self, prefix: str) -> None:
        """End every secret below a path. Returns once the backend says so; raises ``BackendFailed``.

        Some may have been ended then.
        """
        ...


class Backends(Protocol):
    """The configured backends, each behind a gate that bounds what goes on at once."""

    def of(self, name: str) -> Backend:
        """Return a backend by its name. Raises ``BackendFailed`` (``BACKEND_REFUSED``) if none is configured so."""
        ...

    async def revoke_prefix(self, name: str, prefix: str) -> None:
        """End everything below a path of a backend; see :class:`RevokesPrefixes`.

        Raises ``BackendFailed`` (``BACKEND_REFUSED``) if there is no such backend, or if it knows no paths.
        """
        ...

    def states(self) -> Mapping[str, str]:
        """Return ``closed``, ``open`` or ``half_open`` for each: an open one is not asked for a while."""
        ...

    def ends_secrets(self, name: str) -> bool:
        """Whether a backend is to be asked to end secrets now, or is left alone for a while."""
        ...


class Envelope(Protocol):
    """Encrypts secrets to agents' own keys."""

    def check(self, jwk: object) -> str:
        """Return the thumbprint (RFC 7638) of a key that can be encrypted to. Raises ``Malformed``."""
        ...

    def seal(self, data: Secret, jwk: object) -> str:
        """Return a compact JWE. Raises ``Malformed`` as :meth:`check` does."""
        ...
