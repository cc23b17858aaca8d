"""Exchanging tokens: who may, what comes of it, and what a child takes over from its parent."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from broker.core.access_token import VerifiedToken
from broker.core.claims import MAX_INHERITED, MAX_PARENTS, AccessClaims, parse_claims
from broker.core.delegation import Exchange, entitled, finish, judge_exchange, lineage
from broker.core.errors import Code
from broker.core.grant import Ask, Denied, Granted, NeedsApproval
from broker.core.identity import Agent
from broker.core.policy import Policy
from broker.core.policy.model import Delegate
from broker.core.rules import Block, BlockIndex
from broker.core.scope import parse_scopes
from broker.core.selector import Fact, parse_selector
from tests.support.policies import compiled

TICKETS = "https://tickets.internal"
EXPORTS = "https://exports.internal"
NOW = 1_795_300_000
ALL = ("read", "comment", "pay", "sign")
KEY, OTHER_KEY = "k" * 43, "o" * 43
TWO_TICKETS = ({"type": "ticket", "ids": ["T-1", "T-2"]},)
ONE_TICKET = ({"type": "ticket", "ids": ["T-1"]},)


def role(member: str, *allow: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401 - members of a document
    """Return a role with one member."""
    return {"members": [{"agent": member}], "allow": list(allow), **more}


def at(audience: str, *scopes: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - members of a document
    """Return a line that allows scopes."""
    return {"audience": audience, "scopes": list(scopes), **more}


DOCUMENT: dict[str, Any] = {
    "version": 1,
    "tiers": {
        "low": {"max_ttl": "15m"},
        "proof": {"max_ttl": "10m", "proof_of_possession": "required"},
        "asked": {"max_ttl": "5m", "approval": {"approvers": "finance", "quorum": 2, "expires": "10m"}},
    },
    "audiences": {
        TICKETS: {
            "scopes": {
                "read": {"tier": "low"},
                "comment": {"tier": "low"},
                "sign": {"tier": "proof"},
                "pay": {"tier": "asked"},
            },
            "served_by": [{"agent": "gateway"}],
            "details": {"ticket": {"schema": {"type": "object", "required": ["type", "ids"]}}},
        },
        EXPORTS: {"scopes": {"export": {"tier": "low"}}},
    },
    "roles": {
        "planners": role(
            "planner",
            at(TICKETS, *ALL, details=["ticket"]),
            limits={"delegation_depth": 2},
            may_delegate_to=[
                "late",
                "workers",
                {"role": "capable", "own_grants": True},
                {"role": "ghosts", "impersonation": True},
            ],
        ),
        "workers": role(
            "worker",
            at(TICKETS, "read", "pay", "sign", details=["ticket"]),
            limits={"delegation_depth": 4},
            may_delegate_to=["helpers", "ghosts", "planners", {"role": "capable", "own_grants": True}],
        ),
        "late": role("worker", at(TICKETS, "comment")),
        "helpers": role("helper", at(TICKETS, "read"), may_delegate_to=["workers"]),
        "capable": role("carol", at(EXPORTS, "export"), at(TICKETS, "comment", details=["ticket"])),
        "ghosts": role("ghost", at(TICKETS, "read"), may_delegate_to=["helpers"]),
        "elsewhere": role("exporter", at(EXPORTS, "export")),
        "gateways": role("gateway", at("broker", "actions:reserve")),
        "finance": {
            **role("boss", at("broker", "approvals:decide")),
            "members": [{"agent": "boss"}, {"agent": "deputy"}],
        },
    },
}
POLICY = compiled(DOCUMENT)


def agent(name: str) -> Agent:
    """Return a registered agent."""
    return Agent(name, "registered", name)


def changed(**roles: dict[str, Any] | None) -> Policy:
    """Return the policy with members of roles replaced; None takes the role away."""
    document = copy.deepcopy(DOCUMENT)
    for name, members in roles.items():
        if members is None:
            del document["roles"][name]
            for other in document["roles"].values():
                other["may_delegate_to"] = [to for to in other.get("may_delegate_to", ["finance"]) if to != name]
        else:
            document["roles"][name].update(members)
    return compiled(document)


def token(**changes: Any) -> VerifiedToken:  # noqa: ANN401 - members of the claims
    """Return the planner's own token for everything, as a verifier reads it."""
    members: dict[str, Any] = {
        "iss": "https://broker.example",
        "sub": "planner",
        "aud": TICKETS,
        "client_id": "planner",
        "iat": NOW,
        "exp": NOW + 900,
        "jti": "tok_0",
        "scopes": tuple(sorted(ALL)),
        "epoch": 3,
        "task": "task_2",
        "path": ("task_1",),
        "role": "planners",
        "tier": "asked",
        "issuer": "registered",
    }
    return verified(AccessClaims(**(members | changes)), "kid_0")


