"""The claims of access tokens, and the facts that revocation looks at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.core.claims import (
    INHERITED,
    MAX_ACT_DEPTH,
    MAX_INHERITED,
    MAX_PARENTS,
    MAX_TEXT,
    AccessClaims,
    ClaimsError,
    parse_claims,
)
from broker.core.selector import Selector
from broker.core.task import MAX_TASK_DEPTH

CLAIMS = AccessClaims(
    iss="https://broker.example",
    sub="prod/support/triage",
    aud="https://tickets.internal",
    client_id="prod/support/triage",
    iat=1_795_300_000,
    exp=1_795_300_300,
    jti="tok_1",
    scopes=("tickets:comment", "tickets:read"),
    epoch=41,
    task="task_3",
    role="support-triage",
    tier="write",
    issuer="prod",
)
FULL = replace(
    CLAIMS,
    path=("task_1", "task_2"),
    parents=("tok_a", "tok_b"),
    sub="prod/root",
    agents=("prod/support/triage", "prod/planner"),
    inherited=(("key", "kid_parent"), ("role", "planners"), ("scope", "tickets:close")),
    jkt="thumb",
    details=({"type": "ticket", "ids": ["T-1"]},),
    may_act="prod/helper",
)
IMPERSONATING = replace(FULL, impersonates=True)


AT = "/status/lists/tok_01M8QXKBGK84V1T7AXNBXWJ8BD"
LISTED = replace(CLAIMS, jti="tok_01M8QXKBGK84V1T7AXNBXWJ8BD.4711")
RETURNED = replace(
    FULL, parents=("tok_a", "tok_b", "tok_c"), agents=("prod/support/triage", "prod/planner", "prod/support/triage")
)


@pytest.mark.parametrize(
    "claims",
    [CLAIMS, FULL, IMPERSONATING, RETURNED, replace(RETURNED, impersonates=True), LISTED],
    ids=["own", "full", "impersonating", "returned", "returned impersonating", "listed"],
)
def test_claims_come_back_from_their_payload(claims: AccessClaims) -> None:
    """What is minted is what is read."""
    assert parse_claims(claims.to_payload()) == claims


def test_the_payload_is_an_rfc_9068_token() -> None:
    """The standard claims have their standard shape; everything else is in one private claim."""
    assert FULL.to_payload() == {
        "iss": "https://broker.example",
        "sub": "prod/root",
        "aud": "https://tickets.internal",
        "client_id": "prod/support/triage",
        "iat": 1_795_300_000,
        "nbf": 1_795_300_000,
        "exp": 1_795_300_300,
        "jti": "tok_1",
        "scope": "tickets:comment tickets:read",
        "act": {"sub": "prod/support/triage", "act": {"sub": "prod/planner"}},
        "may_act": {"sub": "prod/helper"},
        "authorization_details": [{"type": "ticket", "ids": ["T-1"]}],
        "cnf": {"jkt": "thumb"},
        "broker": {
            "epoch": 41,
            "task": "task_3",
            "role": "support-triage",
            "tier": "write",
            "issuer": "prod",
            "path": ["task_1", "task_2"],
            "parents": ["tok_a", "tok_b"],
            "inherited": {"key": ["kid_parent"], "role": ["planners"], "scope": ["tickets:close"]},
        },
    }


def test_what_is_absent_is_left_out() -> None:
    """A token without lineage, delegation or a bound key has no empty claims for them."""
    payload = CLAIMS.to_payload()
    assert not {"act", "cnf", "may_act", "authorization_details"} & payload.keys()
    assert not {"path", "parents", "inherited", "via"} & payload["broker"].keys()


def test_impersonation_hides_the_actors_from_services_but_not_from_rules() -> None:
    """There is no ``act``; the private claim has the actors, and a rule for one of them finds the token."""
    payload = IMPERSONATING.to_payload()
    assert "act" not in payload
    assert payload["broker"]["via"] == ["prod/support/triage", "prod/planner"]
    assert parse_claims(payload).facts("kid") == FULL.facts("kid")


def test_who_may_act_is_no_fact() -> None:
    """A rule for an agent ends what it has or had in hand, not what it might have got."""
    assert not Selector(agent="prod/helper").selects(FULL.facts("kid"))


@pytest.mark.parametrize(
    "selector",
    [
        Selector(token="tok_1"),
        Selector(token="tok_a"),
        Selector(task="task_3"),
        Selector(task="task_1"),
        Selector(agent="prod/support/triage"),
        Selector(agent="prod/root"),
        Selector(agent="prod/planner"),
        Selector(role="planners"),
        Selector(scope="tickets:close"),
        Selector(key="kid_parent"),
        Selector(key="kid"),
        Selector(key="thumb"),
        Selector(role="support-triage"),
        Selector(scope="tickets:read"),
        Selector(audience="https://tickets.internal"),
        Selector(tier="write"),
        Selector(issuer="prod"),
        Selector(token="tok_b", task="task_2", agent="prod/planner", scope="tickets:comment", tier="write"),
    ],
)
def test_a_token_dies_with_each_of_its_own_keys_and_its_ancestors(selector: Selector) -> None:
    """Every selector that names the token, an ancestor, its task or key finds it."""
    assert selector.selects(FULL.facts("kid"))


@pytest.mark.parametrize(
    "selector",
    [
        Selector(token="tok"),
        Selector(task="task"),
        Selector(agent="prod"),
        Selector(key="other"),
        Selector(scope="tickets:read tickets:comment"),
        Selector(scope="tickets"),
        Selector(audience="https://tickets.internal/"),
        Selector(lease="tok_1"),
    ],
)
def test_near_misses_do_not_select(selector: Selector) -> None:
    """Prefixes, joined lists and other fields are not the token's facts."""
    assert not selector.selects(FULL.facts("kid"))


