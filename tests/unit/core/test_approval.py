"""Votes: whose word still counts when it is used, and by which rules it is found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.core.approval import APPROVED, ApprovalRequest, ApprovalState, Vote, standing
from broker.core.policy.matching import AgentMember
from broker.core.rules import Rule, RuleIndex
from broker.core.selector import Selector, facts_text

MEMBERS = (AgentMember("carol"), AgentMember("dave"))
TOKEN = facts_text(
    {
        ("token", "tok_carol"),
        ("agent", "carol"),
        ("role", "finance"),
        ("issuer", "registered"),
        ("key", "kid_1"),
        ("scope", "approvals:decide"),
        ("task", "task_carol"),
    }
)
REQUEST = ApprovalRequest(
    id="apr_1",
    kind="token",
    digest="0" * 64,
    agent="worker",
    issuer="registered",
    role="workers",
    asked={
        "audience": "https://payments.internal",
        "scopes": ["refunds:create"],
        "key": "key_of_worker",
        "subject_token": "tok_parent",
    },
    approvers="finance",
    quorum=1,
    requested_at=0,
    expires_at=600,
    tier="sensitive",
    task="task_1",
    task_owner="planner",
    chain=("planner",),
)


def approved(**changes: Any) -> ApprovalState:  # noqa: ANN401 - members of the vote
    """Return a request that carol agreed to at epoch 5."""
    vote = Vote(
        approver="carol",
        issuer="registered",
        role="finance",
        approve=True,
        reason="x",
        at=1,
        epoch=5,
        token=TOKEN,
    )
    return ApprovalState(request=REQUEST, stored=APPROVED, votes=(replace(vote, **changes),))


def after(number: int, **selector: Any) -> RuleIndex:  # noqa: ANN401 - members of the selector
    """Return the rules when one of this number was made."""
    rule = Rule(id="rul_1", selector=Selector(**selector), number=number, at=2, by="operator", reason="x")
    return RuleIndex([rule])


@pytest.mark.parametrize(
    "selector",
    [
        {"agent": "carol"},
        {"issuer": "registered"},
        {"role": "finance"},
        {"token": "tok_carol"},
        {"key": "kid_1"},
        {"scope": "approvals:decide"},
        {"agent": "carol", "key": "kid_1"},
        {"agent": "worker"},
        {"agent": "planner"},
        {"role": "workers"},
        {"scope": "refunds:create"},
        {"audience": "https://payments.internal"},
        {"tier": "sensitive"},
        {"task": "task_1"},
        {"token": "tok_parent"},
        {"key": "key_of_worker"},
        {"everything": True},
    ],
)
def test_a_vote_dies_with_whom_it_came_from_and_with_what_it_is_for(selector: dict[str, Any]) -> None:
    """A rule on the approver, their token, or what was asked ends it; one that was there before does not."""
    assert standing(approved(), after(6, **selector), MEMBERS) == 0
    assert standing(approved(), after(5, **selector), MEMBERS) == 1


@pytest.mark.parametrize(
    "selector",
    [
        {"agent": "dave"},
        {"token": "tok_other"},
        {"scope": "refunds:read"},
        {"agent": "worker", "key": "kid_1"},
        {"task": "task_carol"},
    ],
)
def test_rules_about_something_else_leave_it(selector: dict[str, Any]) -> None:
    """Those that cover only half, or that end the task in which the approver worked, too."""
    assert standing(approved(), after(6, **selector), MEMBERS) == 1


def test_a_vote_that_does_not_say_with_which_token() -> None:
    """One of an older broker dies with its approver."""
    assert standing(approved(token=None), after(6, token="tok_carol"), MEMBERS) == 1
    assert standing(approved(token=None), after(6, agent="carol"), MEMBERS) == 0


def test_only_members_and_those_who_agreed_count() -> None:
    """Whoever cannot be a member any more has said nothing, and neither has who said no."""
    assert standing(approved(), RuleIndex(), MEMBERS) == 1
    assert standing(approved(), RuleIndex(), MEMBERS[1:]) == 0
    assert standing(approved(approve=False), RuleIndex(), MEMBERS) == 0
