"""``broker policy advise``: what a broker recorded held against its policy, and a diff that keeps the layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.broker_app import TICKETS, BrokerApp, Template, make_template
from tests.support.broker_thread import BrokerThread
from tests.support.shell import Shell
from tests.support.team import TEAM, TEAM_POLICY, delegated

NOTED = TEAM_POLICY.replace(
    '        scopes: ["tickets:read", "tickets:close"]\n',
    '        scopes: ["tickets:read", "tickets:close"]  # closing was for the migration\n',
).replace("  helpers:\n", "  # Ask before this is changed.\n  helpers:\n")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with a team of agents, whose policy has comments."""
    return make_template(tmp_path_factory.mktemp("team") / "broker", NOTED, TEAM)


async def _work(app: BrokerApp) -> None:
    """Let a planner hand work on to a worker; nobody helps, nobody closes tickets."""
    for _ in range(3):
        await app.token("planner", TICKETS, "tickets:read tickets:comment")
    parent = await app.token("planner", TICKETS, "tickets:read")
    await delegated(app, "worker", parent, resource=TICKETS, scope="tickets:read")
    await app.token("worker", TICKETS, "tickets:read")
    await app.token("gateway", "broker", "actions:reserve revocations:read")


def _role(answer: Any, name: str) -> dict[str, Any]:  # noqa: ANN401 - JSON
    (role,) = (role for role in answer["roles"] if role["role"] == name)
    return dict(role)


def test_what_was_used_is_told(shell: Shell, broker: BrokerThread) -> None:
    """Tokens by scope, member and delegate, and the most at once: the same from the broker and from the file."""
    broker.run(_work(broker.app))
    answer = shell("policy", "advise", "--json").json
    planners, workers = _role(answer, "planners"), _role(answer, "workers")
    assert {found["scope"]: found["tokens"] for found in planners["scopes"] if found["audience"] == TICKETS} == {
        "tickets:read": 4,
        "tickets:comment": 3,
    }
    assert {found["line"]: found["tokens"] for found in planners["members"]} == {"agent planner": 4}
    assert {found["role"]: found["tokens"] for found in planners["delegates"]} == {"workers": 1}
    assert {found["role"]: found["tokens"] for found in workers["delegates"]} == {"helpers": 0, "finance": 0}
    most = {found["name"]: (found["allowed"], found["most"]) for found in planners["limits"]}
    assert most["tokens_per_minute"] == (100_000, 4)
    assert answer["proposals"] == [], "the policy is too young to be judged"
    offline = shell("policy", "advise", "--file", broker.app.broker.config.ledger, "--json").json
    assert offline["roles"] == answer["roles"]


def test_a_proposal_as_a_diff(shell: Shell, broker: BrokerThread, tmp_path: Path) -> None:
    """Every change is one of what the advice says, and comments and layout of all else stay."""
    broker.run(_work(broker.app))
    diff = shell("policy", "advise", "--force", "--diff", "-").out
    changed = [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in {"+++", "---"}]
    removed = {line[1:].strip() for line in changed if line[0] == "-"}
    added = {line[1:].strip() for line in changed if line[0] == "+"}
    assert 'scopes: ["tickets:read", "tickets:close"]  # closing was for the migration' in removed
    assert 'scopes: ["tickets:read"]  # closing was for the migration' in added
    assert "limits: {tokens_per_minute: 8, task_ttl: 1h, delegation_depth: 3}" in added
    assert "# Ask before this is changed." not in removed | added
    assert "operators:" not in removed, "what people have for when something happens stays"
    file = tmp_path / "narrower.diff"
    workers = ("policy", "advise", "--force", "--role", "workers")
    shown = shell(*workers, "--diff", file)
    assert file.read_text() == shell(*workers, "--diff", "-").out
    assert "remove tickets:close from allow[0]" in shown.out
    one = shell(*workers, "--json").json
    assert {proposal["role"] for proposal in one["proposals"]} == {"workers"}


def test_advice_on_another_policy_is_refused(shell: Shell, broker: BrokerThread, tmp_path: Path) -> None:
    """A diff of a file that is not in force would undo what others changed."""
    other = tmp_path / "policy.yaml"
    other.write_text(TEAM_POLICY.replace("15m", "14m"))
    done = shell("policy", "advise", "--force", "--diff", "-", "--policy", other)
    assert (done.code, done.err.split(": ")[1]) == (1, "policy_differs")
    assert shell("policy", "advise", "--role", "nobody").code == 1
    assert shell("policy", "advise", "--diff", "-", "--json").code == 2
    unwritable = shell("policy", "advise", "--force", "--diff", tmp_path)
    assert (unwritable.code, unwritable.err.startswith("broker: usage: --diff: ")) == (2, True)
