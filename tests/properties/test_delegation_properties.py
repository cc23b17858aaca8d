"""Trees of exchanged tokens: no child exceeds its parent, and revoking any node ends exactly what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from broker.core.access_token import VerifiedToken
from broker.core.claims import AccessClaims, parse_claims
from broker.core.delegation import finish, judge_exchange
from broker.core.details import covers
from broker.core.grant import Ask, Denied, Granted
from broker.core.identity import Agent
from broker.core.policy import Policy, compile_policy
from broker.core.rules import BlockIndex, Rule, RuleIndex
from broker.core.selector import Selector, parse_selector

ISSUER = "https://broker.example"
AUDIENCE = "https://tickets.internal"
NOW = 1_795_300_000
SCOPES = ("s1", "s2", "s3", "s4")
AGENTS = ("a0", "a1", "a2", "a3")

scope_sets = st.lists(st.sampled_from(SCOPES), min_size=1, unique=True).map(sorted)
id_lists = st.lists(st.sampled_from(("T-1", "T-2", "T-3")), min_size=1, unique=True)
details = st.none() | id_lists.map(lambda ids: ({"type": "agent_task", "actions": ids},))
roles = st.fixed_dictionaries(
    {
        "scopes": scope_sets,
        "to": st.lists(st.sampled_from([f"r{number}" for number in range(4)]), min_size=1, unique=True),
        "depth": st.integers(1, 6),
    }
)
moves = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from(AGENTS), st.none() | scope_sets, details, st.integers(0, 400)),
    max_size=14,
)


def policy_of(parts: list[dict[str, Any]]) -> Policy:
    """Return a policy with a role for each agent."""
    document = {
        "version": 1,
        "tiers": {"t": {"max_ttl": "5m"}},
        "audiences": {AUDIENCE: {"scopes": {scope: {"tier": "t"} for scope in SCOPES}}},
        "roles": {
            f"r{number}": {
                "members": [{"agent": f"a{number}"}],
                "allow": [{"audience": AUDIENCE, "scopes": part["scopes"], "details": ["agent_task"]}],
                "may_delegate_to": part["to"],
                "limits": {"delegation_depth": part["depth"]},
            }
            for number, part in enumerate(parts)
        },
    }
    return compile_policy(document, broker_audience=f"{ISSUER}/v1", broker_issuer=ISSUER)


def root_claims(scopes: list[str], asked: tuple[Mapping[str, Any], ...] | None) -> AccessClaims:
    """Return the claims of the first agent's own token."""
    return AccessClaims(
        iss=ISSUER,
        sub="a0",
        aud=AUDIENCE,
        client_id="a0",
        iat=NOW,
        exp=NOW + 300,
        jti="tok_0",
        scopes=tuple(scopes),
        epoch=0,
        task="task_0",
        role="r0",
        tier="t",
        issuer="registered",
        details=asked or (),
    )


def offline(claims: AccessClaims, kid: str) -> VerifiedToken:
    """Return a token as a verifier reads it: from its payload alone."""
    read = parse_claims(claims.to_payload())
    assert read == claims
    return VerifiedToken(read, kid, read.facts(kid))


def grown(policy: Policy, root: AccessClaims, plan: list[Any]) -> list[VerifiedToken]:
    """Exchange tokens as planned, as far as the policy lets it; tokens are in the order of their making."""
    tokens = [offline(root, "kid_0")]
    for pick, actor, scopes, asked, later in plan:
        parent = tokens[pick % len(tokens)]
        ask = Ask(audience=None, scopes=None if scopes is None else tuple(scopes), details=asked)
        agent = Agent(actor, "registered", actor)
        exchange = judge_exchange(policy, BlockIndex(), parent, agent, ask, NOW + later)
        granted, lineage = exchange.decision, exchange.lineage
        if isinstance(granted, Denied):
            continue
        assert isinstance(granted, Granted)
        child = replace(
            parent.claims,
            sub=lineage.sub,
            client_id=actor,
            iat=NOW + later,
            exp=NOW + later + granted.ttl,
            jti=f"tok_{len(tokens)}",
            scopes=granted.scopes,
            role=granted.role,
            agents=lineage.agents,
            parents=lineage.parents,
            details=granted.details,
            inherited=(),
        )
        tokens.append(offline(finish(child, parent), f"kid_{len(tokens) % 3}"))
    return tokens


def ancestry(tokens: list[VerifiedToken]) -> dict[str, set[str]]:
    """Return for each token the ids of the tokens above it, itself included."""
    return {token.claims.jti: {token.claims.jti, *token.claims.parents} for token in tokens}


@given(st.lists(roles, min_size=4, max_size=4), moves, scope_sets, details)
def test_no_child_exceeds_its_parent(
    parts: list[dict[str, Any]], plan: list[Any], scopes: list[str], asked: tuple[Mapping[str, Any], ...] | None
) -> None:
    """Scopes, resource, details, expiry and depth, in any tree; and what it is for stays what it was for."""
    tokens = grown(policy_of(parts), root_claims(scopes, asked), plan)
    by_id = {token.claims.jti: token for token in tokens}
    for token in tokens[1:]:
        child, parent = token.claims, by_id[token.claims.parents[-1]].claims
        assert set(child.scopes) <= set(parent.scopes)
        assert (child.aud, child.task, child.sub) == (parent.aud, parent.task, parent.sub)
        assert child.exp <= parent.exp
        assert child.parents == (*parent.parents, parent.jti)
        above = [by_id[ancestor].claims for ancestor in child.parents]
        assert len(child.agents) <= min(parts[int(one.role[1:])]["depth"] for one in above)
        if parent.details:
            assert child.details
            assert covers(parent.details, child.details)
        assert token.facts >= by_id[parent.jti].facts


@given(st.lists(roles, min_size=4, max_size=4), moves, scope_sets, st.integers(0, 30))
def test_revoking_a_node_ends_exactly_its_subtree(
    parts: list[dict[str, Any]], plan: list[Any], scopes: list[str], pick: int
) -> None:
    """By the claims alone, as a verifier that is offline sees them."""
    tokens = grown(policy_of(parts), root_claims(scopes, None), plan)
    victim = tokens[pick % len(tokens)].claims.jti
    rules = RuleIndex([Rule(id="r", selector=Selector(token=victim), number=1, at=NOW, by="o", reason="x")])
    above = ancestry(tokens)
    for token in tokens:
        dead = rules.killer(token.facts, token.claims.epoch) is not None
        assert dead == (victim in above[token.claims.jti])


@given(st.lists(roles, min_size=4, max_size=4), moves, scope_sets, st.integers(0, 30), st.integers(0, 200))
def test_a_token_dies_with_whatever_ends_an_ancestor(
    parts: list[dict[str, Any]], plan: list[Any], scopes: list[str], pick: int, fact: int
) -> None:
    """Any rule that kills a node, for whatever it had, kills everything that came of it."""
    tokens = grown(policy_of(parts), root_claims(scopes, None), plan)
    node = tokens[pick % len(tokens)]
    facts = sorted(node.facts)
    name, value = facts[fact % len(facts)]
    rules = RuleIndex([Rule(id="r", selector=parse_selector({name: value}), number=1, at=NOW, by="o", reason="x")])
    assert rules.killer(node.facts, 0) is not None
    for token in tokens:
        if node.claims.jti in token.claims.parents:
            assert rules.killer(token.facts, 0) is not None
