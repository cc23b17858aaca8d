"""How the verified claims of each kind of platform become an agent, and which claims are nobody's."""

from __future__ import annotations

from typing import Any

import pytest

from broker.authenticators.claim_sheet import MAX_ITEMS, MAX_NEW_NAMES, NewClaims, attribute
from broker.authenticators.federation import PRESETS
from broker.authenticators.oidc import MAX_ATTRIBUTES
from broker.authenticators.spiffe import trust_domain_of
from broker.core.identity import Agent
from broker.core.issuer import TrustedIssuer
from broker.core.jwt import InvalidToken, parse
from tests.support.identity_provider import IdentityProvider

PROVIDER = IdentityProvider(lambda: 1_795_300_000.0)


def _issuer(preset: str) -> TrustedIssuer:
    return TrustedIssuer(
        name="plat",
        preset=preset,
        issuer="https://p.example",
        audiences=("https://broker.example",),
        trust_domain="corp.example" if preset == "spiffe" else None,
        algorithms=("ES256",),
        max_lifetime=3600,
    )


def _identify(preset: str, claims: dict[str, Any]) -> Agent:
    return PRESETS[preset].identify(claims, _issuer(preset))


def _why(preset: str, claims: dict[str, Any]) -> str:
    with pytest.raises(InvalidToken) as refused:
        _identify(preset, claims)
    return refused.value.why


def _claims(token: str, **changes: object) -> dict[str, Any]:
    claims = {**parse(token).payload, **changes}
    return {name: value for name, value in claims.items() if value is not ...}


# --- Kubernetes -----------------------------------------------------------------------------------------------------


def test_a_service_account_is_an_agent() -> None:
    """Named by namespace and name; what it is bound to can be matched by the policy."""
    agent = _identify("kubernetes", _claims(PROVIDER.kubernetes("support", "triage")))
    assert (agent.id, agent.issuer) == ("plat/support/triage", "plat")
    assert agent.subject == "system:serviceaccount:support:triage"
    assert agent.attributes == {
        "namespace": "support",
        "serviceaccount": "triage",
        "serviceaccount_uid": "b0000000-0000-4000-8000-000000000003",
        "pod": "triage-0",
        "pod_uid": "b0000000-0000-4000-8000-000000000002",
        "node": "node-1",
        "node_uid": "b0000000-0000-4000-8000-000000000001",
    }


@pytest.mark.parametrize(
    "subject",
    [
        "system:serviceaccount:support",
        "system:serviceaccount:support:triage:x",
        "system:serviceaccount::triage",
        "system:serviceaccount:support:",
        "system:node:node-1",
        "system:node:support:triage",
        "triage",
        "system:serviceaccount:billing:triage",
        "system:serviceaccount:support:other",
    ],
)
def test_the_subject_must_be_the_service_account_that_the_token_is_bound_to(subject: str) -> None:
    """Nodes and users are no agents, and the two places that name the account must agree."""
    assert _why("kubernetes", _claims(PROVIDER.kubernetes("support", "triage"), sub=subject)) == "subject"


@pytest.mark.parametrize("nested", [..., None, "support", [], {}, {"namespace": "support"}, {"namespace": ["support"]}])
def test_an_unbound_token_is_refused(nested: object) -> None:
    """Tokens of the old kind, which never end, lack the claim that says what they are bound to."""
    assert _why("kubernetes", _claims(PROVIDER.kubernetes(), **{"kubernetes.io": nested})) in {"claims", "subject"}


# --- GitHub Actions -------------------------------------------------------------------------------------------------


def test_a_job_is_named_by_ids_that_nobody_can_take_over() -> None:
    """The repository's id with the environment, or else with the ref."""
    agent = _identify("github-actions", _claims(PROVIDER.github()))
    assert agent.id == "plat/74/ref:refs%2Fheads%2Fmain"
    assert agent.attributes["repository_id"] == "74"
    assert agent.attributes["repository_owner_id"] == "65"
    assert agent.attributes["event_name"] == "push"
    assert agent.attributes["job_workflow_ref"] == "octo-org/octo-repo/.github/workflows/deploy.yml@refs/heads/main"
    assert "base_ref" not in agent.attributes, "an empty claim says nothing"
    prod = _identify("github-actions", _claims(PROVIDER.github(environment="prod")))
    assert prod.id == "plat/74/environment:prod"
    assert prod.attributes["environment"] == "prod"


def test_a_renamed_repository_stays_the_same_agent_and_a_new_one_of_its_name_does_not() -> None:
    """Names of repositories and owners are not part of who an agent is (pitfall 23)."""
    before = _identify("github-actions", _claims(PROVIDER.github()))
    renamed = _identify("github-actions", _claims(PROVIDER.github(repository="new-org/new-name", sub="repo:new")))
    squatter = _identify("github-actions", _claims(PROVIDER.github(repository_id="999", repository_owner_id="998")))
    assert renamed.id == before.id
    assert squatter.id != before.id


def test_an_environment_cannot_be_named_like_a_ref() -> None:
    """Whatever it is called, it is another agent than a job on a ref, or in another environment."""
    names = ["ref:refs/heads/main", "prod", "prod/../prod", "environment:prod", "a/b", "a%2Fb"]
    agents = {_identify("github-actions", _claims(PROVIDER.github(environment=name))).id for name in names}
    agents.add(_identify("github-actions", _claims(PROVIDER.github())).id)
    assert len(agents) == len(names) + 1
    assert all(agent.count("/") == 2 for agent in agents)


