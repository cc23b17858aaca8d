"""Count what was used of a policy, in SQL: each question is one pass over the entries, and no answer grows with them.

The passes are separate reads, so that none holds up the writer's log for long. What is recorded between two of them is
younger than what the question is about.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Connection, Select, cast, func, literal, select, union, union_all

from broker.core.entry import Kind, decode
from broker.core.task import ACTION, TOKENS
from broker.core.usage import WINDOW, AgentUse, Asked, Load, RoleUse, ScopeUse, Usage
from broker.ledger import schema
from broker.ledger.databases.expressions import (
    each_item,
    each_member,
    has_text,
    last_item,
    lesser,
    member,
    number,
    total,
)
from broker.ledger.reading.lease_usage import LeaseUsageCount

MOST: Final = 10_000
"""How many scopes, and how many agents, are listed; what is beyond is not known to be unused."""

MOST_LOADS: Final = 1000

TASK_TTL: Final = "task_ttl"

_MILLISECONDS: Final = 1000
_PIECE: Final = 500
_PAUSE: Final = 0.001
_table: Final = schema.entries.c

Query = Callable[[Connection], None]


@dataclass(slots=True)
class UsageCount:
    """The counting of what was used since a time (Unix seconds). Run each of :meth:`passes`, then take the result."""

    since: float
    complete: bool = True
    _scopes: dict[tuple[str, str, str], ScopeUse] = field(default_factory=dict)
    _agents: list[AgentUse] = field(default_factory=list)
    _roles: dict[str, RoleUse] = field(default_factory=dict)
    _asked: dict[tuple[str, str], Asked] = field(default_factory=dict)
    _actions: dict[tuple[str, str], int] = field(default_factory=dict)
    _ceilings: set[tuple[str, str, str]] = field(default_factory=set)
    _delegations: dict[tuple[str, str], int] = field(default_factory=dict)
    _loads: list[Load] = field(default_factory=list)
    _leased: LeaseUsageCount = field(init=False)

    def __post_init__(self) -> None:
        """Leases are counted by a part of its own."""
        self._leased = LeaseUsageCount(self.since)

    def passes(self) -> Sequence[Query]:
        """Return what is to be run, each in a read transaction of its own."""
        return (
            self._count_scopes,
            self._count_agents,
            self._count_roles,
            self._count_task_tokens,
            self._count_tasks,
            self._count_asked,
            self._read_ceilings,
            self._count_actions,
            self._count_delegations,
            self._read_loads,
            *self._leased.passes(),
        )

    def result(self) -> Usage:
        """Return what was counted."""
        for role, most in self._leased.peaks.items():
            self._note(role, live_leases=most)
        return Usage(
            since=self.since,
            complete=self.complete and self._leased.complete,
            scopes=tuple(self._scopes.values()),
            secrets=tuple(self._leased.secrets),
            agents=tuple(self._agents),
            roles=self._roles,
            asked=self._asked,
            actions=self._actions,
            ceilings=frozenset(self._ceilings),
            secret_ceilings=frozenset(self._leased.ceilings),
            delegations=self._delegations,
            loads=tuple(self._loads),
        )

    def _count_scopes(self, connection: Connection) -> None:
        life = func.max(_table.expires_at - _table.at // _MILLISECONDS)
        what = (_table.role, _table.audience, _table.scope)
        query = self._issued(*what, func.count(), life, func.max(_table.at)).group_by(*what)
        for role, audience, scopes, tokens, longest, last in _gently(connection, query):
            for scope in (scopes or "").split(" "):
                self._add_scope(
                    ScopeUse(
                        role=role,
                        audience=audience,
                        scope=scope,
                        tokens=tokens,
                        longest=longest,
                        last_at=last / _MILLISECONDS,
                    )
                )

    def _add_scope(self, use: ScopeUse) -> None:
        key = (use.role, use.audience, use.scope)
        known = self._scopes.get(key)
        if known is not None:
            use = replace(
                use,
                tokens=use.tokens + known.tokens,
                longest=max(use.longest, known.longest),
                last_at=max(use.last_at, known.last_at),
            )
        elif len(self._scopes) >= MOST:
            self.complete = False
            return
        self._scopes[key] = use

    def _count_agents(self, connection: Connection) -> None:
        """Count tokens and leases by agent; the step stands first, because whole numbers are sorted fastest."""
        steps = (_table.at // (WINDOW * _MILLISECONDS)).label("step")
        columns = (
            func.max(_table.issuer).label("issuer"),
            func.count().label("n"),
            func.count().filter(_table.kind == Kind.LEASE_INTENDED.value).label("leases"),
            func.max(_table.seq).label("seq"),
            func.max(_table.seq).filter(_table.kind == Kind.TOKEN_ISSUED.value).label("token"),
        )
        each = select(steps, _table.role, _table.agent, *columns).where(
            _table.kind.in_((Kind.TOKEN_ISSUED.value, Kind.LEASE_INTENDED.value)),
            _table.at >= int(self.since * _MILLISECONDS),
        )
        by_step = each.group_by(steps, _table.role, _table.agent).subquery().c
        query = select(
            by_step.role,
            by_step.agent,
            func.max(by_step.issuer),
            total(by_step.n),
            total(by_step.leases),
            func.max(by_step.n),
            func.coalesce(func.max(by_step.token), func.max(by_step.seq)),
        ).group_by(by_step.role, by_step.agent)
        last: dict[int, AgentUse] = {}
        for role, agent, issuer, both, leases, peak, seq in _gently(connection, query):
            self._note(role, agent_peak=peak)
            if len(last) >= MOST:
                self.complete = False
                continue
            last[seq] = AgentUse(
                role=role, agent=agent, issuer=issuer, subject=None, tokens=both - leases, leases=leases
            )
        self._agents += _with_subjects(connection, last)

    def _count_roles(self, connection: Connection) -> None:
        steps = (_table.at // (WINDOW * _MILLISECONDS)).label("step")
        by_step = self._issued(steps, _table.role, func.count().label("n")).group_by(steps, _table.role).subquery().c
        for role, peak in connection.execute(select(by_step.role, func.max(by_step.n)).group_by(by_step.role)):
            self._note(role, role_peak=peak)

    def _count_task_tokens(self, connection: Connection) -> None:
        """Count the tokens of one task, for each role that has to do with it.

        A task that nobody opened has one token, unless that one was exchanged: it need not be looked for.
        """
        exchanged = self._issued(_table.task).where(_from_another())
        several = union(select(_table.ref).where(_table.kind == Kind.TASK_OPENED.value), exchanged)
        counted = (
            self._issued(_table.task, func.count().label("n"))
            .where(_table.task.in_(several))
            .group_by(_table.task)
            .cte("counted")
        )
        holders = self._issued(_table.task, _table.role).where(_table.task.in_(several))
        openers = select(_table.ref.label("task"), _table.role).where(_table.kind == Kind.TASK_OPENED.value)
        involved = union(holders, openers).subquery()
        joined = involved.join(counted, involved.c.task == counted.c.task)
        query = select(involved.c.role, func.max(counted.c.n)).select_from(joined).group_by(involved.c.role)
        for role in self._roles:
            self._note(role, task_tokens=1)
        for role, tokens in connection.execute(query):
            self._note(role, task_tokens=tokens)

    def _count_tasks(self, connection: Connection) -> None:
        ends = union_all(
            select(_table.ref.label("task"), _table.at).where(_table.kind == Kind.TASK_CLOSED.value),
            select(member(_table.body, "closes"), _table.at).where(_table.kind == Kind.RULE_ADDED.value),
        ).subquery()
        closed = select(ends.c.task, func.min(ends.c.at).label("at")).group_by(ends.c.task).subquery()
        deadline = number(_table.body, "deadline") * _MILLISECONDS
        end = lesser(deadline, func.coalesce(closed.c.at, deadline))
        joined = schema.entries.outerjoin(closed, closed.c.task == _table.ref)
        query = self._opened(_table.role, func.count(), func.max(end - _table.at)).select_from(joined)
        for role, tasks, longest in connection.execute(query.group_by(_table.role)):
            self._note(role, tasks=tasks, longest_task=-(-longest // _MILLISECONDS))
        parents = each_item(_table.body, "path")
        above = self._opened(parents.c.value).select_from(schema.entries, parents)
        sharing = select(_table.role).where(_table.kind == Kind.TASK_OPENED.value, _table.ref.in_(above))
        for role in connection.scalars(sharing.distinct()):
            self._note(role, shared=True)

    def _count_asked(self, connection: Connection) -> None:
        named = each_member(_table.body, "budget.actions")
        queries = (
            self._opened(_table.role, literal(TASK_TTL), number(_table.body, "deadline") - _table.at // _MILLISECONDS),
            self._opened(_table.role, literal(TOKENS), number(_table.body, "budget.tokens")),
            self._opened(_table.role, literal(ACTION).concat(named.c.key), cast(named.c.value, BigInteger)).select_from(
                schema.entries, named
            ),
        )
        for query in queries:
            for role, what, asked in _gently(connection, query.distinct()):
                if asked is not None:
                    known = self._asked.get((role, what))
                    self._asked[role, what] = Asked(asked) if known is None else known.with_one_more(asked)

    def _read_ceilings(self, connection: Connection) -> None:
        listed = each_member(_table.body, "scopes")
        query = self._opened(_table.role, listed.c.key, listed.c.value).select_from(schema.entries, listed)
        for role, audience, scopes in _gently(connection, query.distinct()):
            for scope in msgspec.json.decode(scopes, type=list[str]):
                if len(self._ceilings) >= MOST:
                    self.complete = False
                    return
                self._ceilings.add((role, audience, scope))

    def _count_actions(self, connection: Connection) -> None:
        """Count the reservations of one task, for each role that has to do with it: its budget is of one of them."""
        reserved = self._entries(
            Kind.ACTION_RESERVED,
            _table.task,
            member(_table.body, "action").label("action"),
            total(number(_table.body, "count")).label("n"),
        )
        counted = reserved.group_by(_table.task, member(_table.body, "action")).cte("counted")
        tasks = select(counted.c.task)
        involved = union(
            self._entries(Kind.ACTION_RESERVED, _table.task, _table.role),
            select(_table.ref.label("task"), _table.role).where(
                _table.kind == Kind.TASK_OPENED.value, _table.ref.in_(tasks)
            ),
            self._issued(_table.task, _table.role).where(_table.task.in_(tasks)),
        ).subquery()
        joined = involved.join(counted, involved.c.task == counted.c.task)
        query = select(involved.c.role, counted.c.action, func.max(counted.c.n)).select_from(joined)
        for role, action, most in connection.execute(query.group_by(involved.c.role, counted.c.action)):
            self._actions[role, action] = most

    def _count_delegations(self, connection: Connection) -> None:
        parent = schema.entries.alias("parent")
        joined = schema.entries.join(parent, parent.c.ref == last_item(_table.body, "parents"))
        query = self._issued(parent.c.role, _table.role, func.count()).select_from(joined)
        query = query.where(_from_another(), parent.c.kind == Kind.TOKEN_ISSUED.value)
        for role, delegate, tokens in connection.execute(query.group_by(parent.c.role, _table.role)):
            self._delegations[role, delegate] = tokens

    def _read_loads(self, connection: Connection) -> None:
        query = select(_table.body).where(_table.kind == Kind.POLICY_LOADED.value)
        for (body,) in connection.execute(query.order_by(_table.seq.desc()).limit(MOST_LOADS)):
            members = decode(body)
            at = members["at"] / _MILLISECONDS
            self._loads.append(Load(at, members["policy"], members.get("roles")))
            if at <= self.since:
                break

    def _note(self, role: str, **members: int | bool) -> None:
        """Note more of a role; what was noted before and is more stays."""
        known = self._roles.get(role, RoleUse())
        more = {name: max(value, getattr(known, name)) for name, value in members.items()}
        self._roles[role] = replace(known, **more)

    def _entries(self, kind: Kind, *columns: Any) -> Select[Any]:  # noqa: ANN401 - of any type
        return select(*columns).where(_table.kind == kind.value, _table.at >= int(self.since * _MILLISECONDS))

    def _issued(self, *columns: Any) -> Select[Any]:  # noqa: ANN401 - of any type
        return self._entries(Kind.TOKEN_ISSUED, *columns)

    def _opened(self, *columns: Any) -> Select[Any]:  # noqa: ANN401 - of any type
        return self._entries(Kind.TASK_OPENED, *columns)


def _from_another() -> ColumnElement[bool]:
    """Return the condition that a token came of another one."""
    return has_text(_table.lineage, "\ntoken=")


def _gently(connection: Connection, query: Select[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield rows in pieces, handing the interpreter lock to the event loop in between."""
    for piece in connection.execute(query).partitions(_PIECE):
        yield from map(tuple, piece)
        time.sleep(_PAUSE)


def _with_subjects(connection: Connection, last: Mapping[int, AgentUse]) -> Iterator[AgentUse]:
    """Yield the agents with their subjects, which the bodies of the entries of their youngest tokens tell."""
    places = list(last)
    for start in range(0, len(places), _PIECE):
        query = select(_table.seq, member(_table.body, "subject")).where(_table.seq.in_(places[start : start + _PIECE]))
        for seq, subject in connection.execute(query):
            yield replace(last[seq], subject=subject)
