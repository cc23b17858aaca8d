"""Advice on secrets: those that nobody leased go, the others may be held for twice as long as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from broker.core.advice import Advice, Edit
from broker.core.policy import Policy
from broker.core.proposing import advise
from broker.core.usage import AgentUse, Load, RoleUse, ScopeUse, SecretUse, Usage
from broker.core.widening import broadened
from broker.policy_edits import edited
from tests.support.policies import BROKER_AUDIENCE, TICKETS, compiled

NOW = 1_795_300_000.0
SINCE = NOW - 30 * 24 * 3600
TAKE = {"audience": "broker", "scopes": ["leases:take"]}
SECRET = {"backend": "local", "tier": "read", "generate": 32}


def document(**roles: dict[str, Any]) -> dict[str, Any]:
    """Return a policy with secrets, and with these roles besides the one that uses some of them."""
    workers = {
        "members": [{"agent": "alpha"}],
        "allow": [TAKE, {"secret": "db"}, {"secret": "key", "max_ttl": "10m"}, {"secret": "old"}],
        "limits": {"tokens_per_minute": 60, "live_leases": 50, "task_ttl": "2h"},
    }
    return {
        "version": 1,
        "tiers": {"read": {"max_ttl": "15m"}},
        "audiences": {TICKETS: {"scopes": {"tickets:read": {"tier": "read"}}}},
        "secrets": {"db": SECRET, "key": SECRET, "old": {**SECRET, "generate": 64}},
        "roles": {"workers": workers, **roles},
    }


def policy(**roles: dict[str, Any]) -> Policy:
    """Compile it."""
    return compiled(document(**roles))


def usage(judged: Policy, *uses: SecretUse, **more: Any) -> Usage:  # noqa: ANN401 - members of the usage
    """Return what was used of it: tokens to take leases with, and these secrets."""
    token = ScopeUse(role="workers", audience=BROKER_AUDIENCE, scope="leases:take", tokens=9, longest=900, last_at=NOW)
    agent = AgentUse(role="workers", agent="alpha", issuer="registered", subject="alpha", tokens=9, leases=5)
    members: dict[str, Any] = {
        "since": SINCE,
        "complete": True,
        "scopes": (token,),
        "secrets": uses,
        "agents": (agent,),
        "roles": {"workers": RoleUse(agent_peak=40, live_leases=4)},
        "asked": {},
        "actions": {},
        "ceilings": frozenset(),
        "secret_ceilings": frozenset(),
        "delegations": {},
        "loads": (Load(SINCE - 1, judged.digest, None),),
    }
    return Usage(**(members | more))


def use(secret: str, longest: int = 100, leases: int = 3) -> SecretUse:
    """Return a use of a secret by the workers."""
    return SecretUse(role="workers", secret=secret, leases=leases, longest=longest, last_at=NOW - 10)


def proposals(advice: Advice) -> list[tuple[Edit, str | None, int | None, int | None]]:
    """Return what is proposed: the edit, the name, the line and the value."""
    return [(each.edit, each.name, each.line, each.value) for each in advice.proposals]


def test_unused_secrets_go_and_used_ones_may_be_held_less_long() -> None:
    """Twice the longest life, in whole minutes; a line that is near to it stays."""
    judged = policy()
    advice = advise(judged, usage(judged, use("db", 100), use("key", 299)), until=NOW)
    assert proposals(advice) == [
        (Edit.SET_TTL, None, 1, 240),
        (Edit.REMOVE_SECRET, "old", 3, None),
        (Edit.SET_LIMIT, "live_leases", None, 8),
    ]
    (role,) = advice.roles
    assert [(each.secret, each.allowed, each.leases, each.longest) for each in role.secrets] == [
        ("db", 900, 3, 100),
        ("key", 600, 3, 299),
        ("old", 900, 0, None),
    ]
    assert [(each.name, each.allowed, each.most) for each in role.limits][-1] == ("live_leases", 50, 4)
    assert any("a secret counts as used" in note for note in advice.notes)


def test_the_proposal_is_an_edit_that_only_narrows(tmp_path: Path) -> None:
    """What comes of the text compiles, says what was proposed, and could grant nothing more."""
    text = yaml.safe_dump(json.loads(json.dumps(document())), sort_keys=False)
    judged = policy()
    advice = advise(judged, usage(judged, use("db", 100), use("key", 10)), until=NOW)
    after = compiled(yaml.safe_load(edited(tmp_path / "policy.yaml", text, advice.proposals)))
    workers = after.roles["workers"]
    assert {name: line.ttl for name, line in workers.secrets.items()} == {"db": 240, "key": 20}
    assert workers.limits.live_leases == 8
    assert broadened(judged, after) == ()


def test_a_secret_that_tasks_were_opened_for_stays() -> None:
    """Somebody meant to use it; also somebody who could hand the work on to this role."""
    judged = policy()
    meant = usage(judged, use("db", 450), use("key", 400), secret_ceilings=frozenset({("workers", "old")}))
    advice = advise(judged, meant, until=NOW)
    assert Edit.REMOVE_SECRET not in {each.edit for each in advice.proposals}
    assert "the secret old was not leased, but tasks were opened for it" in advice.roles[0].notes

    planner = {
        "members": [{"agent": "planner"}],
        "allow": [{"audience": TICKETS, "scopes": ["tickets:read"]}],
        "may_delegate_to": [{"role": "workers", "own_grants": True}],
    }
    handing = policy(planners=planner)
    meant = usage(handing, use("db"), use("key"), secret_ceilings=frozenset({("planners", "old")}))
    assert (Edit.REMOVE_SECRET, "old", 3, None) not in proposals(advise(handing, meant, until=NOW))


def test_a_role_of_which_nothing_was_leased_keeps_its_lines() -> None:
    """A role allows something: if nothing of it was used, it goes as a whole, or stays as it is."""
    judged = policy(others={"members": [{"agent": "beta"}], "allow": [{"secret": "db"}]})
    advice = advise(judged, usage(judged, use("db"), use("key"), use("old")), until=NOW)
    assert (Edit.REMOVE_ROLE, None, None, None) in proposals(advice)
    opened = usage(judged, use("db"), roles={"others": RoleUse(tasks=1), "workers": RoleUse(agent_peak=1)})
    kept = advise(judged, opened, until=NOW, role="others")
    assert kept.proposals == ()
    assert "nothing that it allows now was used, but a role allows something" in kept.roles[0].notes


def test_tasks_of_a_role_live_as_long_as_its_leases() -> None:
    """A lease in no task that was opened gets one with the life of the role's tasks."""
    judged = policy()
    tasks = {"workers": RoleUse(agent_peak=40, live_leases=40, tasks=2, longest_task=60)}
    advice = advise(judged, usage(judged, use("db", 700), use("key", 600), use("old", 700), roles=tasks), until=NOW)
    assert (Edit.SET_LIMIT, "task_ttl", None, 1440) in proposals(advice)


@pytest.mark.parametrize(
    ("allow", "wider"),
    [
        ([TAKE, {"secret": "db"}], False),
        ([TAKE, {"secret": "db", "max_ttl": "1m"}], False),
        ([TAKE, {"secret": "key"}], True),
        ([TAKE, {"secret": "extra"}], True),
    ],
    ids=["the same", "less", "longer", "more"],
)
def test_a_later_role_with_more_secrets_would_answer_instead(allow: list[dict[str, Any]], wider: bool) -> None:
    """The role of the token decides on leases: who loses one role must not get another that gives more."""
    later = {"members": [{"agent": "alpha"}], "allow": allow, "limits": {"tokens_per_minute": 60, "task_ttl": "2h"}}
    before = document(later=later)
    before["secrets"]["extra"] = SECRET
    before["roles"]["later"]["limits"]["live_leases"] = 50
    after = {**before, "roles": {**before["roles"], "workers": dict(before["roles"]["workers"])}}
    after["roles"]["workers"]["allow"] = before["roles"]["workers"]["allow"][1:]
    assert bool(broadened(compiled(before), compiled(after))) is wider
