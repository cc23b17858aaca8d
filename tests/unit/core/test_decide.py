"""What is granted, what is denied and with which code."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core.decide import decide
from broker.core.errors import Code
from broker.core.grant import Ask, Decision, Denied, Granted, NeedsApproval
from broker.core.identity import Agent
from broker.core.rules import Block, BlockIndex
from broker.core.selector import parse_selector
from tests.support.policies import BROKER_AUDIENCE, DOCUMENT, PAYMENTS, TICKETS, compiled

TRIAGE = Agent("prod-cluster/support/triage", "prod-cluster", "system:serviceaccount:support:triage")
READER = Agent("reader", "registered", "reader")
NOBODY = Agent("nobody", "registered", "nobody")


def ask(audience: str | None = TICKETS, *scopes: str, jkt: str | None = "k" * 43, task: str | None = None) -> Ask:
    """Return an ask; no scope means that none was named."""
    return Ask(audience=audience, scopes=tuple(sorted(scopes)) or None, jkt=jkt, task=task)


def decided(
    agent: Agent, asked: Ask, *blocks: Block, now: float = 0.0, parts: dict[str, Any] | None = None
) -> Decision:
    """Decide by the test policy with some parts replaced."""
    return decide(compiled(**(parts or {})), BlockIndex(blocks), agent, asked, now)


def roles(**extra: object) -> dict[str, Any]:
    """Return the roles of the test policy, with more roles after them."""
    return {**DOCUMENT["roles"], **extra}


def block(number: int = 1, until: float | None = None, **selector: str | bool) -> Block:
    """Return a block."""
    return Block(f"blk_{number}", parse_selector(selector), None, 0.0, "op", "secret reason", until)


def code(decision: Decision) -> Code:
    """Return the code of a denial."""
    assert isinstance(decision, Denied)
    return decision.code


def test_a_grant_says_everything_about_itself() -> None:
    """Role, highest tier, shortest life, the line that allows it, and the limits of the role."""
    assert decided(TRIAGE, ask(TICKETS, "tickets:read", "tickets:comment")) == Granted(
        role="support-triage",
        audience=TICKETS,
        scopes=("tickets:comment", "tickets:read"),
        tier="write",
        ttl=600,
        allowed_by="roles.support-triage.allow[0]",
        agent_per_minute=30,
        role_per_minute=300,
    )


def test_asking_for_less_gets_less() -> None:
    """A grant holds exactly what was asked for, on the terms of that alone."""
    granted = decided(TRIAGE, ask(TICKETS, "tickets:read", jkt=None))
    assert isinstance(granted, Granted)
    assert (granted.scopes, granted.tier, granted.ttl) == (("tickets:read",), "read", 900)


def test_default_scopes() -> None:
    """A request that names no scope gets the default of the role, if there is one."""
    granted = decided(READER, ask(TICKETS))
    assert isinstance(granted, Granted)
    assert granted.scopes == ("tickets:read",)
    assert code(decided(TRIAGE, ask(TICKETS))) is Code.SCOPE_REQUIRED
    assert code(decided(READER, Ask(audience=TICKETS, scopes=()))) is Code.SCOPE_REQUIRED


@pytest.mark.parametrize(
    ("agent", "asked", "expected"),
    [
        (NOBODY, ask(TICKETS, "tickets:read"), Code.NO_ROLE),
        (NOBODY, ask("https://unknown.example", "x"), Code.NO_ROLE),
        (TRIAGE, ask(None, "tickets:read"), Code.AUDIENCE_REQUIRED),
        (TRIAGE, ask("https://unknown.example", "tickets:read"), Code.AUDIENCE_NOT_ALLOWED),
        (TRIAGE, ask(BROKER_AUDIENCE, "ledger:read"), Code.AUDIENCE_NOT_ALLOWED),
        (TRIAGE, ask("broker", "ledger:read"), Code.AUDIENCE_NOT_ALLOWED),
        (TRIAGE, ask(TICKETS + "/", "tickets:read"), Code.AUDIENCE_NOT_ALLOWED),
        (READER, ask(TICKETS, "tickets:comment"), Code.SCOPE_NOT_ALLOWED),
        (READER, ask(TICKETS, "tickets:read", "unknown"), Code.SCOPE_NOT_ALLOWED),
        (READER, ask(TICKETS, "TICKETS:READ"), Code.SCOPE_NOT_ALLOWED),
        (TRIAGE, ask(TICKETS, "tickets:comment", jkt=None), Code.PROOF_REQUIRED),
        (Agent("reader", "mesh", "reader"), ask(TICKETS, "tickets:comment"), Code.SCOPE_NOT_ALLOWED),
        (Agent("x", "mesh", TRIAGE.subject), ask(TICKETS, "tickets:read"), Code.NO_ROLE),
    ],
)
def test_denials(agent: Agent, asked: Ask, expected: Code) -> None:
    """What no line allows is denied, with the code that says how far the request got."""
    assert code(decided(agent, asked)) is expected


def test_existing_and_unknown_audiences_are_denied_alike() -> None:
    """A denial does not tell which audiences exist."""
    assert decided(READER, ask(PAYMENTS, "x")) == decided(READER, ask("https://unknown.example", "x"))


def test_a_denial_names_only_what_the_caller_asked_for() -> None:
    """The scopes that are missing are named, those of others are not; many are cut."""
    denied = decided(READER, ask(TICKETS, "tickets:read", "zz", "tickets:comment"))
    assert denied == Denied(Code.SCOPE_NOT_ALLOWED, "not allowed to this agent: tickets:comment zz")
    long = decided(READER, ask(TICKETS, *(f"s{number:03}" for number in range(100))))
    assert isinstance(long, Denied)
    assert long.reason.endswith("s007 and 92 more")


def test_scopes_are_not_added_up_over_roles() -> None:
    """Two roles that allow half each do not allow the whole."""
    extra = {
        "commenters": {
            "members": [{"agent": "reader"}],
            "allow": [{"audience": TICKETS, "scopes": ["tickets:comment"]}],
        }
    }
    denied = decided(READER, ask(TICKETS, "tickets:read", "tickets:comment"), parts={"roles": roles(**extra)})
    assert code(denied) is Code.SCOPE_NOT_ALLOWED
    assert "no single role" in str(denied)
    assert isinstance(decided(READER, ask(TICKETS, "tickets:comment"), parts={"roles": roles(**extra)}), Granted)


def test_the_first_role_that_allows_all_wins() -> None:
    """Roles are asked in the order of the file."""
    extra = {
        "late": {
            "members": [{"agent": "reader"}],
            "allow": [{"audience": TICKETS, "scopes": ["tickets:read"], "max_ttl": "1m"}],
        }
    }
    granted = decided(READER, ask(TICKETS, "tickets:read"), parts={"roles": roles(**extra)})
    assert isinstance(granted, Granted)
    assert granted.role == "support-reader"
    reordered = decided(READER, ask(TICKETS, "tickets:read"), parts={"roles": {**extra, **DOCUMENT["roles"]}})
    assert isinstance(reordered, Granted)
    assert (reordered.role, reordered.ttl) == ("late", 60)


def test_several_lines_of_one_role_cover_one_ask() -> None:
    """Lines for the same audience within a role count together; the shortest life wins and every line is named."""
    both = {
        "both": {
            "members": [{"agent": "clerk"}],
            "allow": [
                {"audience": TICKETS, "scopes": ["tickets:read"], "max_ttl": "2m"},
                {"audience": TICKETS, "scopes": ["tickets:comment"]},
            ],
        }
    }
    clerk = Agent("clerk", "registered", "clerk")
    granted = decided(clerk, ask(TICKETS, "tickets:read", "tickets:comment"), parts={"roles": roles(**both)})
    assert isinstance(granted, Granted)
    assert (granted.ttl, granted.tier) == (120, "write")
    assert granted.allowed_by == "roles.both.allow[1], roles.both.allow[0]"


def test_approval() -> None:
    """A tier that needs a person's word is not granted, and says whose word is needed."""
    decision = decided(TRIAGE, ask(PAYMENTS, "refunds:create"))
    assert isinstance(decision, NeedsApproval)
    assert (decision.tier, decision.approvers, decision.quorum, decision.expires) == ("sensitive", "finance", 1, 600)
    assert (decision.granted.scopes, decision.granted.ttl) == (("refunds:create",), 300)


