"""One attempt at a token request: what is decided, and what it is decided on, all of it as of one epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from broker.core.access_token import VerifiedToken
from broker.core.bounds import revoking, unopened, within_task
from broker.core.change import EpochIs, Guard, RateWithin, Spend, TaskOpen
from broker.core.claims import AccessClaims
from broker.core.decide import decide
from broker.core.delegation import NOT_ALLOWED, Lineage, judge_exchange
from broker.core.errors import Code
from broker.core.grant import Decision, Denied, Granted, NeedsApproval
from broker.core.implicit_task import implicit_task
from broker.core.policy import Policy, Role
from broker.core.rules import RuleIndex
from broker.core.subject import Subject, Wanted, judge_subject
from broker.core.task import TOKENS, Task
from broker.issuance.applicants import Applicant
from broker.issuance.leave import Plea
from broker.ports import Revocations

_NO_TASK: Final = Denied(Code.TASK_NOT_OPEN, "there is no such task, or it is not open, or it is not this agent's")

_REVOKED: Final = Denied(Code.SUBJECT_TOKEN_INVALID, "subject_token: it has been revoked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is decided about one request.

    ``parent`` is the token that is exchanged, or that a trusted issuer's token stands for; by which role of its agent,
    ``on_behalf_of`` says then. ``task`` is what the token is to belong to; None is one of its own.
    """

    applicant: Applicant
    policy: Policy
    epoch: int
    decision: Decision
    parent: VerifiedToken | None = None
    task: Task | None = None
    lineage: Lineage | None = None
    on_behalf_of: Role | None = None

    def plea(self, granted: Granted) -> Plea:
        """Return the case as people are shown it."""
        parent = None if self.parent is None else self.parent.claims
        return Plea(applicant=self.applicant, role=granted.role, tier=granted.tier, parent=parent, task=self.task)

    def guards(self, granted: Granted, until: int) -> tuple[Guard, ...]:
        """Return what must hold when a token that ends at ``until`` (Unix seconds) is recorded, but for approvals."""
        applicant = self.applicant
        return (
            EpochIs(self.epoch),
            *applicant.guards,
            *applicant.subject_guards,
            *self._rates(granted),
            *spending(self.task, until, applicant.now),
        )

    def _rates(self, granted: Granted) -> list[RateWithin]:
        """Return how many there may be: of the agent, of its role, and of both on whose behalf it is."""
        limits = [
            (f"agent/{granted.role}/{self.applicant.agent.id}", granted.agent_per_minute),
            (f"role/{granted.role}", granted.role_per_minute),
        ]
        role, subject = self.on_behalf_of, self.applicant.subject
        if role is not None and subject is not None:
            limits += [
                (f"agent/{role.name}/{subject.agent.id}", role.limits.tokens_per_minute),
                (f"role/{role.name}", role.limits.role_tokens_per_minute),
            ]
        return [RateWithin(key, limit, self.applicant.now) for key, limit in limits if limit is not None]


def judge_case(
    applicant: Applicant, parent: VerifiedToken | None, task: Task | None, policy: Policy, revocations: Revocations
) -> Case:
    """Decide, without any pause: all that it looks at is of the same moment and the same epoch.

    ``parent`` is a token of ours to be exchanged; ``task`` the stored one that the request is about.
    """
    rules, blocks, epoch = revocations.rules, revocations.blocks, revocations.rules.epoch
    agent, ask, now = applicant.agent, applicant.ask, applicant.now
    if applicant.subject is not None:
        return _on_behalf(applicant, applicant.subject, task, policy, revocations)
    lineage: Lineage | None = None
    decision: Decision
    if parent is None:
        decision = decide(policy, blocks, agent, ask, now)
    else:
        exchange = judge_exchange(policy, blocks, parent, agent, ask, now)
        decision, lineage = exchange.decision, exchange.lineage
        task = task or implicit_of(policy, parent.claims, ask.task)
    if not may_work_on(task, applicant, parent):
        decision = _or_no_task(decision)
    return Case(
        applicant=applicant,
        policy=policy,
        epoch=epoch,
        decision=_in_task(decision, task, policy, rules, now),
        parent=parent,
        task=task,
        lineage=lineage,
    )


def _on_behalf(
    applicant: Applicant, subject: Subject, task: Task | None, policy: Policy, revocations: Revocations
) -> Case:
    """Decide what a trusted issuer's token about another agent is good for."""
    rules, now = revocations.rules, applicant.now
    wanted = Wanted(
        policy=policy,
        blocks=revocations.blocks,
        subject=subject,
        actor=applicant.agent,
        ask=applicant.ask,
        task=task,
        now=now,
    )
    case = Case(applicant=applicant, policy=policy, epoch=rules.epoch, decision=NOT_ALLOWED)
    if revoking(rules, [subject.id], "token") is not None:
        return replace(case, decision=_REVOKED)
    judged = judge_subject(wanted)
    if isinstance(judged, Denied):
        return replace(case, decision=judged)
    return replace(
        case,
        decision=_in_task(judged.exchange.decision, judged.task, policy, rules, now),
        parent=judged.parent,
        task=judged.task,
        lineage=judged.exchange.lineage,
        on_behalf_of=judged.role,
    )


def _in_task(decision: Decision, task: Task | None, policy: Policy, rules: RuleIndex, now: float) -> Decision:
    """Return the decision as its task, and the rules that are about that, leave it."""
    if task is None or isinstance(decision, Denied):
        return decision
    if revoking(rules, (task.id, *task.path)) is not None:
        return _NO_TASK
    granted = decision.granted if isinstance(decision, NeedsApproval) else decision
    return unopened(policy.roles.get(granted.role), task) or within_task(decision, task, now)


def _or_no_task(decision: Decision) -> Decision:
    return decision if isinstance(decision, Denied) else _NO_TASK


def implicit_of(policy: Policy, parent: AccessClaims, named: str | None) -> Task | None:
    """Return the task of a token to be exchanged that is not stored yet: only one that was issued directly has none."""
    role = policy.roles.get(parent.role)
    if role is None or parent.parents or named not in (None, parent.task):
        return None
    return implicit_task(parent, role.limits)


def may_work_on(task: Task | None, applicant: Applicant, parent: VerifiedToken | None) -> bool:
    """Whether the applicant may have a token in a task: its own, or that of the token it exchanges, or one below it."""
    if task is None:
        return applicant.ask.task is None and parent is None
    if parent is None:
        return task.owner == applicant.agent.id and task.id == applicant.ask.task
    return parent.claims.task in (task.id, *task.path)


def spending(task: Task | None, until: int, now: float) -> tuple[Guard, ...]:
    """Return what a token takes from its task: that it is open, and one token of its budget."""
    if task is None:
        return ()
    is_open = TaskOpen(task.id, now, implicit=task if task.implicit else None, holds_until=until)
    if not task.budget.limits_resource(TOKENS):
        return (is_open,)
    return (is_open, Spend(task.id, TOKENS, 1, limited=True))
