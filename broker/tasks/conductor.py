"""Tasks: opening, showing, keeping alive and closing the units of work that credentials belong to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from broker.core.change import Change, Heartbeat, RateWithin, TaskOpen
from broker.core.claims import AccessClaims
from broker.core.errors import Code, Refused
from broker.core.policy import Policy
from broker.core.revoking import check_text
from broker.core.task import TaskState
from broker.core.task_opening import TaskWish
from broker.ports import Caller, Clock, Events, Ids, Ledger, Records, Revocations
from broker.tasks.closing import Closed, Closing, Revoker
from broker.tasks.opening import Openings
from broker.tasks.records import End, heard_entry
from broker.tasks.sight import Sight, not_found

CLOSED: Final = "closed"
"""Why a task ended that somebody closed."""

HEARTBEATS_PER_MINUTE: Final = 60
"""Heartbeats of one task: each is an entry of the ledger."""

COUNTED: Final = 1000
"""How many of the tasks below a task are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which tasks to list: of one owner, below one task, only open ones, with ids below ``before``."""

    owner: str | None = None
    parent: str | None = None
    only_open: bool = False
    before: str | None = None
    limit: int = 100


class Tasks:
    """Opens, shows, keeps alive and closes tasks, for holders of tokens for the broker's own API."""

    def __init__(  # noqa: PLR0913 - a composition root passes each port by name
        self,
        *,
        ledger: Ledger,
        records: Records,
        revocations: Revocations,
        revoker: Revoker,
        policy: Callable[[], Policy],
        clock: Clock,
        ids: Ids,
        events: Events,
    ) -> None:
        """``revocations`` are the rules in force in this process; ``policy`` returns the one in force."""
        self._ledger = ledger
        self._records = records
        self._clock = clock
        self._sight = Sight(records)
        self._openings = Openings(
            ledger=ledger, records=records, sight=self._sight, revocations=revocations, policy=policy, ids=ids
        )
        self._closing = Closing(ledger=ledger, records=records, revocations=revocations, revoker=revoker, events=events)

    async def open(self, wish: TaskWish, claims: AccessClaims, caller: Caller, key: str | None = None) -> TaskState:
        """Open a task for the holder of a token, under the role of that token.

        With an idempotency ``key``, the same request again is answered with the same task. Raises ``Malformed``,
        ``Refused`` (see :meth:`Opening.task`; also ``NO_ROLE``, ``BLOCKED``, ``TOKEN_REVOKED``, and ``NOT_FOUND`` for a
        parent that is none of the caller's business), ``GuardFailed`` (``RATE_LIMITED``, ``TASK_NOT_OPEN``,
        ``BUDGET_USED_UP``) or ``Unavailable``.
        """
        return await self._openings.open(wish, claims, caller, key, self._clock.now())

    async def show(self, task_id: str, claims: AccessClaims) -> tuple[TaskState, int]:
        """Return a task, and how many there are below it (up to :data:`COUNTED`). Raises ``Refused`` (``NOT_FOUND``).

        It is shown to its owner, to the owners of the tasks above it, to whoever comes with a token of it or of a task
        below it, and to operators.
        """
        reach = await self._sight.reach(claims)
        state = await self._sight.visible(task_id, reach)
        return state, len(await self._records.tasks(below=task_id, limit=COUNTED))

    async def index(self, wanted: TaskFilter, claims: AccessClaims) -> Sequence[TaskState]:
        """Return tasks, the youngest first: one's own, or those below a task of one's own; operators see all.

        Raises ``Refused`` (``NOT_FOUND`` for a parent that is none of the caller's business, ``INSUFFICIENT_SCOPE`` for
        other owners' tasks).
        """
        reach = await self._sight.reach(claims)
        owner, below = wanted.owner, wanted.parent
        if not reach.sees_all():
            if below is not None:
                parent = await self._sight.visible(below, reach)
                if not reach.is_below(parent.task) and not await self._sight.governs(reach, parent.task):
                    raise not_found()  # a token of a task sees those above it, not what else is below them
            else:
                if owner not in {None, reach.agent}:
                    raise Refused(Code.INSUFFICIENT_SCOPE, "listing others' tasks needs the scope operator:read")
                owner, below = reach.agent, (claims.task if reach.confined else None)
        open_at = self._clock.now() if wanted.only_open else None
        return await self._records.tasks(
            owner=owner, below=below, open_at=open_at, before=wanted.before, limit=wanted.limit
        )

    async def heartbeat(self, task_id: str, claims: AccessClaims, caller: Caller) -> TaskState:
        """Note that work on a task goes on. For its owner, owners above, and holders of tokens of this very task.

        Raises ``Refused`` (``NOT_FOUND``), ``GuardFailed`` (``TASK_NOT_OPEN``, ``RATE_LIMITED``) or ``Unavailable``.
        """
        now = self._clock.now()
        reach = await self._sight.reach(claims)
        state = await self._sight.visible(task_id, reach)
        if claims.task != task_id and not await self._sight.governs(reach, state.task):
            raise not_found()
        guards = (TaskOpen(task_id, now), RateWithin(f"heartbeat/{task_id}", HEARTBEATS_PER_MINUTE, now))
        await self._ledger.commit(Change(heard_entry(task_id, claims, now, caller), guards, (Heartbeat(task_id, now),)))
        return replace(state, heartbeat_at=max(now, state.heartbeat_at))

    async def close(self, task_id: str, claims: AccessClaims, reason: str, caller: Caller) -> Closed:
        """Close a task with all below it, which ends every grant in them. Closing it again changes nothing.

        For its owner, the owners of the tasks above it, and whoever may revoke. Raises ``Refused`` (``NOT_FOUND``;
        ``INSUFFICIENT_SCOPE`` for a task that the caller may only see) or ``Unavailable``.
        """
        check_text("reason", reason)
        now = self._clock.now()
        reach = await self._sight.reach(claims)
        state = await (self._sight.stored(task_id) if reach.ends_all() else self._sight.visible(task_id, reach))
        if not reach.ends_all() and not await self._sight.governs(reach, state.task):
            raise Refused(Code.INSUFFICIENT_SCOPE, "closing another's task needs the scope revocations:write")
        return await self._closing.close(state, End(CLOSED, reach.agent, reason, caller, now))

    async def close_due(self) -> int:
        """Close the tasks whose deadline or idle time-out has passed; see :meth:`Closing.close_due`."""
        return await self._closing.close_due(self._clock.now())
