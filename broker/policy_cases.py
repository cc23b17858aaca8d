"""Policy cases: what a policy must grant or deny, written down and tried out (``broker policy test``)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.core.audience import canonical_audience
from broker.core.details import Element, parse_details
from broker.core.errors import Code, Malformed
from broker.core.explain import outcome
from broker.core.grant import Ask, Decision, Denied, Granted, NeedsApproval
from broker.core.identity import REGISTERED, Agent, Attribute, federated_id
from broker.core.lifetime import format_duration
from broker.core.policy import BROKER, Policy, PolicyError
from broker.core.policy.compile_tiers import MOST_APPROVERS
from broker.core.policy.document import Node, Problem, plain_problems
from broker.core.rules import BlockIndex
from broker.core.scope import is_scope
from broker.core.supposing import Supposed, suppose
from broker.strict_yaml import read_document

GRANTED: Final = "granted"
DENIED: Final = "denied"
NEEDS_APPROVAL: Final = "needs_approval"

_EXPECTATIONS: Final = ("code", "role", "tier", "ttl", "approvers", "quorum")
_PROOF: Final = "0" * 43
"""Stands for the thumbprint of the key that a case with ``proof: true`` has proved possession of."""

_REASONS: Final = (
    Code.NO_ROLE, Code.AUDIENCE_REQUIRED, Code.AUDIENCE_NOT_ALLOWED, Code.SCOPE_REQUIRED, Code.SCOPE_NOT_ALLOWED,
    Code.PROOF_REQUIRED, Code.DETAILS_NOT_SUPPORTED, Code.DETAILS_NOT_ALLOWED, Code.DETAILS_INVALID, Code.TASK_REQUIRED,
    Code.APPROVAL_AMBIGUOUS, Code.BREAK_GLASS_NOT_ALLOWED, Code.DELEGATION_NOT_ALLOWED,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a case expects; what is None is not looked at. ``ttl`` is in seconds, ``approvers`` a role."""

    outcome: str
    code: str | None = None
    role: str | None = None
    tier: str | None = None
    ttl: int | None = None
    approvers: str | None = None
    quorum: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One agent, what it asks for, and what must come of it."""

    name: str
    supposed: Supposed
    expected: Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a case went: what was decided, and every way in which that is not what was expected."""

    case: Case
    decision: Decision
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether everything was as expected."""
        return not self.differences


def load_cases(path: Path, policy: Policy) -> tuple[Case, ...]:
    """Read a file of cases for a policy, whose issuers, roles and tiers they may name.

    Raises :class:`PolicyError`, whose text has a line ``FILE:LINE: key.path: reason`` for every problem.
    """
    parsed = read_document(path)
    problems: list[Problem] = plain_problems(parsed.value)
    cases: list[Case] = []
    if not problems:
        root = Node(parsed.value, (), problems)
        found = root.members(required=("cases",))
        nodes = found["cases"].items() if "cases" in found else []
        cases = [case for node in nodes if (case := _case(node, policy)) is not None]
        _check_names(cases, nodes)
    if problems:
        raise PolicyError(tuple(problems)).located(str(path), parsed.lines)
    return tuple(cases)


def run_cases(policy: Policy, cases: Sequence[Case]) -> tuple[Result, ...]:
    """Decide every case by the policy, with no blocks in force."""
    return tuple(_run(policy, case) for case in cases)


def _run(policy: Policy, case: Case) -> Result:
    decision = suppose(policy, BlockIndex(), case.supposed, 0.0)
    actual = _observed(decision)
    expected = case.expected
    pairs = (
        ("outcome", expected.outcome, actual.outcome),
        ("code", expected.code, actual.code),
        ("role", expected.role, actual.role),
        ("tier", expected.tier, actual.tier),
        ("ttl", _lifetime(expected.ttl), _lifetime(actual.ttl)),
        ("approvers", expected.approvers, actual.approvers),
        ("quorum", expected.quorum, actual.quorum),
    )
    differences = [
        f"{name}: expected {wanted}, got {got or 'none'}"
        for name, wanted, got in pairs
        if wanted is not None and wanted != got
    ]
    if differences:
        differences.append(outcome(decision))
    return Result(case=case, decision=decision, differences=tuple(differences))


def _lifetime(seconds: int | None) -> str | None:
    return None if seconds is None else format_duration(seconds)


def _observed(decision: Decision) -> Expected:
    match decision:
        case Granted():
            return Expected(outcome=GRANTED, role=decision.role, tier=decision.tier, ttl=decision.ttl)
        case Denied():
            return Expected(outcome=DENIED, code=decision.code.value)
        case NeedsApproval():
            return Expected(
                outcome=NEEDS_APPROVAL,
                role=decision.granted.role,
                tier=decision.tier,
                approvers=decision.approvers,
                quorum=decision.quorum,
            )


def _case(node: Node, policy: Policy) -> Case | None:
    found = node.members(*_EXPECTATIONS, required=("name", "agent", "ask", "expect"))
    name = found["name"].text() if "name" in found else None
    agent = _agent(found["agent"], policy) if "agent" in found else None
    supposed = None if agent is None or "ask" not in found else _supposed(found["ask"], agent, policy)
    expected = _expected(found, policy) if "expect" in found else None
    if name is None or supposed is None or expected is None:
        return None
    return Case(name=name, supposed=supposed, expected=expected)


def _check_names(cases: Sequence[Case], nodes: Sequence[Node]) -> None:
    """Refuse two cases of the same name: a report could not tell them apart."""
    names = [case.name for case in cases]
    for node in nodes:
        value = node.value.get("name") if isinstance(node.value, Mapping) else None
        if isinstance(value, str) and names.count(value) > 1:
            node.child("name", value).fail("is the name of more than one case")


def _expected(found: Mapping[str, Node], policy: Policy) -> Expected | None:
    wanted = found["expect"].choice((GRANTED, DENIED, NEEDS_APPROVAL))
    meaningful = {
        GRANTED: {"role", "tier", "ttl"},
        DENIED: {"code"},
        NEEDS_APPROVAL: {"role", "tier", "approvers", "quorum"},
    }
    if wanted is None:
        return None
    for name in found.keys() & set(_EXPECTATIONS) - meaningful[wanted]:
        found[name].fail(f"says nothing about a case that is {wanted}: leave it out")
    tiers = [tier.name for tier in policy.tiers]
    return Expected(
        outcome=wanted,
        code=found["code"].choice([code.value for code in _REASONS]) if "code" in found else None,
        role=found["role"].reference(policy.roles, "a role") if "role" in found else None,
        tier=found["tier"].reference(tiers, "a tier") if "tier" in found else None,
        ttl=found["ttl"].duration() if "ttl" in found else None,
        approvers=found["approvers"].reference(policy.roles, "a role") if "approvers" in found else None,
        quorum=found["quorum"].number(1, MOST_APPROVERS) if "quorum" in found else None,
    )


def _agent(node: Node, policy: Policy) -> Agent | None:
    found = node.members("id", "issuer", "subject", "claims")
    identity = found["id"].text() if "id" in found else None
    if "issuer" not in found:
        for name in found.keys() & {"subject", "claims"}:
            found[name].fail("name the issuer that vouches for this")
        if found and "id" not in found:
            node.fail("name an id, or an issuer with subject or claims")
        return None if identity is None else _agent_by_id(found["id"], identity, policy)
    issuer = found["issuer"].reference(policy.issuers, "an issuer")
    subject = found["subject"].text() if "subject" in found else "-"
    claims = _claims(found["claims"]) if "claims" in found else {}
    if issuer is None or subject is None or ("id" in found and identity is None):
        return None
    try:
        return Agent(identity or federated_id(issuer, subject), issuer, subject, claims)
    except ValueError as error:
        found["subject"].fail(str(error))
        return None


def _agent_by_id(node: Node, identity: str, policy: Policy) -> Agent:
    issuer, slash, rest = identity.partition("/")
    if slash and issuer not in policy.issuers:
        node.fail("the part before the slash is not an issuer of this policy")
    return Agent(identity, issuer, rest) if slash else Agent(identity, REGISTERED, identity)


def _claims(node: Node) -> dict[str, Attribute]:
    claims: dict[str, Attribute] = {}
    for name, entry in node.table():
        value = entry.value
        if isinstance(value, str | int):
            claims[name] = value
        elif isinstance(value, list):
            claims[name] = tuple(text for item in entry.items() if (text := item.text()) is not None)
        else:
            entry.fail("must be text, a whole number, true, false, or a list of texts")
    return claims


def _supposed(node: Node, agent: Agent, policy: Policy) -> Supposed:
    found = node.members("audience", "scopes", "proof", "task", "details", "delegated_by", "break_glass")
    proof = found["proof"].flag() if "proof" in found else False
    ask = Ask(
        audience=_audience(found["audience"], policy) if "audience" in found else None,
        scopes=_scopes(found["scopes"]) if "scopes" in found else None,
        task=found["task"].text(128) if "task" in found else None,
        jkt=_PROOF if proof else None,
        details=_details(found["details"]) if "details" in found else None,
    )
    role = found["delegated_by"].reference(policy.roles, "a role") if "delegated_by" in found else None
    return Supposed(
        agent=agent,
        ask=ask,
        delegated_by=None if role is None else policy.roles[role],
        break_glass="break_glass" in found and found["break_glass"].flag() is True,
    )


def _details(node: Node) -> tuple[Element, ...] | None:
    try:
        return parse_details(json.dumps(node.value))
    except Malformed as error:
        node.fail(error.public.removeprefix("authorization_details: "))
        return None


def _audience(node: Node, policy: Policy) -> str | None:
    text = node.text()
    if text is None or text == BROKER:
        return None if text is None else policy.broker_audience
    try:
        return canonical_audience(text)
    except Malformed as error:
        node.fail(error.public.removeprefix("audience: "))
        return None


def _scopes(node: Node) -> tuple[str, ...]:
    scopes: set[str] = set()
    for item in node.items():
        text = item.text()
        if text is not None and not is_scope(text):
            item.fail("is not a scope")
        scopes |= set() if text is None else {text}
    return tuple(sorted(scopes))
