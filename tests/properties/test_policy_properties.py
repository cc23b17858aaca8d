"""What must hold of decisions under every policy: compared with a second, naive reading of the same document."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.decide import decide
from broker.core.explain import explain
from broker.core.grant import Ask, Denied, Granted, NeedsApproval
from broker.core.identity import Agent
from broker.core.lifetime import format_duration
from broker.core.rules import Block, BlockIndex
from broker.core.selector import parse_selector
from broker.core.supposing import Supposed
from tests.support.policies import BROKER_AUDIENCE, compiled

AUDIENCES = {"https://a.example": ["a:1", "a:2", "a:3"], "https://b.example": ["b:1", "b:2"]}
OWN_SCOPES = ["operator:read", "ledger:read"]
TIERS = ["low", "middle", "high"]
AGENTS = ["ann", "bob"]
SUBJECTS = ["team/x", "team/y", "other"]

tiers = st.fixed_dictionaries(
    {"max_ttl": st.integers(60, 3600).map(format_duration)},
    optional={
        "proof_of_possession": st.sampled_from(["required", "optional"]),
        "approval": st.just({"approvers": "r0", "quorum": 1, "expires": "5m"}),
    },
)
members = st.one_of(
    st.sampled_from(AGENTS).map(lambda name: {"agent": name}),
    st.sampled_from([*SUBJECTS, "team/*"]).map(lambda subject: {"issuer": "lab", "subject": subject}),
    st.sampled_from(["1", ["1", "2"]]).map(lambda value: {"issuer": "lab", "claims": {"n": value}}),
    st.just({"issuer": "lab", "any_subject": True}),
)


@st.composite
def allows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Return the lines of one role: each scope of an audience in one line at most, two lines per audience at most."""
    lines: list[dict[str, Any]] = []
    for audience, scopes in (*AUDIENCES.items(), ("broker", OWN_SCOPES)):
        places = draw(st.lists(st.integers(0, 2), min_size=len(scopes), max_size=len(scopes)))
        defaulted = False
        for place in (1, 2):
            chosen = [scope for scope, at in zip(scopes, places, strict=True) if at == place]
            if not chosen:
                continue
            line: dict[str, Any] = {"audience": audience, "scopes": chosen}
            if draw(st.booleans()):
                line["max_ttl"] = format_duration(draw(st.integers(30, 3600)))
            if not defaulted and draw(st.booleans()):
                line["default_scopes"] = chosen[:1]
                defaulted = True
            lines.append(line)
    return lines or [{"audience": "broker", "scopes": ["ledger:read"]}]


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Return a policy document over the small world above."""
    roles = draw(st.integers(1, 4))
    return {
        "version": 1,
        "issuers": {"lab": {"preset": "oidc", "issuer": "https://lab.example"}},
        "tiers": {name: draw(tiers) for name in draw(st.permutations(TIERS))},
        "audiences": {
            audience: {"scopes": {scope: {"tier": draw(st.sampled_from(TIERS))} for scope in scopes}}
            for audience, scopes in AUDIENCES.items()
        },
        "roles": {
            f"r{number}": {"members": draw(st.lists(members, min_size=1, max_size=3)), "allow": draw(allows())}
            for number in range(roles)
        },
    }


agents = st.one_of(
    st.sampled_from([*AGENTS, "eve"]).map(lambda name: Agent(name, "registered", name)),
    st.builds(
        lambda subject, claims: Agent(f"lab/{subject}", "lab", subject, claims),
        st.sampled_from(SUBJECTS),
        st.sampled_from([{}, {"n": "1"}, {"n": 2}, {"n": "3"}, {"n": ("0", "1")}, {"n": True}]),
    ),
)


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    """Return an ask, mostly for what exists."""
    audience = draw(st.sampled_from([*AUDIENCES, BROKER_AUDIENCE, "https://c.example", None]))
    known = OWN_SCOPES if audience == BROKER_AUDIENCE else AUDIENCES.get(audience or "", ["c:1"])
    scopes = draw(st.none() | st.sets(st.sampled_from([*known, "zz"][: draw(st.integers(1, 4))]), min_size=1))
    jkt = draw(st.sampled_from([None, "k" * 43]))
    return Ask(audience=audience, scopes=None if scopes is None else tuple(sorted(scopes)), jkt=jkt)


blocks = st.sampled_from(
    [{"agent": "ann"}, {"role": "r0"}, {"tier": "middle"}, {"scope": "a:1"}, {"issuer": "lab", "role": "r1"}]
).map(lambda selector: Block("blk_1", parse_selector(selector), None, 0.0, "op", "why"))
worlds = st.tuples(documents(), agents, asks())


class Terms(NamedTuple):
    """What the naive reading says about one role that allows all of an ask."""

    role: str
    scopes: tuple[str, ...]
    tier: str
    ttl: int
    proof: bool
    approval: bool


def seconds(text: str) -> int:
    """Read a duration, independently of the code under test."""
    return sum(int(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in re.findall(r"(\d+)([hms])", text))


def is_member(line: dict[str, Any], agent: Agent) -> bool:
    """Read a member line, independently of the code under test."""
    if "agent" in line:
        return bool(line["agent"] == agent.id)
    pattern = re.escape(line.get("subject", agent.subject)).replace(r"\*", "[^/]+")
    fits = line["issuer"] == agent.issuer and re.fullmatch(pattern, agent.subject) is not None
    for name, wanted in line.get("claims", {}).items():
        claim = agent.attributes.get(name)
        values = claim if isinstance(claim, tuple) else () if claim is None or claim is True else (str(claim),)
        fits = fits and any(value in wanted for value in values)
    return fits


def naive(document: dict[str, Any], agent: Agent, ask: Ask) -> Iterator[Terms]:
    """Read the document for every role that allows all of the ask, conditions aside, in the order of the file."""
    order = [*document["tiers"], "operator"]
    terms = {**document["tiers"], "operator": {"max_ttl": "15m"}}
    for name, role in document["roles"].items():
        if not any(is_member(line, agent) for line in role["members"]):
            continue
        own = ask.audience == BROKER_AUDIENCE
        lines = [line for line in role["allow"] if line["audience"] == ("broker" if own else ask.audience)]
        scopes = ask.scopes or tuple(sorted(s for line in lines for s in line.get("default_scopes", [])))
        found = [(scope, line) for scope in scopes for line in lines if scope in line["scopes"]]
        if not scopes or len(found) != len(scopes):
            continue
        grades = [
            "operator" if own else document["audiences"][ask.audience]["scopes"][scope]["tier"] for scope, _ in found
        ]
        lives = [seconds(terms[grade]["max_ttl"]) for grade in grades]
        lives += [seconds(line["max_ttl"]) for _, line in found if "max_ttl" in line]
        yield Terms(
            role=name,
            scopes=scopes,
            tier=max(grades, key=order.index),
            ttl=min(lives),
            proof=any(terms[grade].get("proof_of_possession") == "required" for grade in grades),
            approval=any("approval" in terms[grade] for grade in grades),
        )


@given(worlds)
@settings(max_examples=300, deadline=None)
def test_a_decision_is_what_the_document_says(world: tuple[dict[str, Any], Agent, Ask]) -> None:
    """Granted is exactly what the first role allows whose conditions are met; nothing more is ever granted."""
    document, agent, ask = world
    decision = decide(compiled(document), BlockIndex(), agent, ask, 0.0)
    offers = [] if ask.audience is None else list(naive(document, agent, ask))
    met = [offer for offer in offers if not offer.approval and (ask.jkt is not None or not offer.proof)]
    if met:
        assert isinstance(decision, Granted)
        assert (decision.role, decision.scopes, decision.tier, decision.ttl) == met[0][:4]
        assert decision.audience == ask.audience
    elif any(offer.approval and (ask.jkt is not None or not offer.proof) for offer in offers):
        assert isinstance(decision, NeedsApproval)
    else:
        assert isinstance(decision, Denied)


def narrowings(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return every policy that is narrower than the document by one step."""
    for tier in document["tiers"]:
        for key, value in (("max_ttl", "30s"), ("proof_of_possession", "required")):
            narrowed = copy.deepcopy(document)
            narrowed["tiers"][tier][key] = value
            yield narrowed
    for name, role in document["roles"].items():
        for part in ("members", "allow"):
            for place in range(len(role[part])):
                narrowed = copy.deepcopy(document)
                del narrowed["roles"][name][part][place]
                if narrowed["roles"][name][part]:
                    yield narrowed


