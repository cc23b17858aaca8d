"""Proposing a narrower policy: only what the ledger shows to be unused goes, and nothing else answers in its place.

Rates, budgets and the lives of tasks and leases are proposed at twice the most that was seen. What the ledger does not
know is not touched, and is said.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from broker.core.advice import Advice, Edit, Proposal, findings, is_used, unchanged_since
from broker.core.lifetime import format_duration
from broker.core.policy.matching import Member
from broker.core.policy.model import Approval, Policy, Role, ScopeAllow, SecretAllow
from broker.core.policy.operator_scopes import IDENTITY_SCOPE, LEASE_SCOPE, OPERATOR_SCOPES
from broker.core.task import ACTION, DEFAULT_TASK_TTL, TOKENS
from broker.core.usage import Asked, RoleUse, ScopeUse, SecretUse, Usage
from broker.core.widening import acting, answering, earlier_at

HEADROOM: Final = 2
"""How many times what was seen a limit is proposed to be."""

RESERVED: Final = OPERATOR_SCOPES.keys() - {
    "tasks:open",
    "tasks:read",
    "tasks:close",
    LEASE_SCOPE,
    "leases:read",
    IDENTITY_SCOPE,
    "actions:reserve",
}
"""Scopes that people have for when something happens: that nothing did is no reason to take them away."""

_ALWAYS: Final = (
    "a scope counts as used if a token had it, whether or not anything was done with it",
    "no request asks for a lifetime: a token has the longest that the policy and its task allow",
)
_INCOMPLETE: Final = "there was too much to list (see complete), so nothing is proposed"
_SECRETS: Final = "a secret counts as used if it was handed out, whatever was done with it; its life includes renewals"
_LINE: Final = re.compile(r"\[([0-9]+)\]\Z")
_MINUTE: Final = 60


def advise(policy: Policy, usage: Usage, *, until: float, role: str | None = None, force: bool = False) -> Advice:
    """Hold a policy, or one role of it, against its usage.

    A role that is not known to have been as it is for all that time is only reported, unless ``force`` is given.
    """
    chosen = [each for each in policy.roles.values() if role in (None, each.name)]
    since = {each.name: unchanged_since(policy, each, usage.loads) for each in chosen}
    judged = [each for each in chosen if usage.complete and (force or _is_old(since[each.name], usage.since))]
    proposing = _Proposing(policy, usage)
    proposing.run(judged)
    notes = (*_ALWAYS, *(() if usage.complete else (_INCOMPLETE,)), *((_SECRETS,) if policy.secrets else ()))
    return Advice(
        policy=policy.digest,
        since=usage.since,
        until=until,
        complete=usage.complete,
        roles=tuple(
            findings(
                each, usage, since[each.name], judged=each in judged, notes=tuple(proposing.notes.get(each.name, ()))
            )
            for each in chosen
        ),
        proposals=tuple(proposing.proposals),
        notes=notes,
    )


def _is_old(since: float | None, start: float) -> bool:
    return since is not None and since <= start


@dataclass(slots=True)
class _Proposing:
    """The proposals so far, and what was not proposed."""

    policy: Policy
    usage: Usage
    proposals: list[Proposal] = field(default_factory=list)
    notes: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def run(self, roles: Sequence[Role]) -> None:
        """Propose for these roles; delegations first, because a role that is delegated to cannot go."""
        approvers = _approvers(self.policy)
        for role in roles:
            self._delegates(role)
        for role in roles:
            if self._is_used(role):
                self._lines(role)
                self._limits(role)
                self._actions(role)
                if role.name not in approvers:
                    self._members(role)
            else:
                self._whole(role, approvers)

    def _is_used(self, role: Role) -> bool:
        use = self.usage.roles.get(role.name, RoleUse())
        return bool(use.agent_peak or use.tasks or use.live_leases) or any(
            of == role.name for of, _ in self.usage.actions
        )

    def _delegates(self, role: Role) -> None:
        for name in role.may_delegate_to:
            if self.usage.delegations.get((role.name, name)):
                continue
            other = acting(self.policy, name, self.policy.roles[name].members)
            if other is None:
                self._propose(Edit.REMOVE_DELEGATE, role, "no token was handed on to it", name=name)
            else:
                self._note(role, f"the delegate {name} was not used, but {other} could act in its place")

    def _whole(self, role: Role, approvers: Collection[str]) -> None:
        """Propose that a role goes of which nothing was used, unless something rests on it."""
        reason = next(self._rests_on(role, approvers), None)
        if reason is None:
            self._propose(Edit.REMOVE_ROLE, role, "nothing of it was used")
        else:
            self._note(role, f"nothing of it was used, but {reason}")

    def _rests_on(self, role: Role, approvers: Collection[str]) -> Iterator[str]:
        removed = {proposal.role for proposal in self.proposals if proposal.edit is Edit.REMOVE_ROLE}
        if len(self.policy.roles) - len(removed) < 2:  # noqa: PLR2004 - it and another one
            yield "a policy has one role at least"
        if role.name in approvers:
            yield "its members approve requests"
        if any(self._is_reserved(uri, scope) for uri, allow in role.audiences.items() for scope in allow.scopes):
            yield "it is for when something happens"
        for other in self.policy.roles.values():
            if role.name in other.may_delegate_to and other.name not in {role.name, *removed}:
                gone = any(
                    (made.edit, made.role, made.name) == (Edit.REMOVE_DELEGATE, other.name, role.name)
                    for made in self.proposals
                )
                if not gone:
                    yield f"{other.name} may delegate to it"
        instead = self._instead(role, role.members)
        if instead is not None:
            yield f"its members could have more from {instead}, which comes later"

    def _lines(self, role: Role) -> None:
        """Propose for the lines of ``allow``, of which one at least must stay."""
        used = {(use.audience, use.scope): use for use in self.usage.scopes if use.role == role.name and use.tokens}
        leased = {use.secret: use for use in self.usage.secrets if use.role == role.name}
        scopes = {(uri, scope) for uri, allow in role.audiences.items() for scope in allow.scopes}
        if scopes.isdisjoint(used) and role.secrets.keys().isdisjoint(leased):
            self._note(role, "nothing that it allows now was used, but a role allows something")
            return
        self._scopes(role, used)
        for name, line in role.secrets.items():
            self._secret(role, name, line, leased.get(name))

    def _secret(self, role: Role, name: str, line: SecretAllow, use: SecretUse | None) -> None:
        place = _place(line.path)
        if use is None:
            if any((opener, name) in self.usage.secret_ceilings for opener in self._openers(role)):
                self._note(role, f"the secret {name} was not leased, but tasks were opened for it")
            else:
                self._propose(Edit.REMOVE_SECRET, role, f"the secret {name} was not leased", line=place, name=name)
            return
        seconds = _rounded(max(1, HEADROOM * use.longest))
        if seconds < line.ttl:
            why = f"no lease of {name} was held longer than {format_duration(max(1, use.longest))}"
            self._propose(Edit.SET_TTL, role, why, line=place, value=seconds)

    def _scopes(self, role: Role, used: Mapping[tuple[str, str], ScopeUse]) -> None:
        lines: defaultdict[int, list[tuple[str, str, ScopeAllow]]] = defaultdict(list)
        for uri, allow in role.audiences.items():
            for scope, line in allow.scopes.items():
                lines[_place(line.path)].append((uri, scope, line))
        for place, scopes in lines.items():
            left = [each for each in scopes if not self._scope_goes(role, place, each, used)]
            self._lifetime(role, place, left, used)

    def _scope_goes(
        self, role: Role, place: int, each: tuple[str, str, ScopeAllow], used: Mapping[tuple[str, str], ScopeUse]
    ) -> bool:
        uri, scope, _ = each
        if (uri, scope) in used:
            return False
        if self._is_reserved(uri, scope):
            self._note(role, f"{scope} was not used, but is for when something happens")
            return False
        if any((opener, uri, scope) in self.usage.ceilings for opener in self._openers(role)):
            self._note(role, f"no token had {scope} at {uri}, but tasks were opened for it")
            return False
        allow = role.audiences[uri]
        is_default = scope in allow.default_scopes  # then it matters who answers to requests that name no scopes
        if is_default and earlier_at(self.policy, role, uri) is not None:
            self._note(role, f"{scope} at {uri} was not used, but is a default scope, and other roles come before")
            return False
        others = (
            answering(role, self._later(role), role.members, uri, each)
            for each in (allow.scopes if is_default else [scope])
        )
        other = next(filter(None, others), None)
        if other is not None:
            self._note(role, f"{scope} at {uri} was not used, but {other}, which comes later, would give more")
            return False
        self._propose(Edit.REMOVE_SCOPE, role, f"no token had {scope} at {uri}", line=place, name=scope)
        return True

    def _lifetime(
        self,
        role: Role,
        place: int,
        left: Sequence[tuple[str, str, ScopeAllow]],
        used: Mapping[tuple[str, str], ScopeUse],
    ) -> None:
        uses = [used.get((uri, scope)) for uri, scope, _ in left]
        known = [use.longest for use in uses if use is not None]
        if not known or len(known) < len(uses):
            return  # of a scope that stays unused nothing is known
        seconds = max(1, _rounded(max(known)))
        if seconds < max(line.ttl for _, _, line in left):
            why = f"no token lived longer than {format_duration(max(1, *known))}"
            self._propose(Edit.SET_TTL, role, why, line=place, value=seconds)

    def _limits(self, role: Role) -> None:
        limits, use = role.limits, self.usage.roles.get(role.name, RoleUse())
        self._limit(role, "live_leases", limits.live_leases, use.live_leases)
        if role.identities:
            self._note(role, "its identity tokens are not counted here, but by its limits: they are left alone")
            return
        ttl = limits.task_ttl or DEFAULT_TASK_TTL
        self._limit(role, "tokens_per_minute", limits.tokens_per_minute, use.agent_peak)
        self._limit(role, "role_tokens_per_minute", limits.role_tokens_per_minute, use.role_peak)
        # A lease in no task that was opened ends with one that is made for it, which has the life of the role's tasks.
        leased = max((each.longest for each in self.usage.secrets if each.role == role.name), default=0)
        longest = max(use.longest_task, leased) if use.longest_task else 0
        self._limit(role, "task_ttl", ttl, _rounded(longest), self._asked(role, "task_ttl", ttl))
        if limits.tokens_per_task is None:
            return
        if use.shared:
            self._note(role, "its tasks had sub-tasks, which reserve from them: their budgets are left alone")
            return
        asked = self._asked(role, TOKENS, limits.tokens_per_task)
        self._limit(role, "tokens_per_task", limits.tokens_per_task, use.task_tokens, asked)

    def _limit(self, role: Role, name: str, allowed: int | None, most: int, asked: int = 0) -> None:
        value = max(HEADROOM * most, asked)
        if allowed is not None and most and value < allowed:
            told = format_duration(most) if name == "task_ttl" else str(most)
            self._propose(Edit.SET_LIMIT, role, f"the most that was seen is {told}", name=name, value=value)

    def _actions(self, role: Role) -> None:
        actions = role.limits.actions or {}
        seen = {name: self.usage.actions.get((role.name, name), 0) for name in actions}
        if self.usage.roles.get(role.name, RoleUse()).shared or not any(seen.values()):
            if actions:
                self._note(role, "no action was reserved, or sub-tasks reserve them: their budgets are left alone")
            return
        for name, allowed in actions.items():
            asked = self._asked(role, ACTION + name, allowed)
            value = max(HEADROOM * seen[name], asked)
            if value == 0:
                self._propose(Edit.REMOVE_ACTION, role, "it was never reserved", name=name)
            elif value < allowed:
                why = f"the most in one task is {seen[name]}"
                self._propose(Edit.SET_ACTION, role, why, name=name, value=value)

    def _members(self, role: Role) -> None:
        agents = [use for use in self.usage.agents if use.role == role.name]
        unused = [place for place, line in enumerate(role.members) if not is_used(line, agents)]
        if len(unused) == len(role.members):
            self._note(role, "no member that it has now got a token, but a role has members")
            return
        for place in unused:
            line = role.members[place]
            instead = self._instead(role, (line,))
            if instead is None:
                self._propose(Edit.REMOVE_MEMBER, role, f"({line}) got no token", line=place)
            else:
                self._note(role, f"the member ({line}) got no token, but could have more from {instead}")

    def _instead(self, role: Role, lines: Sequence[Member]) -> str | None:
        """Return a role that would give these members more, if this role did not have them."""
        asked = ((uri, scope) for uri, allow in role.audiences.items() for scope in allow.scopes)
        later = self._later(role)
        others = (answering(role, later, lines, uri, scope) for uri, scope in asked)
        return next(filter(None, others), None) or acting(self.policy, role.name, lines)

    def _openers(self, role: Role) -> Iterator[str]:
        """Yield the roles whose tasks may have ceilings with what this role allows."""
        yield role.name
        for other in self.policy.roles.values():
            delegate = other.may_delegate_to.get(role.name)
            if delegate is not None and delegate.own_grants:
                yield other.name

    def _later(self, role: Role) -> list[Role]:
        names = list(self.policy.roles)
        return [self.policy.roles[name] for name in names[names.index(role.name) + 1 :]]

    def _asked(self, role: Role, what: str, limit: int) -> int:
        return self.usage.asked.get((role.name, what), Asked(limit)).beside(limit)

    def _is_reserved(self, audience: str, scope: str) -> bool:
        return audience == self.policy.broker_audience and scope in RESERVED

    def _propose(self, edit: Edit, role: Role, because: str, **members: str | int) -> None:
        self.proposals.append(Proposal(edit=edit, role=role.name, because=because, **members))  # type: ignore[arg-type]

    def _note(self, role: Role, text: str) -> None:
        self.notes[role.name].append(text)


def _approvers(policy: Policy) -> frozenset[str]:
    """Return the roles whose members approve anything."""
    approvals: list[Approval | None] = [tier.approval for tier in policy.tiers]
    for role in policy.roles.values():
        approvals += [line.approval for allow in role.audiences.values() for line in allow.scopes.values()]
        approvals.append(None if role.budget_approval is None else role.budget_approval.approval)
    return frozenset(approval.approvers for approval in approvals if approval is not None)


def _place(path: str) -> int:
    """Return the place in ``allow`` that the path of a line ends with."""
    found = _LINE.search(path)
    if found is None:
        msg = f"{path} is not the path of a line"
        raise ValueError(msg)
    return int(found[1])


def _rounded(seconds: int) -> int:
    """Return a duration as people write it: whole minutes, unless it is shorter than one."""
    return seconds if seconds < _MINUTE else -(-seconds // _MINUTE) * _MINUTE
