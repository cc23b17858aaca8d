"""Cases: read from a file, decided by a policy, and compared with what they expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.core.errors import Code
from broker.core.explain import Verdict, outcome
from broker.core.grant import Denied, Granted, NeedsApproval
from broker.core.lifetime import format_duration
from broker.core.policy import Policy, PolicyError
from broker.core.policy.compile_tiers import MOST_APPROVERS
from broker.core.policy.document import Node, Problem, plain_problems
from broker.core.rules import BlockIndex
from broker.core.supposing import Supposed, suppose
from broker.core.supposing_leases import LeaseAllowed, LeaseNeedsApproval, SupposedLease, suppose_lease
from broker.policy_cases.asking import read_agent, read_ask
from broker.strict_yaml import read_document

GRANTED: Final = "granted"
DENIED: Final = "denied"
NEEDS_APPROVAL: Final = "needs_approval"

_EXPECTATIONS: Final = ("code", "role", "tier", "ttl", "approvers", "quorum")
_REASONS: Final = (
    Code.NO_ROLE, Code.AUDIENCE_REQUIRED, Code.AUDIENCE_NOT_ALLOWED, Code.SCOPE_REQUIRED, Code.SCOPE_NOT_ALLOWED,
    Code.PROOF_REQUIRED, Code.DETAILS_NOT_SUPPORTED, Code.DETAILS_NOT_ALLOWED, Code.DETAILS_INVALID, Code.TASK_REQUIRED,
    Code.APPROVAL_AMBIGUOUS, Code.BREAK_GLASS_NOT_ALLOWED, Code.DELEGATION_NOT_ALLOWED, Code.SECRET_NOT_ALLOWED,
    Code.ENCRYPTION_REQUIRED,
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
    supposed: Supposed | SupposedLease
    expected: Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a case went: what was decided, and every way in which that is not what was expected."""

    case: Case
    decision: Verdict
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
    decision = _decide(policy, case.supposed)
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


def _decide(policy: Policy, supposed: Supposed | SupposedLease) -> Verdict:
    if isinstance(supposed, SupposedLease):
        return suppose_lease(policy, BlockIndex(), supposed, 0.0)
    return suppose(policy, BlockIndex(), supposed, 0.0)


def _lifetime(seconds: int | None) -> str | None:
    return None if seconds is None else format_duration(seconds)


def _observed(decision: Verdict) -> Expected:
    match decision:
        case Granted() | LeaseAllowed():
            return Expected(outcome=GRANTED, role=decision.role, tier=decision.tier, ttl=decision.ttl)
        case Denied():
            return Expected(outcome=DENIED, code=decision.code.value)
        case NeedsApproval() | LeaseNeedsApproval():
            what = decision.granted if isinstance(decision, NeedsApproval) else decision.allowed
            return Expected(
                outcome=NEEDS_APPROVAL,
                role=what.role,
                tier=decision.tier,
                approvers=decision.approvers,
                quorum=decision.quorum,
            )


def _case(node: Node, policy: Policy) -> Case | None:
    found = node.members(*_EXPECTATIONS, required=("name", "agent", "ask", "expect"))
    name = found["name"].text() if "name" in found else None
    agent = read_agent(found["agent"], policy) if "agent" in found else None
    supposed = None if agent is None or "ask" not in found else read_ask(found["ask"], agent, policy)
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
