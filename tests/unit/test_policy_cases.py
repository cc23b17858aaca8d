"""Cases say what a policy must grant and deny, and a case that names something unknown is an error, not a pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.core.policy import Policy, PolicyError
from broker.policy_cases import Result, load_cases, run_cases
from tests.support.policies import DOCUMENT, TICKETS, compiled

TRIAGE = "{issuer: prod-cluster, subject: 'system:serviceaccount:support:triage'}"
READ = "{audience: 'https://tickets.internal', scopes: ['tickets:read']}"


def run(tmp_path: Path, text: str, policy: Policy | None = None) -> tuple[Result, ...]:
    """Load and run cases."""
    path = tmp_path / "cases.yaml"
    path.write_text(text)
    chosen = compiled() if policy is None else policy
    return run_cases(chosen, load_cases(path, chosen))


def case(**parts: str) -> str:
    """Return a document with one case, from YAML snippets."""
    written = {"name": "one", "agent": TRIAGE, "ask": READ, "expect": "granted", **parts}
    lines = [f"    {key}: {value}" for key, value in written.items() if value]
    return "cases:\n  -\n" + "\n".join(lines) + "\n"


def test_cases_that_hold(tmp_path: Path) -> None:
    """Every outcome can be expected, in as much detail as wanted."""
    text = f"""
cases:
  - name: triage reads
    agent: {TRIAGE}
    ask: {READ}
    expect: granted
    role: support-triage
    tier: read
    ttl: 15m
  - name: triage comments with a proof
    agent: {TRIAGE}
    ask: {{audience: "{TICKETS}", scopes: ["tickets:comment"], proof: true, task: T-1}}
    expect: granted
    ttl: 10m
  - name: not without
    agent: {TRIAGE}
    ask: {{audience: "{TICKETS}", scopes: ["tickets:comment"]}}
    expect: denied
    code: proof_required
  - name: refunds need a person
    agent: {TRIAGE}
    ask: {{audience: "https://payments.internal", scopes: ["refunds:create"]}}
    expect: needs_approval
    tier: sensitive
  - name: the default scope
    agent: {{id: reader}}
    ask: {{audience: "{TICKETS}"}}
    expect: granted
  - name: the boss decides
    agent: {{id: boss}}
    ask: {{audience: broker, scopes: ["approvals:decide"]}}
    expect: granted
    tier: operator
  - name: strangers get nothing
    agent: {{id: prod-cluster/x/y}}
    ask: {READ}
    expect: denied
    code: no_role
  - name: nobody gets everything
    agent: {{id: boss}}
    ask: {{}}
    expect: denied
