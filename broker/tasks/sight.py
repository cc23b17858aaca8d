"""What the holder of a token may see of stored tasks, and which of them are under it."""

from __future__ import annotations

from broker.core.claims import AccessClaims
from broker.core.errors import Code, Refused
from broker.core.task import Task, TaskState, parse_task_id
from broker.core.task_reach import Reach, reach_of
from broker.ports import Records


class Sight:
    """Looks up tasks for a caller."""

    def __init__(self, records: Records) -> None:
        """Nothing is kept between calls."""
        self._records = records

    async def reach(self, claims: AccessClaims) -> Reach:
        """Return the reach of a token."""
        own = await self._records.task(claims.task)
        return reach_of(claims, None if own is None else own.task)

    async def governs(self, reach: Reach, task: Task) -> bool:
        """Whether the caller comes as the owner of a task, or of one above it."""
        if not reach.covers(task):
            return False
        if task.owner == reach.agent:
            return True
        for above in reversed(task.path):
            state = await self._records.task(above)
            if state is not None and state.task.owner == reach.agent:
                return True
        return False

    async def visible(self, task_id: str, reach: Reach) -> TaskState:
        """Return a task that the caller may see. Raises ``Refused`` (``NOT_FOUND``) as if any other did not exist."""
        state = await self.stored(task_id)
        if reach.sees_all() or reach.is_within(state.task) or await self.governs(reach, state.task):
            return state
        raise not_found()

    async def stored(self, task_id: str) -> TaskState:
        """Return a task, whoever asks. Raises ``Refused`` (``NOT_FOUND``)."""
        state = await self._records.task(parse_task_id(task_id))
        if state is None:
            raise not_found()
        return state


def not_found() -> Refused:
    """Return the one answer about tasks that do not exist and about tasks that are none of the caller's business."""
    return Refused(Code.NOT_FOUND, "there is no such task")
