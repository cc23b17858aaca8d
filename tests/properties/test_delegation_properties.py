"""Trees of exchanged tokens: no child exceeds its parent, and what ends any node ends what came of it, offline too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.access_token import VerifiedToken
from broker.core.claims import AccessClaims, parse_claims
from broker.core.delegation import Exchange, finish, judge_exchange
from broker.core.details import covers
from broker.core.grant import Ask, Granted
from broker.core.identity import Agent
from broker.core.policy import Policy, compile_policy
from broker.core.rules import BlockIndex, Rule, RuleIndex
from broker.core.selector import Selector, parse_selector

ISSUER = "https://broker.example"
AUDIENCES = ("https://one.internal", "https://two.internal")
NOW = 1_795_300_000
SCOPES = ("s1", "s2", "s3", "s4")
AGENTS = ("a0", "a1", "a2", "a3")
ROLES = ("r0", "r1", "r2", "r3")


def often(usual: st.SearchStrategy[Any], rare: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return what is usual three times out of four: trees of refusals show nothing."""
    return st.sampled_from([True, True, True, False]).flatmap(lambda is_usual: usual if is_usual else rare)


scope_sets = st.lists(st.sampled_from(SCOPES), min_size=1, unique=True).map(sorted)
most_scopes = st.lists(st.sampled_from(SCOPES), max_size=2, unique=True).map(
    lambda without: [scope for scope in SCOPES if scope not in without]
)
id_lists = st.lists(st.sampled_from(("T-1", "T-2", "T-3")), min_size=1, unique=True)
some_details = id_lists.map(lambda ids: ({"type": "agent_task", "actions": ids},))
terms = st.sampled_from([{}, {"own_grants": False}, {"own_grants": True}, {"own_grants": True, "impersonation": True}])
delegates = st.tuples(*[often(terms, st.none()) for _ in ROLES]).map(
    lambda chosen: [{"role": role, **entry} for role, entry in zip(ROLES, chosen, strict=True) if entry is not None]
)
roles = st.fixed_dictionaries(
    {
        "allow": st.tuples(most_scopes, often(most_scopes, st.none())),
        "to": delegates.filter(bool),
        "depth": often(st.integers(3, 6), st.integers(1, 2)),
        "ttl": often(st.integers(250, 300), st.integers(1, 250)),
    }
)
policies = st.lists(roles, min_size=4, max_size=4)
keys = st.sampled_from([None, "key_1", "key_2"])


@dataclass(frozen=True)
class Move:
    """One exchange: of which of the latest tokens, by whom, for what, when, in a sub-task or not."""

    pick: int
    actor: str
    audience: str | None
    scopes: tuple[str, ...] | None
    details: tuple[Mapping[str, Any], ...] | None
    jkt: str | None
    may_act: str | None
    later: int
    sub_task: bool


moves = st.builds(
    Move,
    pick=often(st.integers(0, 2), st.integers(0, 30)),
    actor=st.sampled_from(AGENTS),
    audience=st.sampled_from([None, AUDIENCES[0], AUDIENCES[0], AUDIENCES[1]]),
    scopes=often(st.none(), scope_sets.map(tuple)),
    details=often(st.none(), some_details | st.just(())),
    jkt=often(st.sampled_from(["key_1", "key_2"]), st.none()),
    may_act=often(st.none(), st.sampled_from(AGENTS)),
    later=often(st.integers(0, 20), st.integers(-40, 310)),
    sub_task=st.booleans(),
)
plans = st.lists(moves, min_size=6, max_size=20)


def root_claims(scopes: list[str], asked: tuple[Mapping[str, Any], ...] | None, jkt: str | None) -> AccessClaims:
    """Return the claims of the first agent's own token."""
    return AccessClaims(
        iss=ISSUER,
        sub="a0",
        aud=AUDIENCES[0],
        client_id="a0",
        iat=NOW,
        exp=NOW + 300,
        jti="tok_0",
        scopes=tuple(scopes),
        epoch=0,
        task="task_0",
        role="r0",
        tier="low",
        issuer="registered",
        details=asked or (),
        jkt=jkt,
    )


roots = st.builds(root_claims, most_scopes, often(st.none(), some_details), often(st.none(), keys))