def verified(claims: AccessClaims, kid: str) -> VerifiedToken:
    """Return a token as a verifier reads it: from its payload alone."""
    read = parse_claims(claims.to_payload())
    assert read == claims
    return VerifiedToken(read, kid, read.facts(kid))


def ask(*scopes: str, audience: str | None = None, jkt: str | None = None, details: Any = None) -> Ask:  # noqa: ANN401 - JSON
    """Return an ask; without scopes none were named."""
    return Ask(audience=audience, scopes=tuple(sorted(scopes)) or None, jkt=jkt, details=details)


def judged(
    parent: VerifiedToken,
    actor: str,
    asked: Ask | None = None,
    *blocks: Block,
    now: float = NOW,
    policy: Policy = POLICY,
) -> Exchange:
    """Judge an exchange; unless told otherwise the actor asks for ``read``."""
    return judge_exchange(policy, BlockIndex(blocks), parent, agent(actor), asked or ask("read"), now)


def granted(exchange: Exchange) -> Granted:
    """Return what was granted."""
    assert isinstance(exchange.decision, Granted), exchange.decision
    return exchange.decision


def code(exchange: Exchange) -> Code:
    """Return why not."""
    assert isinstance(exchange.decision, Denied), exchange.decision
    return exchange.decision.code


def child_of(parent: VerifiedToken, actor: str, asked: Ask | None = None, **changes: Any) -> VerifiedToken:  # noqa: ANN401 - members of the claims
    """Exchange a token and return what comes of it."""
    exchange = judged(parent, actor, asked)
    grant, descent = granted(exchange), exchange.lineage
    claims = replace(
        parent.claims,
        sub=descent.sub,
        client_id=actor,
        agents=descent.agents,
        parents=descent.parents,
        impersonates=descent.impersonates,
        aud=grant.audience,
        scopes=grant.scopes,
        role=grant.role,
        tier=grant.tier,
        details=grant.details,
        exp=NOW + grant.ttl,
        jti=f"tok_{len(descent.parents)}",
        jkt=None if asked is None else asked.jkt,
        may_act=None,
    )
    return verified(finish(replace(claims, **changes), parent), f"kid_{len(descent.parents)}")


# --- who may ----------------------------------------------------------------------------------------------------------


def test_a_delegate_gets_its_own_role_and_a_part_of_the_scopes() -> None:
    """The role is the delegate's, the scopes are those that were asked for, the line of the policy is named."""
    assert granted(judged(token(), "worker")) == Granted(
        role="workers",
        audience=TICKETS,
        scopes=("read",),
        tier="low",
        ttl=900,
        allowed_by="roles.workers.allow[0]",
        agent_per_minute=POLICY.roles["workers"].limits.tokens_per_minute,
    )


def test_the_first_role_in_the_order_of_the_policy_is_the_delegates() -> None:
    """The order in ``may_delegate_to`` does not matter; what several roles allow is not added up."""
    assert entitled(POLICY, token(), agent("worker")) == Delegate(role="workers")
    assert code(judged(token(), "worker", ask("comment"))) is Code.SCOPE_NOT_ALLOWED