def test_conditions_of_a_lower_tier_are_not_shed_by_asking_for_more() -> None:
    """Proof that ``write`` demands is demanded also together with a higher tier that does not."""
    audiences = {
        TICKETS: {"scopes": {"low": {"tier": "write"}, "high": {"tier": "operator"}, "asked": {"tier": "sensitive"}}}
    }
    role = {"r": {"members": [{"agent": "a"}], "allow": [{"audience": TICKETS, "scopes": ["low", "high", "asked"]}]}}
    parts = {"audiences": audiences, "roles": {**role, "finance": {**role["r"]}}}
    agent = Agent("a", "registered", "a")
    assert code(decided(agent, ask(TICKETS, "high", "low", jkt=None), parts=parts)) is Code.PROOF_REQUIRED
    granted = decided(agent, ask(TICKETS, "high", "low"), parts=parts)
    assert isinstance(granted, Granted)
    assert (granted.tier, granted.ttl) == ("operator", 600)
    assert isinstance(decided(agent, ask(TICKETS, "high", "asked"), parts=parts), NeedsApproval)


def test_a_grant_goes_before_an_approval_before_a_denial() -> None:
    """Whichever role says it and in whatever order."""
    lax = {"members": [{"agent": "a"}], "allow": [{"audience": TICKETS, "scopes": ["tickets:read"]}]}
    strict = {"members": [{"agent": "a"}], "allow": [{"audience": PAYMENTS, "scopes": ["refunds:create"]}]}
    agent = Agent("a", "registered", "a")
    for order in (("lax", "strict"), ("strict", "lax")):
        chosen = {name: {"lax": lax, "strict": strict}[name] for name in order}
        parts = {"roles": {**chosen, "support-reader": lax, "finance": strict}}
        assert isinstance(decided(agent, ask(PAYMENTS, "refunds:create"), parts=parts), NeedsApproval)
        assert isinstance(decided(agent, ask(TICKETS, "tickets:read"), parts=parts), Granted)
        assert code(decided(agent, ask(TICKETS, "other"), parts=parts)) is Code.SCOPE_NOT_ALLOWED