def policy_of(parts: Sequence[dict[str, Any]]) -> Policy:
    """Return a policy with a role for each agent."""
    document = {
        "version": 1,
        "tiers": {"low": {"max_ttl": "5m"}, "high": {"max_ttl": "4m"}},
        "audiences": {
            audience: {"scopes": {scope: {"tier": "high" if scope == "s4" else "low"} for scope in SCOPES}}
            for audience in AUDIENCES
        },
        "roles": {
            name: {
                "members": [{"agent": agent}],
                "allow": [
                    {
                        "audience": audience,
                        "scopes": scopes,
                        "default_scopes": scopes,
                        "details": ["agent_task"],
                        "max_ttl": f"{part['ttl']}s",
                    }
                    for audience, scopes in zip(AUDIENCES, part["allow"], strict=True)
                    if scopes is not None
                ],
                "may_delegate_to": part["to"],
                "limits": {"delegation_depth": part["depth"]},
            }
            for name, agent, part in zip(ROLES, AGENTS, parts, strict=True)
        },
    }
    return compile_policy(document, broker_audience=f"{ISSUER}/v1", broker_issuer=ISSUER)


def offline(claims: AccessClaims, kid: str) -> VerifiedToken:
    """Return a token as a verifier reads it: from its payload alone."""
    read = parse_claims(claims.to_payload())
    assert read == claims
    return VerifiedToken(read, kid, read.facts(kid))


@dataclass
class Tree:
    """Tokens that came of one, in the order of their making, the one that each came of, and the rules meanwhile."""

    policy: Policy
    tokens: list[VerifiedToken]
    above: list[int | None] = field(default_factory=lambda: [None])
    rules: RuleIndex = field(default_factory=RuleIndex)

    def is_dead(self, place: int, rules: RuleIndex | None = None) -> bool:
        """Whether a rule kills a token: judged by its own claims."""
        token = self.tokens[place]
        return (self.rules if rules is None else rules).killer(token.facts, token.claims.epoch) is not None

    def line(self, place: int) -> list[int]:
        """Return the places of a token and of all that it came of, by what was done, not by claims."""
        line = [place]
        while (above := self.above[line[-1]]) is not None:
            line.append(above)
        return line

    def revoke(self, selector: Selector) -> None:
        """Commit a rule."""
        number = self.rules.epoch + 1
        self.rules.add(Rule(id=f"rule_{number}", selector=selector, number=number, at=NOW, by="o", reason="x"))

    def exchange(self, move: Move) -> None:
        """Make one exchange, as far as the policy and the rules let it."""
        place = len(self.tokens) - 1 - move.pick % len(self.tokens)
        parent = self.tokens[place]
        now = NOW + move.later
        if self.is_dead(place) or parent.claims.exp <= now:
            return
        ask = Ask(audience=move.audience, scopes=move.scopes, details=move.details, jkt=move.jkt, may_act=move.may_act)
        actor = Agent(move.actor, "registered", move.actor)
        exchange = judge_exchange(self.policy, BlockIndex(), parent, actor, ask, now)
        if isinstance(exchange.decision, Granted):
            child = self._child(parent, move, exchange, exchange.decision)
            self.tokens.append(offline(finish(child, parent), f"kid_{len(self.tokens) % 3}"))
            self.above.append(place)

    def _child(self, parent: VerifiedToken, move: Move, exchange: Exchange, granted: Granted) -> AccessClaims:
        """Return the claims as issuance makes them."""
        above, lineage, number = parent.claims, exchange.lineage, len(self.tokens)
        return AccessClaims(
            iss=ISSUER,
            sub=lineage.sub,
            aud=granted.audience,
            client_id=move.actor,
            iat=NOW + move.later,
            exp=NOW + move.later + granted.ttl,
            jti=f"tok_{number}",
            scopes=granted.scopes,
            epoch=self.rules.epoch,
            task=f"task_{number}" if move.sub_task else above.task,
            path=(*above.path, above.task) if move.sub_task else above.path,
            role=granted.role,
            tier=granted.tier,
            issuer="registered",
            agents=lineage.agents,
            parents=lineage.parents,
            impersonates=lineage.impersonates,
            details=granted.details,
            jkt=move.jkt,
            may_act=move.may_act,
        )


def grown(parts: Sequence[dict[str, Any]], root: AccessClaims, plan: Sequence[Move | Selector]) -> Tree:
    """Exchange tokens and commit rules as planned."""
    tree = Tree(policy_of(parts), [offline(root, "kid_0")])
    for step in plan:
        if isinstance(step, Selector):
            tree.revoke(step)
        else:
            tree.exchange(step)
    return tree


def permission(parts: Sequence[dict[str, Any]], parent: AccessClaims, child: AccessClaims) -> dict[str, Any] | None:
    """Return the entry of the document by which a token could come of another; None for its holder's own."""
    if parent.client_id == child.client_id:
        return None
    entries: list[dict[str, Any]] = parts[ROLES.index(parent.role)]["to"]
    (entry,) = [entry for entry in entries if entry["role"] == child.role]
    return entry


