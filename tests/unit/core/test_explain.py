"""An explanation says role by role and line by line why, and comes to the decision itself."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core.decide import decide
from broker.core.explain import Explanation, explain, outcome, recorded_request
from broker.core.grant import Ask
from broker.core.identity import Agent
from broker.core.policy import Policy
from broker.core.rules import Block, BlockIndex
from broker.core.selector import Selector
from broker.core.supposing import Supposed
from tests.support.policies import DOCUMENT, PAYMENTS, TICKETS, compiled

TRIAGE = Agent("prod-cluster/support/triage", "prod-cluster", "system:serviceaccount:support:triage")
NONE = BlockIndex()


def explained(policy: Policy, agent: Agent, ask: Ask, **terms: Any) -> Explanation:  # noqa: ANN401 - of the supposition
    """Explain a request, with no blocks in force."""
    return explain(policy, NONE, Supposed(agent=agent, ask=ask, **terms), 0.0)


def test_a_grant_explained() -> None:
    """The outcome comes first, then each role with its member lines and the terms of each scope."""
    asked = Ask(audience=TICKETS, scopes=("tickets:comment", "tickets:read"), jkt="k")
    line = "roles.support-triage.allow[0]"
    granted = f"granted: tickets:comment tickets:read for 10m in role support-triage, tier write, by {line}"
    member = "issuer prod-cluster, subject system:serviceaccount:support:triage"
    assert explained(compiled(), TRIAGE, asked).lines() == [
        granted,
        f"role support-triage: {granted}",
        f"  roles.support-triage.members[0] ({member}): matches",
        f"  tickets:comment: allowed by {line}, tier write, for 10m at most, with proof of possession (shown)",
        "  tickets:read: allowed by roles.support-triage.allow[0], tier read, for 15m at most",
        "role support-reader: the agent is not a member",
        "  roles.support-reader.members[0] (agent reader): does not match, the agent is not reader",
        "role finance: the agent is not a member",
        "  roles.finance.members[0] (agent boss): does not match, the agent is not boss",
    ]


def test_unknown_audiences_and_scopes_are_told_to_the_operator() -> None:
    """Unlike the denial that the agent sees, the explanation speaks of the whole policy."""
    unknown = explained(compiled(), TRIAGE, Ask(audience="https://x.example", scopes=None))
    assert unknown.notes == ("the policy does not know the audience https://x.example",)
    assert "  allows nothing at https://x.example" in unknown.lines()
    scope = explained(compiled(), TRIAGE, Ask(audience=TICKETS, scopes=("nope", "tickets:read")))
    assert scope.notes == (f"the policy does not know the scope nope at {TICKETS}",)
    assert "  nope: is not allowed here" in scope.lines()


def test_missing_audience_scope_proof_and_approval() -> None:
    """Each thing that is missing is named where it is missing."""
    policy = compiled()
    nowhere = explained(policy, TRIAGE, Ask(audience=None, scopes=None))
    assert nowhere.lines()[0].startswith("denied (audience_required)")
    assert nowhere.lines()[1] == "role support-triage: the agent is a member"
    nothing = explained(policy, TRIAGE, Ask(audience=TICKETS, scopes=None))
    assert "  no scope was asked for, no default" in nothing.lines()
    default = explained(policy, Agent("reader", "registered", "reader"), Ask(audience=TICKETS, scopes=None))
    assert "  no scope was asked for: the default is tickets:read" in default.lines()
    proof = explained(policy, TRIAGE, Ask(audience=TICKETS, scopes=("tickets:comment",)))
    assert any("with proof of possession (not shown)" in line for line in proof.lines())
    approval = explained(policy, TRIAGE, Ask(audience=PAYMENTS, scopes=("refunds:create",)))
    assert approval.lines()[0] == "needs approval: tier sensitive asks for 1 of role finance within 10m"
    assert any("after approval by 1 of role finance" in line for line in approval.lines())


def test_what_a_line_asks_for_and_the_way_without() -> None:
    """A line's own approval is told, with who it asks, and that the role may go ahead with a reason."""
    roles = {**DOCUMENT["roles"]}
    approval = {"approvers": "finance", "quorum": 1, "expires": "5m"}
    line = {"audience": TICKETS, "scopes": ["tickets:read"], "approval": approval}
    roles["support-reader"] = {"members": [{"agent": "reader"}], "allow": [line], "break_glass": True}
    policy, reader = compiled(roles=roles), Agent("reader", "registered", "reader")
    asked = Ask(audience=TICKETS, scopes=("tickets:read",))
    told = explained(policy, reader, asked)
    assert told.lines()[0] == "needs approval: tier read asks for 1 of role finance within 5m"
    assert any("after approval by 1 of role finance, which the line asks for" in one for one in told.lines())
    assert any("may go ahead without approval by giving a reason" in one for one in told.lines())
    assert explained(policy, reader, asked, break_glass=True).lines()[0].startswith("granted: tickets:read")
    refunds = Ask(audience=PAYMENTS, scopes=("refunds:create",))
    denied = explained(policy, TRIAGE, refunds, break_glass=True)
    assert denied.lines()[0].startswith("denied (break_glass_not_allowed)")