@pytest.mark.parametrize("actor", ["stranger", "helper", "exporter", "gateway", "boss", "Worker", "wörker", "worker "])
def test_whoever_the_policy_does_not_name_may_not(actor: str) -> None:
    """Nor a service that the token is for: it may use the token, not hand it on. Nobody learns who could."""
    refused = judged(token(), actor).decision
    assert refused == judged(token(), "stranger").decision
    assert isinstance(refused, Denied)
    assert refused.code is Code.DELEGATION_NOT_ALLOWED
    assert not any(name in refused.reason for name in DOCUMENT["roles"])


def test_a_service_may_as_a_delegate() -> None:
    """A resource server that the policy makes a delegate exchanges what it received."""
    policy = changed(gateways={"allow": [at(TICKETS, "read")]}, planners={"may_delegate_to": ["gateways"]})
    assert granted(judged(token(), "gateway", policy=policy)).role == "gateways"


def test_ones_own_token_can_be_narrowed() -> None:
    """Without any ``may_delegate_to``, and under the role that it has; nobody is named as its actor."""
    exchange = judged(token(), "planner")
    assert (granted(exchange).role, exchange.lineage.agents) == ("planners", ())
    assert entitled(POLICY, token(), agent("planner")) is None


def test_ones_own_token_is_judged_by_its_own_role_only() -> None:
    """Another role of the same agent, which would allow more, does not count."""
    policy = changed(capable={"members": [{"agent": "planner"}]})
    assert code(judged(token(scopes=("read",)), "planner", ask("comment"), policy=policy)) is Code.SCOPE_NOT_ALLOWED
    assert code(judged(token(), "planner", ask("export", audience=EXPORTS), policy=policy)) is Code.AUDIENCE_NOT_ALLOWED


@pytest.mark.parametrize("actor", ["planner", "worker"])
def test_a_token_whose_role_left_the_policy_is_good_for_nothing_new(actor: str) -> None:
    """Nor one whose holder is no member of its role any more."""
    assert code(judged(token(role="gone"), actor)) is Code.DELEGATION_NOT_ALLOWED
    policy = changed(planners={"members": [{"agent": "somebody-else"}]})
    assert code(judged(token(), "planner", policy=policy)) is Code.DELEGATION_NOT_ALLOWED


def test_a_line_ends_when_the_role_of_any_ancestor_left_the_policy() -> None:
    """What no policy bounds any more is not handed on."""
    child = child_of(token(), "worker")
    policy = changed(workers={"may_delegate_to": ["helpers"]}, planners=None)
    assert granted(judged(child, "helper")).role == "helpers"
    assert code(judged(child, "helper", policy=policy)) is Code.DELEGATION_NOT_ALLOWED


@pytest.mark.parametrize("named", ["helper", "Worker", "worker/", "ghost"])
def test_may_act_names_the_only_delegate(named: str) -> None:
    """Whatever the policy allows to others; its holder can still narrow it."""
    assert code(judged(token(may_act=named), "worker")) is Code.DELEGATION_NOT_ALLOWED
    assert isinstance(judged(token(may_act=named), "planner").decision, Granted)
    assert isinstance(judged(token(may_act="worker"), "worker").decision, Granted)


def test_may_act_does_not_let_anybody_that_the_policy_does_not() -> None:
    """The holder of a token cannot give away what the policy does not."""
    assert code(judged(token(may_act="stranger"), "stranger")) is Code.DELEGATION_NOT_ALLOWED


# --- no more than the parent ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scopes",
    [
        ("comment",),
        ("comment", "read"),
        ("READ",),
        ("rеad",),  # noqa: RUF001 - a Cyrillic letter that looks like ours
        ("read",) * 2 + ("comment",),
        ("rea",),
        ("read comment",),
        ("read\u200b",),
        ("ｒead",),  # noqa: RUF001 - full width
        ("",),
    ],
)
@pytest.mark.parametrize("actor", ["planner", "worker"])
def test_scopes_are_compared_character_by_character(scopes: tuple[str, ...], actor: str) -> None:
    """Nothing gets by in another case, order, spelling, or twice, though the role of the actor would allow it."""
    assert code(judged(token(scopes=("read", "sign")), actor, ask(*scopes))) is Code.SCOPE_NOT_ALLOWED


