"""Right-sizing: the policy in force held against what was used of it, for people to decide on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from broker.core.advice import Advice
from broker.core.errors import BrokerError, Code, Malformed
from broker.core.policy import Policy
from broker.core.proposing import advise
from broker.ports import Clock, Records

DEFAULT_DAYS: Final = 30
MAX_DAYS: Final = 3660
_DAY: Final = 24 * 3600


class RightSizing:
    """Gives advice. It changes nothing, and proposes nothing that could make a policy wider."""

    def __init__(self, *, records: Records, policy: Callable[[], Policy], clock: Clock) -> None:
        """``policy`` returns the one in force."""
        self._records = records
        self._policy = policy
        self._clock = clock

    async def advice(self, *, days: int = DEFAULT_DAYS, role: str | None = None, force: bool = False) -> Advice:
        """Return what was used of the policy, or of one role of it, in so many days, and what is proposed.

        With ``force``, roles are judged that are not known to have been as they are for so long. Raises ``Malformed``,
        ``BrokerError`` (``NOT_FOUND``) for an unknown role, and ``Unavailable``.
        """
        if not 1 <= days <= MAX_DAYS:
            raise Malformed(f"days: must be 1 to {MAX_DAYS}")
        if role is not None and role not in self._policy().roles:
            raise BrokerError(Code.NOT_FOUND, "the policy has no role of this name")
        now = self._clock.now()
        usage = await self._records.usage(now - days * _DAY)
        return advise(self._policy(), usage, until=now, role=role, force=force)
