"""Which roles an agent is a member of: indexed, and remembered for agents seen before.

The memory is bounded and cannot be noticed: an answer is reused only for an agent that is equal in every way that a
member line can look at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from broker.core.identity import Agent, Attribute
from broker.core.policy.matching import AgentMember, Exactly, IssuerMember, Member

REMEMBERED: Final = 4096
"""For how many agents the answer is remembered; the oldest is forgotten first."""


class Membership:
    """The member lists of all roles. Not thread-safe: it belongs to one event loop."""

    def __init__(self, members: Iterable[tuple[str, Member]], *, remembered: int = REMEMBERED) -> None:
        """``members`` are (role, member line) in the order of the file."""
        self._remembered = remembered
        self._order: dict[str, int] = {}
        self._by_agent: dict[str, set[str]] = {}
        self._by_subject: dict[tuple[str, str], list[tuple[str, IssuerMember]]] = {}
        self._by_issuer: dict[str, list[tuple[str, IssuerMember]]] = {}
        self._seen: dict[str, tuple[Agent, dict[str, Attribute], tuple[str, ...]]] = {}
        for role, member in members:
            self._order.setdefault(role, len(self._order))
            self._index(role, member)

    def of(self, agent: Agent) -> tuple[str, ...]:
        """Return the names of the roles that have ``agent`` as a member, in the order of the file."""
        seen = self._seen.get(agent.id)
        if seen is not None and _same(seen[0], seen[1], agent):
            return seen[2]
        roles = self._find(agent)
        if seen is None and len(self._seen) >= self._remembered:
            del self._seen[next(iter(self._seen))]
        self._seen[agent.id] = (agent, dict(agent.attributes), roles)
        return roles

    def _index(self, role: str, member: Member) -> None:
        match member:
            case AgentMember(agent=name):
                self._by_agent.setdefault(name, set()).add(role)
            case IssuerMember(issuer=issuer, subject=Exactly(text=subject)):
                self._by_subject.setdefault((issuer, subject), []).append((role, member))
            case IssuerMember(issuer=issuer):
                self._by_issuer.setdefault(issuer, []).append((role, member))

    def _find(self, agent: Agent) -> tuple[str, ...]:
        candidates = (
            *self._by_subject.get((agent.issuer, agent.subject), ()),
            *self._by_issuer.get(agent.issuer, ()),
        )
        roles = {role for role, member in candidates if member.mismatch(agent) is None}
        roles |= self._by_agent.get(agent.id, set())
        return tuple(sorted(roles, key=self._order.__getitem__))


def _same(seen: Agent, attributes: Mapping[str, Attribute], agent: Agent) -> bool:
    """Whether nothing that a member line can see differs; ``True`` and ``1`` are equal but not the same claim."""
    now = agent.attributes
    return (
        seen.issuer == agent.issuer
        and seen.subject == agent.subject
        and len(attributes) == len(now)
        and all(name in now and value == now[name] and type(value) is type(now[name])
                for name, value in attributes.items())
    )  # fmt: skip
