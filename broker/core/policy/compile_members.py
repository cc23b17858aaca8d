"""Compiling member lists: which agents a line means, and the checks that it cannot mean strangers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from broker.core.identity import is_name
from broker.core.issuer import TrustedIssuer
from broker.core.policy.document import Node
from broker.core.policy.matching import (
    AgentMember,
    AnyOf,
    Exactly,
    FullMatch,
    IssuerMember,
    Member,
    Segments,
    TextMatch,
    as_texts,
)
from broker.core.policy.pattern import PatternError, compile_pattern

GITHUB_PINS: Final = ("repository_id", "repository_owner_id")
"""GitHub vouches for all the world's repositories: a line must say whose, by an id that nobody can take over."""

_NAME_CLAIMS: Final[Mapping[str, tuple[str, ...]]] = {
    "repository": GITHUB_PINS,
    "repository_owner": GITHUB_PINS,
    "project_path": ("project_id", "namespace_id"),
    "namespace_path": ("project_id", "namespace_id"),
}
"""Claims that hold a name that can be given up and taken over, and the immutable ids beside them."""

_NAME_SUBJECTS: Final = {"repo:": "repository", "project_path:": "project_path"}
"""How subjects begin that are built from such names."""


def compile_members(node: Node, issuers: Mapping[str, TrustedIssuer]) -> tuple[Member, ...]:
    """Compile a list of member lines; what is wrong is reported on the node."""
    return tuple(member for item in node.items() if (member := _member(item, issuers)) is not None)


def _member(node: Node, issuers: Mapping[str, TrustedIssuer]) -> Member | None:
    found = node.members("agent", "issuer", "subject", "claims", "any_subject")
    if "agent" in found:
        for extra in found.keys() - {"agent"}:
            found[extra].fail("an agent's id stands alone: leave this out")
        return _agent_member(found["agent"], issuers)
    if "issuer" not in found:
        if found:
            node.fail("name an agent, or an issuer with a subject or claims")
        return None
    name = found["issuer"].reference(issuers, "an issuer")
    subject = _text_match(found["subject"]) if "subject" in found else None
    claims = _claims(found["claims"]) if "claims" in found else ()
    any_subject = found["any_subject"].flag() if "any_subject" in found else None
    if any_subject is False:
        found["any_subject"].fail("may only be true: leave it out")
    narrowed = "subject" in found or "claims" in found
    if narrowed and any_subject:
        found["any_subject"].fail("contradicts subject and claims: leave it out")
    if not narrowed and "any_subject" not in found:
        node.fail("add a subject or claims (or say any_subject: true to mean every agent of this issuer)")
    if name is None:
        return None
    member = IssuerMember(name, subject, claims)
    _check_names(node, issuers[name], member)
    return member


def _agent_member(node: Node, issuers: Mapping[str, TrustedIssuer]) -> AgentMember | None:
    agent = node.text()
    if agent is None:
        return None
    issuer, slash, path = agent.partition("/")
    if slash and issuer not in issuers:
        node.fail("the part before the slash is not an issuer of this policy")
    elif not slash and not is_name(agent):
        node.fail("a registered agent is named with lower-case letters, digits and . _ - (at most 128); no patterns")
    elif path.startswith(tuple(_NAME_SUBJECTS)):
        node.fail("is built from a name that can change hands: use issuer and claims with an immutable id")
    elif "*" in agent:
        node.fail("an agent's id is matched exactly: use issuer and subject for a pattern")
    return AgentMember(agent)


def _claims(node: Node) -> tuple[tuple[str, TextMatch], ...]:
    claims: list[tuple[str, TextMatch]] = []
    for name, value in node.table():
        if name == "sub":
            value.fail("write subject instead, beside claims")
        match = _text_match(value, scalars=True)
        if match is not None:
            claims.append((name, match))
    return tuple(claims)


def _text_match(node: Node, *, scalars: bool = False) -> TextMatch | None:
    """Read what a text must be: a text, ``{regex: …}``, or a list of these of which one must match."""
    if isinstance(node.value, list | tuple):
        parts = [_one_match(item, scalars=scalars) for item in node.items()]
        return AnyOf(tuple(part for part in parts if part is not None))
    return _one_match(node, scalars=scalars)


def _one_match(node: Node, *, scalars: bool) -> TextMatch | None:
    if isinstance(node.value, Mapping):
        found = node.members(required=("regex",))
        return _regex(found["regex"]) if "regex" in found else None
    if scalars and isinstance(node.value, int):
        return Exactly(as_texts(node.value)[0])
    text = node.text()
    return None if text is None else _path_match(node, text)


def _regex(node: Node) -> FullMatch | None:
    text = node.text()
    if text is None:
        return None
    try:
        return FullMatch(compile_pattern(text))
    except PatternError as error:
        node.fail(str(error))
        return None


def _path_match(node: Node, text: str) -> TextMatch:
    if "*" not in text:
        return Exactly(text)
    segments = tuple(text.split("/"))
    if any("*" in segment and segment != "*" for segment in segments):
        node.fail("* stands for one whole segment between slashes: write {regex: ...} for anything else")
    elif all(segment == "*" for segment in segments):
        node.fail("* alone narrows nothing: name at least one segment, or say any_subject: true")
    return Segments(segments)


def _check_names(node: Node, issuer: TrustedIssuer, member: IssuerMember) -> None:
    """Refuse lines that rest on a name where the platform has an immutable id."""
    pinned = {name for name, match in member.claims if _is_exact(match)}
    if issuer.preset == "github-actions" and pinned.isdisjoint(GITHUB_PINS):
        pins = " or ".join(GITHUB_PINS)
        node.fail(
            f"claims must name {pins} exactly: names of repositories change hands, and GitHub vouches for anybody's"
        )
        return
    named = {name for name, _ in member.claims} & _NAME_CLAIMS.keys()
    named |= {claim for start, claim in _NAME_SUBJECTS.items() if _starts(member.subject, start)}
    for name in sorted(named):
        if pinned.isdisjoint(_NAME_CLAIMS[name]):
            node.fail(f"{name} is a name that can change hands: add the claim {' or '.join(_NAME_CLAIMS[name])}")


def _is_exact(match: TextMatch) -> bool:
    if isinstance(match, AnyOf):
        return all(isinstance(part, Exactly) for part in match.parts)
    return isinstance(match, Exactly)


def _starts(match: TextMatch | None, start: str) -> bool:
    match match:
        case None:
            return False
        case AnyOf(parts=parts):
            return any(_starts(part, start) for part in parts)
        case FullMatch(pattern=pattern):
            return pattern.pattern.startswith(start)
        case _:
            return str(match).startswith(start)