@given(policies, roots, plans)
@settings(max_examples=300, deadline=None)
def test_no_child_exceeds_its_parent(parts: list[dict[str, Any]], root: AccessClaims, plan: list[Move]) -> None:
    """Scopes and resource unless the policy gives a delegate its own; expiry, details, depth and lineage always."""
    tree = grown(parts, root, plan)
    for place, token in enumerate(tree.tokens[1:], start=1):
        line = [tree.tokens[above].claims for above in tree.line(place)]
        child, parent = line[:2]
        entry = permission(parts, parent, child)
        assert child.exp <= parent.exp
        assert child.sub == root.sub
        assert child.client_id == (child.agents[0] if child.agents else child.sub)
        assert parent.task in (child.task, *child.path)
        assert child.parents == tuple(above.jti for above in reversed(line[1:]))
        assert len(child.agents) <= min(parts[ROLES.index(above.role)]["depth"] for above in line[1:])
        assert parent.jkt is None or child.jkt is not None
        assert parent.may_act in (None, child.client_id) or entry is None
        assert not parent.details or (child.details and covers(parent.details, child.details))
        assert child.impersonates == (bool(child.agents) and (parent.impersonates or _impersonates(entry)))
        if entry is None or not entry.get("own_grants"):
            assert set(child.scopes) <= set(parent.scopes)
            assert child.aud == parent.aud
        allowed = dict(zip(AUDIENCES, parts[ROLES.index(child.role)]["allow"], strict=True))[child.aud]
        assert set(child.scopes) <= set(allowed)
        assert token.facts >= tree.tokens[tree.line(place)[1]].facts


def _impersonates(entry: dict[str, Any] | None) -> bool:
    return entry is not None and bool(entry.get("impersonation"))


@given(policies, roots, plans, st.integers(0, 30))
@settings(max_examples=200, deadline=None)
def test_revoking_a_token_ends_exactly_what_came_of_it(
    parts: list[dict[str, Any]], root: AccessClaims, plan: list[Move], pick: int
) -> None:
    """By its id, anywhere in the tree: nothing else is hit, nothing below is missed."""
    tree = grown(parts, root, plan)
    victim = pick % len(tree.tokens)
    tree.revoke(Selector(token=tree.tokens[victim].claims.jti))
    for place in range(len(tree.tokens)):
        assert tree.is_dead(place) == (victim in tree.line(place))


@given(policies, roots, plans, st.integers(0, 30), st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_ends_a_token_ends_what_came_of_it(
    parts: list[dict[str, Any]], root: AccessClaims, plan: list[Move], pick: int, data: st.DataObject
) -> None:
    """Any rule that hits a node, by one of its facts or by several together, hits its whole subtree."""
    tree = grown(parts, root, plan)
    victim = pick % len(tree.tokens)
    facts = sorted(tree.tokens[victim].facts)
    fields = data.draw(st.lists(st.sampled_from(facts), min_size=1, max_size=3, unique_by=lambda fact: fact[0]))
    tree.revoke(parse_selector(dict(fields)))
    assert tree.is_dead(victim)
    assert all(tree.is_dead(place) for place in range(len(tree.tokens)) if victim in tree.line(place))


selectors = (
    st.dictionaries(
        st.sampled_from(["token", "agent", "role", "scope", "audience", "tier", "task", "key"]), st.none(), min_size=1
    )
    .flatmap(
        lambda names: st.fixed_dictionaries(
            {
                name: st.sampled_from(
                    {
                        "token": [f"tok_{number}" for number in range(6)],
                        "agent": AGENTS,
                        "role": ROLES,
                        "scope": SCOPES,
                        "audience": AUDIENCES,
                        "tier": ["low", "high"],
                        "task": [f"task_{number}" for number in range(6)],
                        "key": ["kid_0", "kid_1", "kid_2", "key_1", "key_2"],
                    }[name]
                )
                for name in list(names)[:2]
            }
        )
    )
    .map(parse_selector)
)


@given(policies, roots, st.lists(often(moves, selectors), min_size=6, max_size=20))
@settings(max_examples=300, deadline=None)
def test_nothing_lives_below_what_is_dead(
    parts: list[dict[str, Any]], root: AccessClaims, plan: list[Move | Selector]
) -> None:
    """However rules and exchanges take turns; and what was made after a rule is not hit by it for nothing."""
    tree = grown(parts, root, plan)
    for place, token in enumerate(tree.tokens):
        assert tree.is_dead(place) >= any(tree.is_dead(above) for above in tree.line(place))
        later = [rule for rule in tree.rules.live() if rule.rank > token.claims.epoch]
        assert tree.is_dead(place) == any(rule.selector.selects(token.facts) for rule in later)