"""
    text = text.replace("    ask: {}\n", "    ask: {scopes: ['x']}\n")
    results = run(tmp_path, text)
    assert len(results) == 8
    assert [result.case.name for result in results if not result.passed] == []


def test_a_case_that_does_not_hold_tells_all_differences(tmp_path: Path) -> None:
    """Each thing that differs is named, and then the decision itself."""
    (result,) = run(tmp_path, case(role="finance", ttl="1h"))
    assert not result.passed
    assert result.differences == (
        "role: expected finance, got support-triage",
        "ttl: expected 1h, got 15m",
        "granted: tickets:read for 15m in role support-triage, tier read, by roles.support-triage.allow[0]",
    )
    (denied,) = run(tmp_path, case(agent="{id: reader}", ask=READ.replace("read", "comment")))
    assert denied.differences[0] == "outcome: expected granted, got denied"
    assert denied.differences[1].startswith("denied (scope_not_allowed)")


def test_claims_of_a_case(tmp_path: Path) -> None:
    """Claims stand in for what the issuer would have vouched for."""
    roles = {**DOCUMENT["roles"], "ci": {
        "members": [{"issuer": "github", "claims": {"repository_id": "7", "environment": "prod"}}],
        "allow": [{"audience": TICKETS, "scopes": ["tickets:read"]}]}}  # fmt: skip
    policy = compiled(roles=roles)
    good = "{issuer: github, claims: {repository_id: '7', environment: prod, groups: [a, b], n: 1, b: true}}"
    assert run(tmp_path, case(agent=good, role="ci"), policy)[0].passed
    bad = good.replace("'7'", "'8'")
    assert run(tmp_path, case(agent=bad, expect="denied", code="no_role"), policy)[0].passed


WORKING = """
cases:
  - name: a line asks for two
    agent: {id: planner}
    ask: {audience: "https://tickets.internal", scopes: ["tickets:close", "tickets:read"]}
    expect: needs_approval
    role: planners
    approvers: people
    quorum: 2
  - name: with a reason it goes ahead
    agent: {id: planner}
    ask: {audience: "https://tickets.internal", scopes: ["tickets:close"], break_glass: true}
    expect: granted
    role: planners
  - name: others may not
    agent: {id: helper}
    ask: {audience: "https://tickets.internal", scopes: ["tickets:close"], break_glass: true, task: T-1}
    expect: denied
    code: break_glass_not_allowed
  - name: a reason changes nothing where nobody is asked
    agent: {id: planner}
    ask: {audience: "https://tickets.internal", scopes: ["tickets:read"], break_glass: true}
    expect: granted
  - name: a helper needs a task
    agent: {id: helper}
    ask: {audience: "https://tickets.internal", scopes: ["tickets:read"]}
    expect: denied
    code: task_required
  - name: but not for what it is handed
    agent: {id: helper}
    ask: {audience: "https://tickets.internal", delegated_by: planners, scopes: ["tickets:read"]}
    expect: granted
    role: helpers
    ttl: 5m
  - name: no more than the planner has
    agent: {id: helper}
    ask: {audience: "https://tickets.internal", delegated_by: planners, scopes: ["tickets:comment"]}
    expect: denied
    code: scope_not_allowed
  - name: approval counts in exchanges, too
    agent: {id: helper}
    ask: {audience: "https://tickets.internal", delegated_by: planners, scopes: ["tickets:close"]}
    expect: needs_approval
    quorum: 1
  - name: own grants
    agent: {id: worker}
    ask: {audience: "https://tickets.internal", delegated_by: planners, scopes: ["tickets:comment"]}
    expect: granted
  - name: not the other way round
    agent: {id: planner}
    ask: {audience: "https://tickets.internal", delegated_by: helpers, scopes: ["tickets:read"]}
    expect: denied
    code: delegation_not_allowed
  - name: details that fit
    agent: {id: planner}
    ask: {audience: "https://tickets.internal", scopes: ["tickets:read"], details: [{type: ticket, ids: [T-1]}]}
    expect: granted
  - name: details that do not
    agent: {id: planner}
    ask: {audience: "https://tickets.internal", scopes: ["tickets:read"], details: [{type: ticket, ids: T-1}]}
    expect: denied
    code: details_invalid
  - name: details of no type that the role has
    agent: {id: planner}
    ask: {audience: "https://tickets.internal", scopes: ["tickets:read"], details: [{type: agent_task}]}
    expect: denied
    code: details_not_allowed
