"""What must hold of advice on any policy: whoever used it gets the same as before, and nobody gets anything more.

A policy is used at random, the use is counted, and the proposal is carried out on the text of the file.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from hypothesis import event, given, settings
from hypothesis import strategies as st

from broker.core.decide import decide
from broker.core.grant import Ask, Granted
from broker.core.identity import Agent
from broker.core.policy import Policy
from broker.core.proposing import advise
from broker.core.rules import BlockIndex
from broker.core.usage import AgentUse, Load, RoleUse, ScopeUse, Usage
from broker.core.widening import broadened
from broker.policy_edits import edited
from tests.properties.test_narrowing_properties import ASKS, EVERYBODY
from tests.properties.test_policy_properties import documents
from tests.support.policies import compiled

NOW = 1_795_300_000.0
SINCE = NOW - 30 * 24 * 3600
NO_BLOCKS = BlockIndex()

Use = tuple[Agent, Ask, Granted]


def used(policy: Policy, uses: list[Use]) -> Usage:
    """Count as the ledger does: by role and scope, by role and agent, by role."""
    scopes: dict[tuple[str, str, str], ScopeUse] = {}
    by_agent: Counter[tuple[str, str]] = Counter()
    agents = {agent.id: agent for agent, _, _ in uses}
    for agent, _, granted in uses:
        by_agent[granted.role, agent.id] += 1
        for scope in granted.scopes:
            key = (granted.role, granted.audience, scope)
            known = scopes.get(key)
            tokens, longest = (0, 0) if known is None else (known.tokens, known.longest)
            scopes[key] = ScopeUse(
                role=granted.role,
                audience=granted.audience,
                scope=scope,
                tokens=tokens + 1,
                longest=max(longest, granted.ttl),
                last_at=NOW - 1,
            )
    roles = {
        name: RoleUse(
            agent_peak=max(count for (role, _), count in by_agent.items() if role == name),
            role_peak=sum(count for (role, _), count in by_agent.items() if role == name),
            task_tokens=1,
        )
        for name in {role for role, _ in by_agent}
    }
    return Usage(
        since=SINCE,
        complete=True,
        scopes=tuple(scopes.values()),
        secrets=(),
        agents=tuple(
            AgentUse(role=role, agent=name, issuer=agents[name].issuer, subject=agents[name].subject, tokens=count)
            for (role, name), count in by_agent.items()
        ),
        roles=roles,
        asked={},
        actions={},
        ceilings=frozenset(),
        secret_ceilings=frozenset(),
        delegations={},
        loads=(Load(SINCE - 1, policy.digest, None),),
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[dict[str, Any], list[Use]]:
    """Return a policy document, and what was granted by it."""
    document = draw(documents())
    for role in document["roles"].values():
        if draw(st.booleans()):
            role["limits"] = {"tokens_per_minute": draw(st.integers(1, 100))}
    policy = compiled(document)
    uses = []
    for agent, ask in draw(st.lists(st.tuples(st.sampled_from(EVERYBODY), st.sampled_from(ASKS)), max_size=12)):
        decision = decide(policy, NO_BLOCKS, agent, ask, 0)
        if isinstance(decision, Granted):
            uses.append((agent, ask, decision))
    return document, uses


def carried_out(document: dict[str, Any], usage: Usage) -> tuple[Policy, Policy]:
    """Return the policy before and after everything that is proposed."""
    text, path = yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False), Path("policy.yaml")
    before = compiled(document)
    advice = advise(before, usage, until=NOW)
    event(f"{min(len(advice.proposals), 3)} proposals or more")
    return before, compiled(yaml.safe_load(edited(path, text, advice.proposals)))


@given(histories())
@settings(max_examples=100, deadline=None)
def test_what_is_proposed_is_narrower_and_enough(history: tuple[dict[str, Any], list[Use]]) -> None:
    """After the proposal every request of the past is granted in the same role, as it was and for as long."""
    document, uses = history
    before, after = carried_out(document, used(compiled(document), uses))
    assert broadened(before, after) == ()
    for agent, ask, granted in uses:
        event("used")
        again = decide(after, NO_BLOCKS, agent, ask, 0)
        assert isinstance(again, Granted), (agent, ask)
        assert (again.role, again.audience, again.scopes) == (granted.role, granted.audience, granted.scopes)
        assert again.ttl >= granted.ttl
        own = sum(1 for who, _, what in uses if (who.id, what.role) == (agent.id, granted.role))
        assert (again.agent_per_minute or 0) >= min(granted.agent_per_minute or 0, own)