def test_a_request_with_duplicates_in_any_order_is_what_it_asks_for() -> None:
    """Read from a form, the same scopes make the same token."""
    asked = Ask(audience=None, scopes=parse_scopes("sign read read"), jkt=KEY)
    assert granted(judged(token(), "worker", asked)).scopes == ("read", "sign")


def test_without_scopes_a_child_gets_what_both_have() -> None:
    """What the parent has and the delegate may; if that is nothing, it is refused."""
    assert granted(judged(token(scopes=("comment", "read")), "worker", ask())).scopes == ("read",)
    assert code(judged(token(scopes=("comment",)), "worker", ask())) is Code.SCOPE_NOT_ALLOWED
    assert granted(judged(token(scopes=("comment", "read")), "planner", ask())).scopes == ("comment", "read")


def test_no_scopes_at_all_is_no_request() -> None:
    """An empty list is not everything (law 9)."""
    asked = Ask(audience=None, scopes=())
    assert code(judged(token(), "worker", asked)) is Code.SCOPE_NOT_ALLOWED


@pytest.mark.parametrize("audience", [EXPORTS, TICKETS + "/", TICKETS.upper(), "broker", ""])
def test_the_resource_stays(audience: str) -> None:
    """It is the parent's, in every character."""
    assert code(judged(token(), "worker", ask("read", audience=audience))) is Code.AUDIENCE_NOT_ALLOWED
    assert granted(judged(token(), "worker", ask("read", audience=TICKETS))).audience == TICKETS


def test_a_delegate_without_the_resource_gets_nothing() -> None:
    """A role that allows nothing there has nothing in common with the parent."""
    policy = changed(planners={"may_delegate_to": ["elsewhere"]})
    assert code(judged(token(), "exporter", policy=policy)) is Code.SCOPE_NOT_ALLOWED


@pytest.mark.parametrize(
    ("left", "ttl"), [(900, 900), (899.999, 899), (300.5, 300), (1.999, 1), (1, 1), (5000, 900), (86_400, 900)]
)
def test_a_child_does_not_outlive_its_parent(left: float, ttl: int) -> None:
    """Not by a fraction of a second, and not when the clock was set back since the parent was made."""
    parent = token()
    now = parent.claims.exp - left
    assert granted(judged(parent, "worker", now=now)).ttl == ttl
    assert int(now) + ttl <= parent.claims.exp


@pytest.mark.parametrize("left", [0.999, 0.001, 0, -1, -900])
@pytest.mark.parametrize("actor", ["planner", "worker", "carol"])
def test_what_has_no_second_left_cannot_be_exchanged(left: float, actor: str) -> None:
    """A token that is expired at the edge, or will be before anybody can use it."""
    parent = token()
    asked = ask("export", audience=EXPORTS) if actor == "carol" else None
    assert code(judged(parent, actor, asked, now=parent.claims.exp - left)) is Code.SUBJECT_TOKEN_INVALID


@pytest.mark.parametrize("actor", ["planner", "worker", "carol"])
def test_a_bound_parent_has_bound_children(actor: str) -> None:
    """The actor has to prove a key of its own; the parent's is no part of what it gets."""
    asked = ask("export", audience=EXPORTS) if actor == "carol" else ask("read")
    bound = token(jkt=KEY)
    assert code(judged(bound, actor, asked)) is Code.PROOF_REQUIRED
    child = child_of(bound, actor, replace(asked, jkt=OTHER_KEY))
    assert child.claims.jkt == OTHER_KEY
    assert ("key", KEY) in child.claims.inherited