def without(name: str) -> dict[str, Any]:
    """Return a full payload without one claim."""
    return {claim: value for claim, value in FULL.to_payload().items() if claim != name}


def with_private(**members: object) -> dict[str, Any]:
    """Return a full payload with members of the private claim replaced."""
    return FULL.to_payload() | {"broker": FULL.to_payload()["broker"] | members}


def deep_line(depth: int) -> dict[str, Any]:
    """Return a payload whose ``act`` claim is nested so deep, with as many parents as there may be."""
    act: dict[str, Any] = {"sub": "a0"}
    for level in range(1, depth):
        act = {"sub": FULL.client_id if level == depth - 1 else f"a{level}", "act": act}
    return with_private(parents=ids("tok", MAX_PARENTS)) | {"act": act}


def ids(prefix: str, count: int) -> list[str]:
    """Return so many different ids."""
    return [f"{prefix}_{number:03}" for number in range(count)]


def impersonating(**members: object) -> dict[str, Any]:
    """Return the payload of a token that impersonates, with members of the private claim replaced."""
    payload = IMPERSONATING.to_payload()
    return payload | {"broker": payload["broker"] | members}


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "client_id", "iat", "exp", "jti", "scope", "broker"])
def test_every_claim_is_needed(name: str) -> None:
    """A token that lacks one is not ours, however well it is signed."""
    with pytest.raises(ClaimsError, match=name):
        parse_claims(without(name))


