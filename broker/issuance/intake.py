"""What every token request goes through, whatever it asks for: who asks, in which task, how a refusal is recorded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from broker.core.change import Change
from broker.core.entry import Kind
from broker.core.errors import BrokerError, Code, EpochMoved, GuardFailed, Refused
from broker.core.identity import Agent
from broker.core.policy import Policy
from broker.core.tally import Allowance, Tally
from broker.core.task import Task
from broker.issuance.applicants import Applicant, Applicants, TokenRequest
from broker.issuance.records import refused_entry
from broker.ports import Caller, Clock, Ids, Ledger, Meter, Records

RECORDED_REFUSALS: Final = 60
"""Refusals per agent and minute that get an entry of their own; more are recorded in aggregate.

Agents without any role share this number with all such agents of their issuer."""

REMEMBERED_TASKS: Final = 4096
"""How many tasks are remembered as they were opened, which never changes."""

STALE_SECONDS: Final = 2.0
"""A decision that waited longer than this for a person is made again, at the time that it is then."""

_STRANGERS: Final = frozenset({Code.ASSERTION_REPLAYED, Code.PROOF_REPLAYED})
"""Guards that say the caller may not be who the assertion names; such a refusal is counted, not written."""


class Intake:
    """Takes token requests in, and turns those away that are refused."""

    def __init__(  # noqa: PLR0913 - a composition root passes each port by name
        self,
        *,
        applicants: Applicants,
        policy: Callable[[], Policy],
        ledger: Ledger,
        records: Records,
        clock: Clock,
        ids: Ids,
        meter: Meter,
        strangers: Tally,
    ) -> None:
        """``policy`` returns the one in force; ``strangers`` is what is recorded in aggregate."""
        self._applicants = applicants
        self._policy = policy
        self._ledger = ledger
        self._records = records
        self._clock = clock
        self._ids = ids
        self._meter = meter
        self._strangers = strangers
        self._recorded = Allowance(RECORDED_REFUSALS)
        self._tasks: OrderedDict[str, Task] = OrderedDict()

    async def identify(self, request: TokenRequest, caller: Caller) -> Applicant:
        """Say who asks. Raises ``BrokerError``; what fails here costs nothing lasting (law 10)."""
        try:
            return await self._applicants.identify(request, caller, self._clock.now())
        except BrokerError as error:
            self._count(error.code)
            raise

    async def stored_task(self, request: TokenRequest) -> Task | None:
        """Return the stored task that a request is about, as it was opened; None if there is none."""
        task_id = request.ask.task
        if task_id is None and (parent := self._applicants.exchanged(request, self._clock.now())) is not None:
            task_id = parent.task
        if task_id is None:
            return None
        known = self._tasks.get(task_id)
        if known is not None:
            self._tasks.move_to_end(task_id)
            return known
        state = await self._records.task(task_id)
        if state is None:
            return None
        self._tasks[task_id] = state.task
        if len(self._tasks) > REMEMBERED_TASKS:
            self._tasks.popitem(last=False)
        return state.task

    def check_fresh(self, applicant: Applicant, policy: Policy) -> None:
        """Raise ``EpochMoved`` if people took so long to decide that everything else must be looked at again.

        ``policy`` is the one that it was decided by.
        """
        if self._clock.now() - applicant.now > STALE_SECONDS or self._policy() is not policy:
            raise EpochMoved

    async def refusal(
        self, applicant: Applicant, error: Refused | GuardFailed, kind: Kind = Kind.TOKEN_REFUSED
    ) -> BrokerError:
        """Record a refusal of an authenticated agent, as an entry of this ``kind``, and return what to raise.

        The assertion is used up with it. An agent that is refused all the time gets no entry of its own for each
        refusal, and its assertion is then left unused: it can only ask again. A refusal that cannot be recorded is
        answered with the ledger's failure.
        """
        code, reason, retry_after = error.code, error.public, error.retry_after
        if code in _STRANGERS or not self._recorded.admit(self._refused_as(applicant.agent), applicant.now):
            self._count(code)
            return Refused(code, reason, retry_after=retry_after)
        refusal = self._ids.new("ref")
        parent = self._applicants.exchanged(applicant.request, applicant.now)
        record = refused_entry(applicant, parent, refusal, (code, reason), self._policy().digest, kind)
        try:
            await self._ledger.commit(Change(record, applicant.guards))
        except GuardFailed as failed:
            self._count(failed.code)
            return Refused(failed.code, failed.public)
        self._meter.refused(code.value)
        return Refused(code, reason, refusal=refusal, retry_after=retry_after)

    def _count(self, code: Code) -> None:
        """Count a refusal that is recorded in aggregate."""
        self._strangers.add(code.value)
        self._meter.refused(code.value)

    def _refused_as(self, agent: Agent) -> str:
        """Return under which name an agent's refusals are counted.

        An issuer may vouch for anybody (GitHub does, under as many names as one likes). Whoever has no role here is as
        good as a stranger, so all of them together get no more entries than one agent (law 10).
        """
        return agent.id if self._policy().roles_of(agent) else f"{agent.issuer}/"