@pytest.mark.parametrize("actor", ["planner", "worker"])
def test_conditions_of_tiers_hold_for_children_too(actor: str) -> None:
    """Proof and approval that a scope needs are needed again, with whatever else is asked for."""
    assert code(judged(token(), actor, ask("sign"))) is Code.PROOF_REQUIRED
    assert code(judged(token(), actor, ask("pay", "sign"))) is Code.PROOF_REQUIRED
    asked = judged(token(), actor, ask("pay", "read"), now=NOW + 850.5).decision
    assert isinstance(asked, NeedsApproval)
    assert (asked.approvers, asked.quorum, asked.tier) == ("finance", 2, "asked")
    assert (asked.granted.scopes, asked.granted.ttl) == (("pay", "read"), 49)


# --- authorization details --------------------------------------------------------------------------------------------


def test_details_of_the_parent_stay_or_become_less() -> None:
    """All of them if none are asked for, a part if a part is, and never another or none."""
    parent = token(details=TWO_TICKETS)
    assert granted(judged(parent, "worker", ask("read"))).details == TWO_TICKETS
    assert granted(judged(parent, "worker", ask("read", details=ONE_TICKET))).details == ONE_TICKET
    more = ({"type": "ticket", "ids": ["T-1", "T-3"]},)
    assert code(judged(parent, "worker", ask("read", details=more))) is Code.DETAILS_INVALID
    assert code(judged(parent, "worker", ask("read", details=(*ONE_TICKET, *more)))) is Code.DETAILS_INVALID


@pytest.mark.parametrize("actor", ["planner", "worker"])
def test_asking_for_no_details_sheds_none(actor: str) -> None:
    """An empty list is not a way out of those of the parent."""
    assert granted(judged(token(details=TWO_TICKETS), actor, ask("read", details=()))).details == TWO_TICKETS
    assert granted(judged(token(), actor, ask("read", details=()))).details == ()


def test_details_narrow_what_had_none() -> None:
    """They are then judged by the policy alone, like in a direct request."""
    assert granted(judged(token(), "worker", ask("read", details=ONE_TICKET))).details == ONE_TICKET
    unknown = ({"type": "unknown"},)
    assert code(judged(token(), "worker", ask("read", details=unknown))) is Code.DETAILS_NOT_SUPPORTED
    unfit = ({"type": "ticket"},)
    assert code(judged(token(), "worker", ask("read", details=unfit))) is Code.DETAILS_INVALID


def test_details_are_none_that_a_hand_before_could_not_have_had() -> None:
    """To a resource they may be what lets a token do anything: however many hands later, nobody makes them up."""
    policy = changed(planners={"allow": [at(TICKETS, *ALL)]})
    asked = ask("read", details=ONE_TICKET)
    assert code(judged(token(), "worker", asked, policy=policy)) is Code.DETAILS_NOT_ALLOWED
    between = child_of(token(), "worker")
    assert not between.claims.details
    assert code(judged(between, "worker", asked, policy=policy)) is Code.DETAILS_NOT_ALLOWED
    assert granted(judged(between, "worker", asked)).details == ONE_TICKET


def test_details_that_the_delegate_may_not_have_are_not_dropped_for_it() -> None:
    """A delegate whose role does not know them cannot get a token that is free of them."""
    child = child_of(token(details=TWO_TICKETS), "worker")
    assert code(judged(child, "helper")) is Code.DETAILS_NOT_ALLOWED


# --- own grants -------------------------------------------------------------------------------------------------------