@pytest.mark.parametrize("name", ["epoch", "task", "role", "tier", "issuer"])
def test_every_private_member_is_needed(name: str) -> None:
    """A token whose revocation could not be checked is not ours."""
    private = {member: value for member, value in FULL.to_payload()["broker"].items() if member != name}
    with pytest.raises(ClaimsError, match=name):
        parse_claims(FULL.to_payload() | {"broker": private})


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (FULL.to_payload() | {"aud": ["https://tickets.internal"]}, "aud"),
        (FULL.to_payload() | {"sub": ""}, "sub"),
        (FULL.to_payload() | {"sub": "x" * (MAX_TEXT + 1)}, "sub"),
        (FULL.to_payload() | {"exp": "1795300300"}, "exp"),
        (FULL.to_payload() | {"exp": 1795300300.5}, "exp"),
        (FULL.to_payload() | {"exp": True}, "exp"),
        (FULL.to_payload() | {"iat": -1}, "iat"),
        (FULL.to_payload() | {"scope": ["a"]}, "scope"),
        (FULL.to_payload() | {"scope": "a  b"}, "scope"),
        (FULL.to_payload() | {"scope": " a"}, "scope"),
        (FULL.to_payload() | {"scope": "b a"}, "scope"),
        (FULL.to_payload() | {"scope": "a a"}, "scope"),
        (FULL.to_payload() | {"scope": " "}, "scope"),
        (FULL.to_payload() | {"broker": []}, "broker"),
        (with_private(epoch="41"), "epoch"),
        (with_private(epoch=False), "epoch"),
        (with_private(epoch=-1), "epoch"),
        (with_private(path="task_1"), "path"),
        (with_private(path=[1]), "path"),
        (with_private(parents=[""]), "parents"),
        (with_private(parents={"a": 1}), "parents"),
        (with_private(tier=None), "tier"),
        (FULL.to_payload() | {"cnf": {}}, "cnf"),
        (FULL.to_payload() | {"cnf": {"jkt": "a", "x5t#S256": "b"}}, "cnf"),
        (FULL.to_payload() | {"cnf": {"x5t#S256": "b"}}, "jkt"),
        (FULL.to_payload() | {"cnf": "thumb"}, "cnf"),
        (FULL.to_payload() | {"act": "prod/planner"}, "act"),
        (FULL.to_payload() | {"act": {"sub": 1}}, "sub"),
        (FULL.to_payload() | {"act": {}}, "sub"),
        (FULL.to_payload() | {"act": []}, "act"),
        (FULL.to_payload() | {"act": None}, "act"),
        (FULL.to_payload() | {"act": {"sub": "prod/support/triage", "act": None}}, "act"),
        (FULL.to_payload() | {"act": {"sub": "prod/support/triage", "act": {}}}, "sub"),
        (deep_line(MAX_ACT_DEPTH + 1), "act"),
        (FULL.to_payload() | {"act": {"sub": "prod/planner"}}, "act"),
        (with_private(via=["prod/support/triage"]), "act"),
        (without("act"), "act"),
        (impersonating(via=["prod/planner"]), "act"),
        (impersonating(via=[]), "via"),
        (impersonating(via=["prod/support/triage", "prod/support/triage"]), "act"),
        (FULL.to_payload() | {"act": {"sub": "prod/support/triage", "act": {"sub": "prod/root"}}}, "act"),
        (impersonating(via=["prod/support/triage", *ids("a", MAX_ACT_DEPTH)]), "via"),
        (with_private(parents=["tok_a", "tok_a"]), "parents"),
        (with_private(parents=["tok_a"]), "parents"),
        (with_private(parents=[]), "parents"),
        (with_private(parents=["tok_a", "tok_1"]), "parents"),
        (with_private(parents=ids("tok", MAX_PARENTS + 1)), "parents"),
        (with_private(parents=["tok_a", "x" * (MAX_TEXT + 1)]), "parents"),
        (with_private(parents=["tok_a", "tok\nb"]), "parents"),
        (with_private(path=ids("task", MAX_TASK_DEPTH + 1)), "path"),
        (with_private(path=["task_3"]), "path"),
        (with_private(path=None), "path"),
        (with_private(inherited={"scope": ["b", "a"]}), "inherited"),
        (with_private(inherited={"scope": ["a", "a"]}), "scope"),
        (with_private(inherited={"scope": []}), "scope"),
        (with_private(inherited={"scope": "a"}), "scope"),
        (with_private(inherited={"scope": ["a"], "role": ["b"]}), "inherited"),
        (with_private(inherited={"token": ["tok_a"]}), "inherited"),
        (with_private(inherited={"everything": ["*"]}), "inherited"),
        (with_private(inherited=["a"]), "inherited"),
        (with_private(inherited={"role": ids("r", MAX_INHERITED + 1)}), "role"),
        (with_private(inherited={"role": ids("r", MAX_INHERITED), "scope": ["a"]}), "inherited"),
        (with_private(inherited={"role": ["x" * (MAX_TEXT + 1)]}), "role"),
        (with_private(task="task\u202e3"), "task"),
        (FULL.to_payload() | {"sub": "prod/\nroot"}, "sub"),
        (FULL.to_payload() | {"may_act": "prod/helper"}, "may_act"),
        (FULL.to_payload() | {"may_act": None}, "may_act"),
        (FULL.to_payload() | {"may_act": {"sub": "a", "iss": "b"}}, "may_act"),
        (FULL.to_payload() | {"may_act": {"iss": "b"}}, "sub"),
        (FULL.to_payload() | {"cnf": None}, "cnf"),
        (FULL.to_payload() | {"authorization_details": {}}, "authorization_details"),
        (FULL.to_payload() | {"authorization_details": None}, "authorization_details"),
        (FULL.to_payload() | {"authorization_details": []}, "authorization_details"),
        (FULL.to_payload() | {"authorization_details": [{}]}, "authorization_details"),
        (FULL.to_payload() | {"authorization_details": [{"type": 1}]}, "authorization_details"),
    ],
)
def test_ill_shaped_claims_are_refused(payload: dict[str, Any], says: str) -> None:
    """A claim of another shape than ours is refused by name, not coerced."""
    with pytest.raises(ClaimsError, match=says):
        parse_claims(payload)