@pytest.mark.parametrize(
    "change",
    [
        {"repository_id": ...},
        {"repository_owner_id": ...},
        {"ref": ...},
        {"repository_id": 74},
        {"repository_id": ""},
        {"repository_id": "74/75"},
        {"repository_id": "\u0667\u0664"},
        {"repository_owner_id": "octo-org"},
        {"environment": ""},
        {"environment": None},
        {"environment": ["prod"]},
        {"environment": "prod\n"},
        {"ref": "r" * 513},
    ],
)
def test_a_job_without_its_ids_is_refused(change: dict[str, object]) -> None:
    """Nothing is guessed from names; a strange environment is not taken for none."""
    assert _why("github-actions", _claims(PROVIDER.github(), **change)) == "claims"


# --- SPIFFE ---------------------------------------------------------------------------------------------------------


def test_a_spiffe_id_is_an_agent() -> None:
    """Named by the path, segment by segment."""
    agent = _identify("spiffe", _claims(PROVIDER.svid("/ns/support/sa/triage")))
    assert agent.id == "plat/ns/support/sa/triage"
    assert agent.subject == "spiffe://corp.example/ns/support/sa/triage"
    assert agent.attributes == {"trust_domain": "corp.example"}


@pytest.mark.parametrize(
    "subject",
    [
        "spiffe://corp.example",
        "spiffe://corp.example/",
        "spiffe://corp.example//a",
        "spiffe://corp.example/a/",
        "spiffe://corp.example/a/../b",
        "spiffe://corp.example/./a",
        "spiffe://corp.example/a%2Fb",
        "spiffe://corp.example/a b",
        "spiffe://corp.example/\u00e9",
        "spiffe://corp.example/a?x",
        "spiffe://corp.example/a#x",
        "spiffe://corp.example:443/a",
        "spiffe://user@corp.example/a",
        "spiffe://CORP.example/a",
        "spiffe://other.example/a",
        "spiffe://corp.example.evil.example/a",
        "SPIFFE://corp.example/a",
        "https://corp.example/a",
        "corp.example/a",
    ],
)
def test_other_subjects_are_no_workloads_of_the_trust_domain(subject: str) -> None:
    """SPIFFE-ID, 2: lower-case trust domain, plain segments, nothing else."""
    assert _why("spiffe", {"sub": subject}) == "subject"


def test_only_a_spiffe_id_names_a_trust_domain() -> None:
    """For choosing whose bundle to look in."""
    assert trust_domain_of("spiffe://corp.example/a") == "corp.example"
    assert trust_domain_of("spiffe://corp.example") == "corp.example"
    for other in (None, "", "spiffe://", "spiffe:///a", "https://corp.example/a", "spiffe://Corp.example/a"):
        assert trust_domain_of(other) is None


# --- any OpenID provider --------------------------------------------------------------------------------------------


def test_any_claim_of_a_usable_shape_can_be_matched() -> None:
    """Texts, whole numbers, flags and lists of texts; not the technical ones, not what has no use."""
    agent = _identify(
        "oidc",
        _claims(
            PROVIDER.oidc("user-1"),
            project_id="7",
            level=3,
            verified=True,
            groups=["a", "b"],
            ratio=0.5,
            nothing=None,
            nested={"a": 1},
            empty="",
            none=[],
            mixed=["a", 1],
            long="x" * 513,
            control="a\nb",
            many=["x"] * (MAX_ITEMS + 1),
        ),
    )
    assert agent.id == "plat/user-1"
    assert agent.attributes == {
        "sub": "user-1",
        "project_id": "7",
        "level": 3,
        "verified": True,
        "groups": ("a", "b"),
    }


def test_a_subject_is_one_segment() -> None:
    """Different subjects never share an id, and no subject leaves its issuer's part of the names."""
    subjects = ["a/b", "a%2Fb", "../a", "a b", "A", "a", "\u00e9", "e\u0301", "project_path:org/repo:ref:main"]
    agents = {_identify("oidc", {"sub": subject}).id for subject in subjects}
    assert len(agents) == len(subjects)
    assert all(agent.startswith("plat/") and agent.count("/") == 1 and agent.isascii() for agent in agents)


def test_attributes_are_bounded() -> None:
    """A token with a thousand claims does not become a thousand attributes."""
    claims = {"sub": "u", **{f"c{n}": n for n in range(1000)}, "n" * 300: 1}
    assert len(_identify("oidc", claims).attributes) <= MAX_ATTRIBUTES


@pytest.mark.parametrize("value", [None, 1.5, {}, [1], [], "", "\u0000", ["a", ""], [["a"]]])
def test_other_values_are_no_attributes(value: object) -> None:
    """The policy cannot match them, so they are left out."""
    assert attribute(value) is None


# --- accounting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["kubernetes", "github-actions", "spiffe"])
def test_every_claim_of_a_provider_is_accounted_for(preset: str) -> None:
    """A real token has no claim that the sheet does not know; one that is new is noticed, and fails nothing."""
    tokens = {"kubernetes": PROVIDER.kubernetes(), "github-actions": PROVIDER.github(), "spiffe": PROVIDER.svid()}
    sheet = PRESETS[preset].sheet
    assert sheet is not None
    claims = _claims(tokens[preset])
    assert sheet.new(claims) == set()
    assert sheet.new({**claims, "brand_new": 1}) == {"brand_new"}
    assert _identify(preset, {**claims, "brand_new": 1}) == _identify(preset, claims)


def test_new_claims_are_counted_within_bounds() -> None:
    """An issuer that invents names forever costs no memory forever."""
    new = NewClaims()
    for n in range(10_000):
        new.add("plat", [f"claim-{n}", "again"])
    assert new.counts["plat"]["again"] == 10_000
    assert len(new.counts["plat"]) == MAX_NEW_NAMES