@pytest.mark.parametrize(
    "selector",
    [
        {"agent": TRIAGE.id},
        {"issuer": "prod-cluster"},
        {"role": "support-triage"},
        {"audience": TICKETS},
        {"scope": "tickets:comment"},
        {"tier": "write"},
        {"task": "T-1"},
        {"key": "k" * 43},
        {"everything": True},
        {"agent": TRIAGE.id, "tier": "write"},
    ],
)
def test_blocks(selector: dict[str, Any]) -> None:
    """A block on anything that the grant would have refuses it, and says no more than its id."""
    asked = ask(TICKETS, "tickets:read", "tickets:comment", task="T-1")
    denied = decided(TRIAGE, asked, block(7, **selector))
    assert denied == Denied(Code.BLOCKED, "blocked by an operator: blk_7")


@pytest.mark.parametrize(
    "selector",
    [{"agent": "other"}, {"tier": "read"}, {"scope": "x"}, {"agent": TRIAGE.id, "tier": "read"}, {"token": "t"}],
)
def test_blocks_on_something_else(selector: dict[str, Any]) -> None:
    """A block refuses only what it covers in every field."""
    assert isinstance(decided(TRIAGE, ask(TICKETS, "tickets:comment"), block(**selector)), Granted)


def test_a_block_ends() -> None:
    """At its end time it refuses no more."""
    asked = ask(TICKETS, "tickets:read")
    assert code(decided(TRIAGE, asked, block(until=10.0, everything=True), now=9.9)) is Code.BLOCKED
    assert isinstance(decided(TRIAGE, asked, block(until=10.0, everything=True), now=10.0), Granted)


def test_a_block_on_one_role_leaves_another() -> None:
    """Another role may still grant what a blocked role does not; a block on the agent stops both."""
    extra = {"second": {"members": [{"agent": "reader"}], "allow": [{"audience": TICKETS, "scopes": ["tickets:read"]}]}}
    parts = {"roles": roles(**extra)}
    granted = decided(READER, ask(TICKETS, "tickets:read"), block(role="support-reader"), parts=parts)
    assert isinstance(granted, Granted)
    assert granted.role == "second"
    denied = decided(READER, ask(TICKETS, "tickets:read"), block(agent="reader"), parts=parts)
    assert code(denied) is Code.BLOCKED


def test_a_blocked_agent_is_not_told_to_come_back_with_proof() -> None:
    """The block is the more specific reason; approvals are not asked for blocked grants either."""
    blocked = block(agent=TRIAGE.id)
    assert code(decided(TRIAGE, ask(TICKETS, "tickets:comment", jkt=None), blocked)) is Code.BLOCKED
    assert code(decided(TRIAGE, ask(PAYMENTS, "refunds:create"), blocked)) is Code.BLOCKED