def test_own_grants_are_what_the_role_of_the_delegate_allows() -> None:
    """At any resource of its own, which has to be named, and at none else."""
    parent = token(scopes=("read",))
    assert granted(judged(parent, "carol", ask("export", audience=EXPORTS))).audience == EXPORTS
    assert granted(judged(parent, "carol", ask("comment", audience=TICKETS))).scopes == ("comment",)
    assert code(judged(parent, "carol", ask("comment"))) is Code.AUDIENCE_REQUIRED
    assert code(judged(parent, "carol", ask("read", audience=TICKETS))) is Code.SCOPE_NOT_ALLOWED
    assert code(judged(parent, "carol", ask("x", audience="https://x.example"))) is Code.AUDIENCE_NOT_ALLOWED
    assert code(judged(parent, "carol", ask(audience=EXPORTS))) is Code.SCOPE_REQUIRED


def test_own_grants_end_with_the_parent_and_are_bound_by_its_details() -> None:
    """Only scopes and resource are the delegate's own."""
    parent = token(scopes=("read",), details=TWO_TICKETS)
    own = ask("comment", audience=TICKETS)
    assert granted(judged(parent, "carol", own, now=NOW + 600)).ttl == 300
    assert granted(judged(parent, "carol", own)).details == TWO_TICKETS
    other = replace(own, details=({"type": "ticket", "ids": ["T-3"]},))
    assert code(judged(parent, "carol", other)) is Code.DETAILS_INVALID
    assert code(judged(parent, "carol", ask("export", audience=EXPORTS))) is Code.DETAILS_NOT_SUPPORTED


def test_own_grants_inherit_what_they_are_not() -> None:
    """A rule about the resource or a scope of the parent ends them, though they have neither."""
    child = child_of(token(), "carol", ask("export", audience=EXPORTS))
    assert child.facts >= token().facts
    assert {("audience", TICKETS), ("scope", "pay"), ("tier", "asked")} <= set(child.claims.inherited)


# --- depth ------------------------------------------------------------------------------------------------------------


def test_the_least_depth_of_the_line_counts() -> None:
    """A role that may be handed on further does not lift the limit of one that it came from."""
    second = child_of(token(), "worker")
    third = child_of(second, "helper")
    assert third.claims.agents == ("helper", "worker")
    assert code(judged(third, "worker")) is Code.DELEGATION_TOO_DEEP
    assert isinstance(judged(third, "helper").decision, Granted)


def test_a_line_has_so_many_tokens_and_no_more() -> None:
    """However little each of them changes."""
    most = token(parents=tuple(f"tok_a{number}" for number in range(MAX_PARENTS - 1)), path=())
    assert len(judged(most, "worker").lineage.parents) == MAX_PARENTS
    full = child_of(most, "planner")
    for actor in ("planner", "worker"):
        assert code(judged(full, actor)) is Code.DELEGATION_TOO_DEEP


def test_what_a_token_cannot_hold_is_refused_before_it_is_made() -> None:
    """As many facts of ancestors as a token can hold are handed down, and not one more."""
    room = MAX_INHERITED - len(child_of(token(), "worker").claims.inherited)
    filler: tuple[Fact, ...] = tuple(("role", f"planners{number:03}") for number in range(room + 1))
    names = [value for _, value in filler]
    document = copy.deepcopy(DOCUMENT)
    document["roles"] |= {name: role(name, at(TICKETS, "read")) for name in names}
    policy = compiled(document)
    above = {"parents": ("tok_x",)}
    fits = token(inherited=filler[:-1], **above)
    judgement = judged(fits, "worker", policy=policy)
    assert isinstance(judgement.decision, Granted)
    claims = replace(
        fits.claims, jti="tok_1", parents=judgement.lineage.parents, agents=("worker",), client_id="worker",
        role="workers", scopes=("read",), tier="low",
    )  # fmt: skip
    assert len(verified(finish(claims, fits), "kid_1").claims.inherited) == MAX_INHERITED
    assert code(judged(token(inherited=filler, **above), "worker", policy=policy)) is Code.DELEGATION_TOO_DEEP


# --- lineage ----------------------------------------------------------------------------------------------------------


