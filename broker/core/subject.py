"""Subjects that others vouch for: what an agent may hand on by a token of its platform (RFC 8693).

The token of a trusted issuer stands for a token of ours that its agent could have had by asking for the same: in one of
its roles, in a task of its own, on the conditions of that role. What comes of it is judged as of any other token.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from broker.core.access_token import VerifiedToken
from broker.core.claims import AccessClaims
from broker.core.decide import NO_AUDIENCE, Offer, offered
from broker.core.delegation import NOT_ALLOWED, Exchange, entitled, judge_exchange
from broker.core.errors import Code
from broker.core.grant import Ask, Denied, Granted
from broker.core.identity import Agent
from broker.core.implicit_task import default_budget
from broker.core.policy import Policy, Role
from broker.core.policy.model import Delegate
from broker.core.rules import BlockIndex
from broker.core.task import Task

PURPOSE: Final = "what others do with one token of a trusted issuer, for which no task was opened"

_NO_TASK: Final = Denied(Code.TASK_NOT_OPEN, "there is no such task, or it is not the subject's own")
_TASK_NEEDED: Final = Denied(Code.TASK_REQUIRED, "the subject's role asks for a task: name one that the subject opened")

_BASE32: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # as in ULIDs
_TIME_DIGITS, _OTHER_DIGITS = 10, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An agent for which another one acts, by the word of a trusted issuer in a verified token.

    ``digest`` is the SHA-256 of that token (hex), ``token_id`` its ``jti`` if it has one, ``key`` the thumbprint of the
    key that signed it. It ends at ``expires_at`` (Unix seconds).
    """

    agent: Agent
    digest: str
    expires_at: int
    key: str
    token_id: str | None = None

    @property
    def id(self) -> str:
        """By what rules and tokens name the subject's token: in place of the ``jti`` that a token of ours would have.

        The issuer's own ``jti`` could be chosen to be that of another token.
        """
        return f"subject_{self.digest[:32]}"

    def task_id(self, role: str) -> str:
        """Return the task of everything that comes of this token by a role, if no request names one: always the same.

        Closing it ends the use of the token for good. It is shaped like other task ids, and sorts by when it ends.
        """
        digest = hashlib.sha256(f"task\n{role}\n{self.digest}".encode()).digest()
        other = int.from_bytes(digest[:10], "big")
        return f"task_{_base32(self.expires_at * 1000, _TIME_DIGITS)}{_base32(other, _OTHER_DIGITS)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked on behalf of a subject: by whom, for what, at what time; ``task`` is the stored one that it names.

    ``policy`` and ``blocks`` are those in force.
    """

    policy: Policy
    blocks: BlockIndex
    subject: Subject
    actor: Agent
    ask: Ask
    task: Task | None
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectExchange:
    """What is decided, by which of the subject's roles, whose limits count as well.

    ``parent`` stands for the token that the subject could have had; ``task`` is what the child belongs to.
    """

    exchange: Exchange
    role: Role
    parent: VerifiedToken
    task: Task


def judge_subject(wanted: Wanted) -> SubjectExchange | Denied:
    """Decide whether the actor gets what it asks for on behalf of the subject.

    Of the subject's roles, in their order, the first by which it is granted counts, else the first by which people can
    approve it; else the denial of the first that may delegate to the actor at all.
    """
    best: SubjectExchange | Denied = NOT_ALLOWED
    for role in wanted.policy.roles_of(wanted.subject.agent):
        judged = _by_role(wanted, role)
        if isinstance(judged, SubjectExchange):
            if isinstance(judged.exchange.decision, Granted):
                return judged
            best = best if isinstance(best, SubjectExchange) else judged
        elif best is NOT_ALLOWED:
            best = judged
    return best


def _by_role(wanted: Wanted, role: Role) -> SubjectExchange | Denied:
    ask = wanted.ask
    may = entitled(wanted.policy, _token(wanted, role, None, None), wanted.actor)
    if not isinstance(may, Delegate):
        return NOT_ALLOWED
    task = _task(wanted, role)
    if isinstance(task, Denied):
        return task
    offer: Offer | None = None
    if not may.own_grants:
        found = NO_AUDIENCE if ask.audience is None else offered(wanted.policy, role, ask)
        if isinstance(found, Denied):
            return found
        offer = found
    parent = _token(wanted, role, task, offer)
    lines = () if offer is None else offer.lines
    exchange = judge_exchange(wanted.policy, wanted.blocks, parent, wanted.actor, ask, wanted.now, also=lines)
    if isinstance(exchange.decision, Denied):
        return exchange.decision
    return SubjectExchange(exchange=exchange, role=role, parent=parent, task=task)


def _task(wanted: Wanted, role: Role) -> Task | Denied:
    """Return the task of what comes of the subject's token: one that the subject opened, or the token's own."""
    subject, named = wanted.subject, wanted.task
    if wanted.ask.task is not None:
        return _NO_TASK if named is None or named.owner != subject.agent.id else named
    if role.explicit_tasks:
        return _TASK_NEEDED
    return Task(
        id=subject.task_id(role.name),
        owner=subject.agent.id,
        role=role.name,
        purpose=PURPOSE,
        opened_at=wanted.now,
        deadline=subject.expires_at,
        budget=default_budget(role.limits),
        implicit=True,
    )


def _token(wanted: Wanted, role: Role, task: Task | None, offer: Offer | None) -> VerifiedToken:
    """Return what the subject's token stands for: a token with what ``offer`` says, or with nothing yet.

    It hands down what it rests on. Scopes, audience and tier are the child's own.
    """
    subject, granted = wanted.subject, None if offer is None else offer.granted
    agent, tasks = subject.agent, () if task is None else (task.id, *task.path)
    claims = AccessClaims(
        iss="",
        sub=agent.id,
        aud=wanted.ask.audience or "",
        client_id=agent.id,
        iat=int(wanted.now),
        exp=subject.expires_at if granted is None else min(subject.expires_at, int(wanted.now) + granted.ttl),
        jti=subject.id,
        scopes=() if granted is None else granted.scopes,
        epoch=0,
        task=tasks[0] if tasks else "",
        path=tasks[1:],
        role=role.name,
        tier="" if granted is None else granted.tier,
        issuer=agent.issuer,
        details=() if granted is None else granted.details,
    )
    handed_down = {
        ("token", subject.id),
        ("agent", agent.id),
        ("issuer", agent.issuer),
        ("key", subject.key),
        ("role", role.name),
        *(("task", one) for one in tasks),
    }
    return VerifiedToken(claims, subject.key, frozenset(handed_down))


def _base32(number: int, digits: int) -> str:
    return "".join(_BASE32[number >> (5 * place) & 31] for place in reversed(range(digits)))