def test_the_deepest_delegation_is_read() -> None:
    """The bounds are the bounds, not one less."""
    assert len(parse_claims(deep_line(MAX_ACT_DEPTH)).agents) == MAX_ACT_DEPTH
    widest = with_private(path=ids("task", MAX_TASK_DEPTH), inherited={"role": ids("r", MAX_INHERITED)})
    claims = parse_claims(widest)
    assert (len(claims.path), len(claims.inherited)) == (MAX_TASK_DEPTH, MAX_INHERITED)


def test_a_line_that_was_cut_is_refused() -> None:
    """Facts of ancestors, or actors, without the tokens that they come from: a rule for those would miss it."""
    private = {name: value for name, value in FULL.to_payload()["broker"].items() if name != "parents"}
    with pytest.raises(ClaimsError, match="parents"):
        parse_claims(FULL.to_payload() | {"broker": private})
    own = CLAIMS.to_payload()
    with pytest.raises(ClaimsError, match="parents"):
        parse_claims(own | {"broker": own["broker"] | {"inherited": {"role": ["planners"]}}})


def test_every_kind_of_inherited_fact_comes_back() -> None:
    """What a token can inherit is a fact of it, under the same name."""
    facts = tuple(sorted((name, f"{name}-of-an-ancestor") for name in INHERITED))
    read = parse_claims(replace(FULL, inherited=facts).to_payload())
    assert read.inherited == facts
    assert set(facts) <= read.facts("kid")


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        (LISTED, None),
        (LISTED, {"status_list": {"idx": 4712, "uri": f"https://broker.example{AT}"}}),
        (LISTED, {"status_list": {"idx": 4711, "uri": f"https://evil.example{AT}"}}),
        (LISTED, {"status_list": {"idx": 4711}}),
        (LISTED, "valid"),
        (CLAIMS, LISTED.to_payload()["status"]),
    ],
    ids=["left out", "another place", "another list", "half", "text", "none of its own"],
)
def test_a_status_is_where_the_id_says(claims: AccessClaims, status: object) -> None:
    """A verifier of lists and one of rules judge the same token, or none."""
    payload = claims.to_payload() | {"status": status}
    if status is None:
        del payload["status"]
    with pytest.raises(ClaimsError, match="status"):
        parse_claims(payload)