@given(worlds, st.data())
@settings(max_examples=200, deadline=None)
def test_narrowing_never_widens(world: tuple[dict[str, Any], Agent, Ask], data: st.DataObject) -> None:
    """Taking a line away, or making a tier stricter, never turns a denial into a grant nor lengthens a role's grant.

    Asks that name no scope are left out: taking away a line with default scopes changes what they ask for.
    """
    document, agent, ask = world
    narrowed = data.draw(st.sampled_from(list(narrowings(document))))
    before = decide(compiled(document), BlockIndex(), agent, ask, 0.0)
    after = decide(compiled(narrowed), BlockIndex(), agent, ask, 0.0)
    if isinstance(after, Granted) and ask.scopes is not None:
        assert isinstance(before, Granted)
        assert after.scopes == before.scopes
        assert after.role != before.role or after.ttl <= before.ttl
    if isinstance(after, NeedsApproval) and ask.scopes is not None:
        assert not isinstance(before, Denied)


@given(worlds, blocks)
@settings(max_examples=200, deadline=None)
def test_a_block_never_widens_and_is_never_passed_by(world: tuple[dict[str, Any], Agent, Ask], block: Block) -> None:
    """With a block in force there is at most what there was, and no grant that the block covers."""
    document, agent, ask = world
    policy = compiled(document)
    before = decide(policy, BlockIndex(), agent, ask, 0.0)
    after = decide(policy, BlockIndex([block]), agent, ask, 0.0)
    if isinstance(after, Granted):
        assert isinstance(before, Granted)
        assert not block.selector.selects(after.facts(agent, ask))
    if isinstance(before, Denied):
        assert isinstance(after, Denied)


@given(worlds, st.lists(blocks, max_size=1))
@settings(max_examples=200, deadline=None)
def test_an_explanation_agrees_with_the_decision(
    world: tuple[dict[str, Any], Agent, Ask], in_force: list[Block]
) -> None:
    """Whatever the policy, explain and decide come to the same, and the lines of members say who is one."""
    document, agent, ask = world
    policy, index = compiled(document), BlockIndex(in_force)
    explanation = explain(policy, index, Supposed(agent=agent, ask=ask), 0.0)
    assert explanation.decision == decide(policy, index, agent, ask, 0.0)
    for role in explanation.roles:
        assert role.member == any(line.endswith(": matches") for line in role.lines)
    assert all(line.isprintable() for line in explanation.lines())


@given(documents(), st.lists(agents, min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_what_was_asked_before_changes_nothing(document: dict[str, Any], callers: list[Agent]) -> None:
    """An agent's roles are the same whether or not others, or itself with other claims, were looked at before."""
    used = compiled(document)
    for agent in callers:
        fresh = compiled(document)
        assert [role.name for role in used.roles_of(agent)] == [role.name for role in fresh.roles_of(agent)]
