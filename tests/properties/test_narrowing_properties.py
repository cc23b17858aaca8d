"""What must hold of any two policies: what is alive and would be refused is covered, and narrower is never wider.

Each pair of policies is tried with every agent and every request that their small world has.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from broker.core.decide import decide, judge
from broker.core.grant import Ask, Granted
from broker.core.identity import Agent
from broker.core.narrowing import covers, narrowed
from broker.core.policy import Policy
from broker.core.rules import BlockIndex
from broker.core.widening import broadened
from tests.properties.test_policy_properties import AGENTS, AUDIENCES, OWN_SCOPES, SUBJECTS, documents
from tests.support.policies import BROKER_AUDIENCE, compiled

NO_BLOCKS = BlockIndex()
CLAIMS: tuple[dict[str, Any], ...] = ({}, {"n": "1"}, {"n": 2})
EVERYBODY = (
    *(Agent(name, "registered", name) for name in AGENTS),
    *(Agent(f"lab/{subject}", "lab", subject, claims) for subject in SUBJECTS for claims in CLAIMS),
)


def everything() -> Iterator[Ask]:
    """Yield every request that could be granted at all, with a key and without."""
    for audience, scopes in (*AUDIENCES.items(), (BROKER_AUDIENCE, OWN_SCOPES)):
        for jkt in (None, "k" * 43):
            yield Ask(audience=audience, scopes=None, jkt=jkt)
            for count in range(1, len(scopes) + 1):
                for chosen in combinations(sorted(scopes), count):
                    yield Ask(audience=audience, scopes=chosen, jkt=jkt)


ASKS = tuple(everything())


@st.composite
def narrowings(draw: st.DrawFn, document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with some of its parts taken away, or made shorter."""
    new = copy.deepcopy(document)
    for name in list(new["roles"]):
        if name != "r0" and draw(st.integers(0, 4)) == 0:
            del new["roles"][name]
    for role in new["roles"].values():
        for part in ("members", "allow"):
            if len(role[part]) > 1 and draw(st.booleans()):
                role[part].pop(draw(st.integers(0, len(role[part]) - 1)))
        line = draw(st.sampled_from(role["allow"]))
        if draw(st.booleans()):
            line["scopes"] = line["scopes"][: draw(st.integers(1, len(line["scopes"])))]
            line.pop("default_scopes", None)
        if draw(st.integers(0, 3)) == 0:
            line["max_ttl"] = "29s"
    for tier in new["tiers"].values():
        if draw(st.integers(0, 4)) == 0:
            tier["proof_of_possession"] = "required"
    return new


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Policy, Policy]:
    """Return two policies: the second is made from the first, or has nothing to do with it."""
    old = draw(documents())
    for role in old["roles"].values():
        if draw(st.integers(0, 3)) == 0:
            role["limits"] = {"tokens_per_minute": draw(st.integers(1, 3))}
    new = draw(narrowings(old) if draw(st.integers(0, 3)) else documents())
    return compiled(old), compiled(new)


def granted(policy: Policy, agent: Agent, ask: Ask) -> Granted | None:
    """Return what a policy grants at once."""
    decision = decide(policy, NO_BLOCKS, agent, ask, 0)
    return decision if isinstance(decision, Granted) else None


def gives(before: Granted, now: Granted) -> bool:
    """Whether one grant is of the same scopes as another, lives no shorter, and can be had as often."""
    often = (before.agent_per_minute or 0) >= (now.agent_per_minute or 0)
    return before.scopes == now.scopes and before.ttl >= now.ttl and often


def by_name(granted: Granted, ask: Ask) -> Ask:
    """Return the request that names what was granted."""
    return Ask(audience=granted.audience, scopes=granted.scopes, jkt=ask.jkt)


@given(pairs())
@settings(max_examples=150, deadline=None)
def test_whatever_would_be_refused_is_covered(both: tuple[Policy, Policy]) -> None:
    """A live token that its role would not give any more, or not for so long, is selected by one of the selectors."""
    old, new = both
    selectors = [cover.selector for cover in covers(narrowed(old, new)) if cover.selector is not None]
    for agent in EVERYBODY:
        for ask in ASKS:
            alive = granted(old, agent, ask)
            if alive is None:
                continue
            again = by_name(alive, ask)
            now = [
                judge(new, role, NO_BLOCKS, agent, again, 0) for role in new.roles_of(agent) if role.name == alive.role
            ]
            if any(isinstance(verdict, Granted) and verdict.ttl >= alive.ttl for verdict in now):
                continue
            event("refused, or shorter")
            facts = alive.facts(agent, again)
            assert any(selector.selects(facts) for selector in selectors), (agent, again)


@given(pairs())
@settings(max_examples=150, deadline=None)
def test_what_is_not_broader_grants_nothing_new(both: tuple[Policy, Policy]) -> None:
    """Whatever a narrower policy grants could be had before, by naming the scopes or not, for as long, at that rate."""
    old, new = both
    if broadened(old, new):
        event("broader")
        return
    for agent in EVERYBODY:
        for ask in ASKS:
            now = granted(new, agent, ask)
            if now is None:
                continue
            event("granted")
            before = [granted(old, agent, ask), granted(old, agent, by_name(now, ask))]
            assert any(each is not None and gives(each, now) for each in before), (agent, ask)


@given(pairs())
@settings(max_examples=100, deadline=None)
def test_nothing_differs_from_itself(both: tuple[Policy, Policy]) -> None:
    """A policy compared with itself is neither narrower nor broader."""
    for policy in both:
        assert narrowed(policy, policy) == ()
        assert broadened(policy, policy) == ()