def test_an_exchange_explained() -> None:
    """On which terms one role delegates to the agent's, and what that role says; or that it may not."""
    policy, reader = compiled(), Agent("reader", "registered", "reader")
    triage = policy.roles["support-triage"]
    asked = Ask(audience=TICKETS, scopes=("tickets:read",))
    told = explained(policy, reader, asked, delegated_by=triage)
    terms = "it acts in role support-reader, has a part of that token which its own role allows"
    member = "issuer prod-cluster, subject system:serviceaccount:support:triage"
    line = "roles.support-reader.allow[0]"
    assert told.lines() == [
        f"granted: tickets:read for 15m in role support-reader, tier read, by {line}",
        "in exchange for a token of role support-triage with all that this role allows there",
        f"by roles.support-triage.may_delegate_to {terms}",
        "role support-triage: the agent is not a member",
        f"  roles.support-triage.members[0] ({member}): does not match, the issuer is not prod-cluster",
        f"role support-reader: granted: tickets:read for 15m in role support-reader, tier read, by {line}",
        "  roles.support-reader.members[0] (agent reader): matches",
        f"  tickets:read: allowed by {line}, tier read, for 15m at most",
        "role finance: the agent is not a member",
        "  roles.finance.members[0] (agent boss): does not match, the agent is not boss",
    ]
    boss = explained(policy, Agent("boss", "registered", "boss"), asked, delegated_by=triage)
    assert boss.lines()[0].startswith("denied (delegation_not_allowed)")
    assert "that role may not delegate to this agent" in boss.notes


def test_details_explained() -> None:
    """Types that the audience does not know, or the role does not allow, are told."""
    asked = Ask(audience=TICKETS, scopes=("tickets:read",), details=({"type": "agent_task"}, {"type": "x"}))
    told = explained(compiled(), TRIAGE, asked)
    assert told.notes == (f"the policy does not know details of type x at {TICKETS}",)
    assert "  details of type agent_task: not allowed here" in told.lines()


def test_a_block_is_told_with_what_it_covers_and_why() -> None:
    """The operator sees who blocked what and for which reason."""
    block = Block("blk_1", Selector(agent=TRIAGE.id, tier="read"), 4, 0.0, "alice", "seen in an incident")
    asked = Ask(audience=TICKETS, scopes=("tickets:read",))
    lines = explain(compiled(), BlockIndex([block]), Supposed(agent=TRIAGE, ask=asked), 0.0).lines()
    assert f"  block blk_1 by alice covers agent {TRIAGE.id}, tier read: seen in an incident" in lines
    assert lines[0] == "denied (blocked): blocked by an operator: blk_1"


def test_a_recorded_refusal_can_be_explained() -> None:
    """The members of a refusal's entry are enough to decide it again."""
    members = {
        "agent": "gitlab/x",
        "issuer": "gitlab",
        "subject": "x",
        "attributes": {"groups": ["a", "b"], "n": 1},
        "audience": TICKETS,
        "scope": "tickets:read x",
        "task": "T-1",
        "bound_key": "k",
        "details": [{"type": "ticket"}],
    }
    agent, asked = recorded_request(members)
    assert agent == Agent("gitlab/x", "gitlab", "x", {"groups": ("a", "b"), "n": 1})
    assert asked == Ask(
        audience=TICKETS, scopes=("tickets:read", "x"), task="T-1", jkt="k", details=({"type": "ticket"},)
    )
    bare, nothing = recorded_request({"agent": "a", "issuer": "registered", "subject": "a"})
    assert (bare.attributes, nothing) == ({}, Ask(audience=None, scopes=None))
    decision = decide(compiled(), NONE, agent, asked, 0.0)
    assert explained(compiled(), agent, asked).lines()[0] == outcome(decision)


def test_an_entry_about_something_else_cannot_be_explained() -> None:
    """A rule's entry has no request in it."""
    with pytest.raises(ValueError, match="does not record"):
        recorded_request({"kind": "rule.added", "by": "alice"})
