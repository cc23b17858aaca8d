"""Matching of identities: exactly, by whole path segments, or by a compiled ``fullmatch``; never unanchored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from broker.core.identity import Agent, Attribute
from broker.core.policy.pattern import MAX_INPUT


class TextMatch(Protocol):
    """Says whether one text is meant. ``str()`` of it is how the policy wrote it."""

    def matches(self, value: str) -> bool:
        """Whether ``value`` as a whole is meant."""
        ...


@dataclass(frozen=True, slots=True)
class Exactly:
    """Matches one text only."""

    text: str

    def matches(self, value: str) -> bool:
        """Whether the texts are equal, character by character."""
        return value == self.text

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Segments:
    """Matches texts of as many ``/``-separated segments; a ``*`` stands for exactly one segment that is not empty."""

    segments: tuple[str, ...]

    def matches(self, value: str) -> bool:
        """Whether every segment is equal, or not empty where ``*`` stands."""
        parts = value.split("/")
        return len(parts) == len(self.segments) and all(
            part == segment or (segment == "*" and bool(part))
            for part, segment in zip(parts, self.segments, strict=True)
        )

    def __str__(self) -> str:
        return "/".join(self.segments)


@dataclass(frozen=True, slots=True)
class FullMatch:
    """Matches texts that a pattern describes from their first character to their last."""

    pattern: re.Pattern[str]

    def matches(self, value: str) -> bool:
        """Whether the pattern describes all of ``value``; values over ``MAX_INPUT`` characters never match."""
        return len(value) <= MAX_INPUT and self.pattern.fullmatch(value) is not None

    def __str__(self) -> str:
        return f"regex {self.pattern.pattern}"


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Matches what any one of its parts matches."""

    parts: tuple[TextMatch, ...]

    def matches(self, value: str) -> bool:
        """Whether any part matches."""
        return any(part.matches(value) for part in self.parts)

    def __str__(self) -> str:
        return " or ".join(map(str, self.parts))


@dataclass(frozen=True, slots=True)
class AgentMember:
    """The one agent with this id."""

    agent: str

    def mismatch(self, agent: Agent) -> str | None:
        """Return why ``agent`` is not meant, or None if it is."""
        return None if agent.id == self.agent else f"the agent is not {self.agent}"

    def __str__(self) -> str:
        return f"agent {self.agent}"


@dataclass(frozen=True, slots=True)
class IssuerMember:
    """Agents that one issuer vouches for, by subject and verified claims; all that is set must match.

    With neither, every agent of the issuer is meant, which the policy must have said in so many words.
    """

    issuer: str
    subject: TextMatch | None = None
    claims: tuple[tuple[str, TextMatch], ...] = ()

    def mismatch(self, agent: Agent) -> str | None:
        """Return why ``agent`` is not meant, or None if it is. A claim that the agent does not have never matches."""
        if agent.issuer != self.issuer:
            return f"the issuer is not {self.issuer}"
        if self.subject is not None and not self.subject.matches(agent.subject):
            return f"the subject is not {self.subject}"
        return next(filter(None, (_claim_mismatch(agent.attributes, *claim) for claim in self.claims)), None)

    def __str__(self) -> str:
        asked = [] if self.subject is None else [f"subject {self.subject}"]
        asked += [f"claim {name} {match}" for name, match in self.claims]
        return f"issuer {self.issuer}, " + (", ".join(asked) or "any subject")


Member = AgentMember | IssuerMember
"""One line of a member list."""


def as_texts(value: Attribute) -> tuple[str, ...]:
    """Return an attribute as the texts that matchers see: numbers in decimal, true and false, each item of a list."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, bool):
        return ("true" if value else "false",)
    return (str(value),)


def _claim_mismatch(attributes: Mapping[str, Attribute], name: str, match: TextMatch) -> str | None:
    if name not in attributes:
        return f"there is no claim {name}"
    matched = any(match.matches(text) for text in as_texts(attributes[name]))
    return None if matched else f"the claim {name} is not {match}"