def test_actors_nest_and_the_subject_stays() -> None:
    """Who acts now is outermost; whoever acts already is not named again, but comes back after others."""
    first = lineage(token().claims, agent("worker"), impersonates=False)
    assert (first.sub, first.agents, first.parents) == ("planner", ("worker",), ("tok_0",))
    held = child_of(token(), "worker")
    assert lineage(held.claims, agent("worker"), impersonates=False).agents == ("worker",)
    assert lineage(held.claims, agent("planner"), impersonates=False).agents == ("planner", "worker")
    assert lineage(held.claims, agent("helper"), impersonates=False).parents == ("tok_0", "tok_1")


def test_impersonation_stays_impersonation() -> None:
    """Only by an entry of the policy; and what came of it names no actors, however it goes on."""
    ghostly = child_of(token(), "ghost")
    assert ghostly.claims.impersonates
    assert "act" not in ghostly.claims.to_payload()
    later = child_of(ghostly, "helper")
    assert later.claims.impersonates
    assert later.claims.agents == ("helper", "ghost")
    assert not child_of(token(), "worker").claims.impersonates


def test_a_token_of_ones_own_impersonates_nobody() -> None:
    """There are no actors to hide: it is a token like any other."""
    assert not lineage(token().claims, agent("planner"), impersonates=True).impersonates


def test_what_a_child_does_not_have_itself_it_inherits() -> None:
    """Exactly that, sorted; token ids are its parents; the keys that signed and bound the parent are among it."""
    parent = token(jkt=KEY)
    child = child_of(parent, "worker", ask("read", jkt=OTHER_KEY))
    assert child.claims.inherited == (
        ("key", "kid_0"),
        ("key", KEY),
        ("role", "planners"),
        ("scope", "comment"),
        ("scope", "pay"),
        ("scope", "sign"),
        ("tier", "asked"),
    )
    assert child.facts >= parent.facts
    grandchild = child_of(child, "helper", ask("read", jkt=KEY))
    assert grandchild.facts >= child.facts
    assert ("key", "kid_1") in grandchild.claims.inherited


def test_a_child_in_a_sub_task_inherits_no_tasks() -> None:
    """They are in its path."""
    child = child_of(token(), "worker", task="task_3", path=("task_1", "task_2"))
    assert child.facts >= token().facts
    assert not any(name == "task" for name, _ in child.claims.inherited)


# --- blocks -----------------------------------------------------------------------------------------------------------


def block(until: float | None = None, **selector: str | bool) -> Block:
    """Return a block."""
    return Block("blk_1", parse_selector(selector), None, 0.0, "op", "secret reason", until)


@pytest.mark.parametrize(
    "selector",
    [
        {"everything": True},
        {"agent": "helper"},
        {"agent": "worker"},
        {"agent": "planner"},
        {"role": "helpers"},
        {"role": "workers"},
        {"role": "planners"},
        {"scope": "read"},
        {"scope": "comment"},
        {"tier": "asked"},
        {"audience": TICKETS},
        {"issuer": "registered"},
        {"token": "tok_0"},
        {"token": "tok_1"},
        {"task": "task_1"},
        {"task": "task_2"},
        {"key": "kid_0"},
        {"agent": "helper", "role": "planners"},
    ],
)
def test_a_block_on_anything_of_the_line_refuses_the_child(selector: dict[str, Any]) -> None:
    """What the child would have and what it would inherit alike, with no word about why."""
    refused = judged(child_of(token(), "worker"), "helper", None, block(**selector)).decision
    assert refused == Denied(Code.BLOCKED, "blocked by an operator: blk_1")


@pytest.mark.parametrize(
    "selector", [{"agent": "carol"}, {"token": "tok_2"}, {"role": "helpers", "audience": EXPORTS}, {"task": "task_3"}]
)
def test_a_block_on_something_else_does_not(selector: dict[str, Any]) -> None:
    """Nor one that has ended."""
    parent = child_of(token(), "worker")
    assert isinstance(judged(parent, "helper", None, block(**selector)).decision, Granted)
    assert isinstance(judged(parent, "helper", None, block(until=NOW, everything=True)).decision, Granted)