"""


def working() -> Policy:
    """Return a policy with approvals of lines, break-glass, delegation, explicit tasks and details."""
    ask = {"approvers": "people", "quorum": 1, "expires": "5m"}
    schema = {"type": "object", "properties": {"ids": {"type": "array"}}}
    scopes = {name: {"tier": "read"} for name in ("tickets:read", "tickets:comment", "tickets:close")}
    reading = {"audience": TICKETS, "scopes": ["tickets:read"], "details": ["ticket"], "max_ttl": "5m"}
    closing = {"audience": TICKETS, "scopes": ["tickets:close"]}
    return compiled(
        {
            "version": 1,
            "tiers": {"read": {"max_ttl": "15m"}},
            "audiences": {TICKETS: {"scopes": scopes, "details": {"ticket": {"schema": schema}}}},
            "roles": {
                "planners": {
                    "members": [{"agent": "planner"}],
                    "allow": [reading, {**closing, "approval": {**ask, "quorum": 2}}],
                    "may_delegate_to": ["helpers", {"role": "workers", "own_grants": True}],
                    "break_glass": True,
                },
                "helpers": {
                    "members": [{"agent": "helper"}],
                    "allow": [{**reading, "max_ttl": "15m"}, {**closing, "approval": ask}],
                    "tasks": "explicit",
                },
                "workers": {
                    "members": [{"agent": "worker"}],
                    "allow": [{"audience": TICKETS, "scopes": ["tickets:comment"]}],
                },
                "people": {
                    "members": [{"agent": "carol"}, {"agent": "dave"}],
                    "allow": [{"audience": "broker", "scopes": ["approvals:decide"]}],
                },
            },
        }
    )


def test_approvals_delegation_and_break_glass(tmp_path: Path) -> None:
    """What a request would come to can be written down, whatever it needs and whoever hands it on."""
    results = run(tmp_path, WORKING, working())
    assert len(results) == 13
    assert [(result.case.name, result.differences) for result in results if not result.passed] == []


def test_what_is_expected_of_an_approval_is_compared(tmp_path: Path) -> None:
    """Other people, or fewer of them, are a difference."""
    text = "\n".join(WORKING.split("\n")[:9]).replace("quorum: 2", "quorum: 1")
    (result,) = run(tmp_path, text.replace("approvers: people", "approvers: workers"), working())
    assert result.differences[:2] == ("approvers: expected workers, got people", "quorum: expected 1, got 2")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "(the whole document): has no value"),
        ("cases: []", "cases: must not be empty"),
        ("tests: []", "tests: unknown key"),
        (case(expect=""), "cases[0]: expect is missing"),
        (case(expect="allowed"), "cases[0].expect: must be one of: granted, denied, needs_approval"),
        (case(role="nope"), "cases[0].role: 'nope' is not a role"),
        (case(tier="nope"), "cases[0].tier: 'nope' is not a tier"),
        (case(code="no_role"), "cases[0].code: says nothing about a case that is granted"),
        (case(expect="denied", code="nope"), "cases[0].code: must be one of"),
        (case(expect="denied", ttl="1m"), "cases[0].ttl: says nothing"),
        (case(ttl="soon"), "cases[0].ttl: must be a duration"),
        (case(extra="1"), "cases[0].extra: unknown key"),
        (case(agent="{}"), "cases[0].agent: must not be empty"),
        (case(agent="{subject: x}"), "cases[0].agent.subject: name the issuer"),
        (case(agent="{issuer: nope, subject: x}"), "cases[0].agent.issuer: 'nope' is not an issuer"),
        (case(agent="{id: nope/x}"), "cases[0].agent.id: the part before the slash is not an issuer"),
        (case(agent="{issuer: github, claims: {a: {b: c}}}"), "cases[0].agent.claims.a: must be text"),
        (case(ask="{audience: tickets}"), "cases[0].ask.audience: must be an absolute URI"),
        (case(ask="{scopes: []}"), "cases[0].ask.scopes: must not be empty"),
        (case(ask="{scopes: ['a b']}"), "cases[0].ask.scopes[0]: is not a scope"),
        (case(ask="{delegated_by: nobody}"), "cases[0].ask.delegated_by: 'nobody' is not a role"),
        (case(ask="{break_glass: please}"), "cases[0].ask.break_glass: must be true or false"),
        (case(ask="{details: []}"), "cases[0].ask.details: must be a JSON array"),
        (case(ask="{details: [{type: 1}]}"), "cases[0].ask.details: every element must be an object with a type"),
        (case(ask="{details: ticket}"), "cases[0].ask.details: must be a JSON array"),
        (case(quorum="1"), "cases[0].quorum: says nothing about a case that is granted"),
        (case(expect="needs_approval", quorum="0"), "cases[0].quorum: must be a whole number from 1 to 10"),
        (case(expect="needs_approval", approvers="x"), "cases[0].approvers: 'x' is not a role"),
        (case(expect="needs_approval", ttl="1m"), "cases[0].ttl: says nothing about a case that is needs_approval"),
        (case(ask="{proof: maybe}"), "cases[0].ask.proof: must be true or false"),
        (case() + case().removeprefix("cases:\n"), "cases[1].name: is the name of more than one case"),
    ],
)
def test_bad_cases(tmp_path: Path, text: str, told: str) -> None:
    """A case with a mistake is an error of the file, so that it cannot pass by mistake."""
    with pytest.raises(PolicyError) as caught:
        run(tmp_path, text)
    assert any(f": {told}" in line for line in str(caught.value).split("\n")), str(caught.value)
