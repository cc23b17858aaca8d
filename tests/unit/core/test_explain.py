"""An explanation says role by role and line by line why, and comes to the decision itself."""

from __future__ import annotations

import pytest

from broker.core.decide import decide
from broker.core.explain import explain, outcome, recorded_request
from broker.core.grant import Ask
from broker.core.identity import Agent
from broker.core.rules import Block, BlockIndex
from broker.core.selector import Selector
from tests.support.policies import PAYMENTS, TICKETS, compiled

TRIAGE = Agent("prod-cluster/support/triage", "prod-cluster", "system:serviceaccount:support:triage")
NONE = BlockIndex()


def test_a_grant_explained() -> None:
    """The outcome comes first, then each role with its member lines and the terms of each scope."""
    asked = Ask(audience=TICKETS, scopes=("tickets:comment", "tickets:read"), jkt="k")
    line = "roles.support-triage.allow[0]"
    granted = f"granted: tickets:comment tickets:read for 10m in role support-triage, tier write, by {line}"
    member = "issuer prod-cluster, subject system:serviceaccount:support:triage"
    assert explain(compiled(), NONE, TRIAGE, asked, 0.0).lines() == [
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
    unknown = explain(compiled(), NONE, TRIAGE, Ask(audience="https://x.example", scopes=None), 0.0)
    assert unknown.notes == ("the policy does not know the audience https://x.example",)
    assert "  allows nothing at https://x.example" in unknown.lines()
    scope = explain(compiled(), NONE, TRIAGE, Ask(audience=TICKETS, scopes=("nope", "tickets:read")), 0.0)
    assert scope.notes == (f"the policy does not know the scope nope at {TICKETS}",)
    assert "  nope: is not allowed here" in scope.lines()


def test_missing_audience_scope_proof_and_approval() -> None:
    """Each thing that is missing is named where it is missing."""
    policy = compiled()
    nowhere = explain(policy, NONE, TRIAGE, Ask(audience=None, scopes=None), 0.0)
    assert nowhere.lines()[0].startswith("denied (audience_required)")
    assert nowhere.lines()[1] == "role support-triage: the agent is a member"
    nothing = explain(policy, NONE, TRIAGE, Ask(audience=TICKETS, scopes=None), 0.0)
    assert "  no scope was asked for, no default" in nothing.lines()
    default = explain(policy, NONE, Agent("reader", "registered", "reader"), Ask(audience=TICKETS, scopes=None), 0.0)
    assert "  no scope was asked for: the default is tickets:read" in default.lines()
    proof = explain(policy, NONE, TRIAGE, Ask(audience=TICKETS, scopes=("tickets:comment",)), 0.0)
    assert any("with proof of possession (not shown)" in line for line in proof.lines())
    approval = explain(policy, NONE, TRIAGE, Ask(audience=PAYMENTS, scopes=("refunds:create",)), 0.0)
    assert approval.lines()[0] == "needs approval: tier sensitive asks for 1 of role finance within 10m"
    assert any("after approval by 1 of role finance" in line for line in approval.lines())


def test_a_block_is_told_with_what_it_covers_and_why() -> None:
    """The operator sees who blocked what and for which reason."""
    block = Block("blk_1", Selector(agent=TRIAGE.id, tier="read"), 4, 0.0, "alice", "seen in an incident")
    asked = Ask(audience=TICKETS, scopes=("tickets:read",))
    lines = explain(compiled(), BlockIndex([block]), TRIAGE, asked, 0.0).lines()
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
    }
    agent, asked = recorded_request(members)
    assert agent == Agent("gitlab/x", "gitlab", "x", {"groups": ("a", "b"), "n": 1})
    assert asked == Ask(audience=TICKETS, scopes=("tickets:read", "x"), task="T-1", jkt="k")
    bare, nothing = recorded_request({"agent": "a", "issuer": "registered", "subject": "a"})
    assert (bare.attributes, nothing) == ({}, Ask(audience=None, scopes=None))
    decision = decide(compiled(), NONE, agent, asked, 0.0)
    assert explain(compiled(), NONE, agent, asked, 0.0).lines()[0] == outcome(decision)


def test_an_entry_about_something_else_cannot_be_explained() -> None:
    """A rule's entry has no request in it."""
    with pytest.raises(ValueError, match="does not record"):
        recorded_request({"kind": "rule.added", "by": "alice"})
