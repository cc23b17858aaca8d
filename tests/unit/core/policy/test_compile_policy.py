"""A policy compiles as a whole or not at all, and every problem is told with its place and reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.core.identity import Agent
from broker.core.policy import OPERATOR_SCOPES, PolicyError
from broker.core.policy.model import Delegate
from tests.support.policies import (
    BROKER_AUDIENCE,
    DOCUMENT,
    ISSUER,
    PAYMENTS,
    TICKETS,
    compiled,
    document,
    problems,
    put,
)


def test_a_sound_policy() -> None:
    """Everything that the document says is there, resolved."""
    policy = compiled()
    assert policy.digest.startswith("sha256:")
    assert [tier.name for tier in policy.tiers] == ["read", "write", "sensitive", "operator"]
    role = policy.roles["support-triage"]
    comment = role.audiences[TICKETS].scopes["tickets:comment"]
    assert (comment.tier.name, comment.ttl, comment.path) == ("write", 600, "roles.support-triage.allow[0]")
    assert comment.tier.proof_required
    assert role.secrets["orders-db"].ttl == 900
    assert role.secrets["orders-db"].secret.settings == {"path": "database/creds/orders-ro"}
    assert (role.limits.tokens_per_minute, role.limits.role_tokens_per_minute, role.limits.task_ttl) == (30, 300, 3600)
    assert policy.roles["finance"].limits.tokens_per_minute == 60
    assert role.may_delegate_to == {"support-reader": Delegate(role="support-reader")}
    approval = policy.tiers[2].approval
    assert approval is not None
    assert (approval.approvers, approval.quorum, approval.expires) == ("finance", 1, 600)


def test_presets_fill_in_issuers() -> None:
    """What an issuer does not say comes from its preset, and tokens must be meant for the broker."""
    issuers = compiled().issuers
    assert issuers["github"].issuer == "https://token.actions.githubusercontent.com"
    assert issuers["github"].algorithms == ("RS256",)
    assert {issuer.audiences for issuer in issuers.values()} == {(ISSUER,)}
    assert issuers["mesh"].trust_domain == "corp.example"
    assert issuers["prod-cluster"].max_lifetime == 24 * 3600
    assert not any(issuer.allow_private or issuer.allow_http for issuer in issuers.values())


def test_an_issuer_can_say_everything() -> None:
    """What is written wins over the preset."""
    written = {
        "preset": "oidc",
        "issuer": "http://127.0.0.1:9000",
        "audience": [ISSUER, "broker"],
        "algorithms": ["EdDSA"],
        "max_lifetime": "5m",
        "allow_private": True,
        "allow_http": True,
        "ca_file": "/etc/ca.pem",
        "require_unique_jti": True,
        "jwks": {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA"}]},
    }
    issuer = compiled(put(DOCUMENT, ["issuers", "gitlab"], written)).issuers["gitlab"]
    assert issuer.audiences == (ISSUER, "broker")
    assert (issuer.algorithms, issuer.max_lifetime, issuer.ca_file) == (("EdDSA",), 300, "/etc/ca.pem")
    assert (issuer.allow_private, issuer.allow_http, issuer.require_unique_jti) == (True, True, True)
    assert issuer.jwks is not None


def test_the_smallest_policy() -> None:
    """A policy needs a version and a role; the broker's own API is always there."""
    policy = compiled({"version": 1, "roles": {"r": {"members": [{"agent": "a"}], "allow": [
        {"audience": "broker", "scopes": ["ledger:read"]}]}}})  # fmt: skip
    assert [tier.name for tier in policy.tiers] == ["operator"]
    assert policy.audiences[BROKER_AUDIENCE].scopes.keys() == OPERATOR_SCOPES.keys()
    assert (policy.tiers[0].max_ttl, policy.tiers[0].proof_required) == (900, False)


def test_the_operator_tier_stands_above_all_unless_placed() -> None:
    """A policy may say where operators stand, on what terms, and which of their scopes are in another tier."""
    tiers = {"operator": {"max_ttl": "5m", "proof_of_possession": "required"}, **DOCUMENT["tiers"]}
    audiences = {**DOCUMENT["audiences"], "broker": {"scopes": {"keys:write": {"tier": "sensitive"}}}}
    policy = compiled(tiers=tiers, audiences=audiences)
    assert [tier.name for tier in policy.tiers] == ["operator", "read", "write", "sensitive"]
    own = policy.audiences[BROKER_AUDIENCE].scopes
    assert own["keys:write"].name == "sensitive"
    assert (own["ledger:read"].name, own["ledger:read"].rank, own["ledger:read"].max_ttl) == ("operator", 0, 300)


def test_long_tiers_must_insist() -> None:
    """Above an hour a tier has to say so twice."""
    policy = compiled(put(DOCUMENT, ["tiers", "read"], {"max_ttl": "24h", "allow_long": True}))
    assert policy.tiers[0].max_ttl == 24 * 3600


def test_two_lines_for_one_audience() -> None:
    """A role may allow scopes of one audience on different terms, by different lines."""
    role = {
        "members": [{"agent": "a"}],
        "allow": [
            {"audience": PAYMENTS, "scopes": ["refunds:read"], "max_ttl": "2m", "default_scopes": ["refunds:read"]},
            {"audience": PAYMENTS, "scopes": ["refunds:create"]},
        ],
    }
    allowed = compiled(put(DOCUMENT, ["roles", "both"], role)).roles["both"].audiences[PAYMENTS]
    assert (allowed.scopes["refunds:read"].ttl, allowed.scopes["refunds:read"].path) == (120, "roles.both.allow[0]")
    assert (allowed.scopes["refunds:create"].ttl, allowed.scopes["refunds:create"].path) == (300, "roles.both.allow[1]")
    assert allowed.default_scopes == ("refunds:read",)


@pytest.mark.parametrize(
    "member",
    [
        {"agent": "alice"},
        {"agent": "prod-cluster/support/triage"},
        {"issuer": "prod-cluster", "subject": "system:serviceaccount:support:triage"},
        {"issuer": "mesh", "subject": "spiffe://corp.example/agent/*"},
        {"issuer": "mesh", "subject": {"regex": "spiffe://corp\\.example/agent-[0-9]+"}},
        {"issuer": "prod-cluster", "claims": {"namespace": ["support", "triage"]}},
        {"issuer": "prod-cluster", "any_subject": True},
        {"issuer": "github", "claims": {"repository_id": "12345", "environment": "prod"}},
        {"issuer": "github", "claims": {"repository_id": 12345}},
        {"issuer": "github", "claims": {"repository_owner_id": ["1", "2"], "repository": "acme/*"}},
        {"issuer": "gitlab", "claims": {"project_id": "7", "ref_protected": True}},
    ],
)
def test_member_lines(member: dict[str, Any]) -> None:
    """Every documented way to name members compiles."""
    policy = compiled(put(DOCUMENT, ["roles", "support-reader", "members"], [member]))
    assert len(policy.roles["support-reader"].members) == 1


def test_who_serves_an_audience() -> None:
    """The agents in served_by, and nobody else, are resource servers for it; nobody is for the broker's own."""
    policy = compiled()
    server = Agent("tickets-server", "registered", "tickets-server")
    assert policy.serves(server, audience=TICKETS)
    assert not policy.serves(server, audience=PAYMENTS)
    assert not policy.serves(server, audience=BROKER_AUDIENCE)
    assert not policy.serves(server, audience="https://unknown.example")
    assert not policy.serves(Agent("reader", "registered", "reader"), audience=TICKETS)


def test_the_digest_covers_the_whole_document() -> None:
    """It is the same for the same document however it is written, and differs when anything differs, also order."""
    first = compiled()
    shuffled = dict(reversed(list(document().items())))
    assert compiled(shuffled).digest == first.digest
    assert compiled(json.loads(json.dumps(DOCUMENT))).digest == first.digest
    assert compiled(tiers=dict(reversed(list(DOCUMENT["tiers"].items())))).digest != first.digest
    assert compiled(roles=dict(reversed(list(DOCUMENT["roles"].items())))).digest != first.digest
    assert compiled(put(DOCUMENT, ["tiers", "read", "max_ttl"], "14m")).digest != first.digest


def test_all_problems_are_told_at_once_in_the_order_of_the_document() -> None:
    """An operator sees the whole list, not one problem per attempt."""
    data = put(DOCUMENT, ["roles", "finance", "allow", 0, "scopes"], ["nope"])
    data = put(data, ["tiers", "read", "max_ttl"], "forever")
    data = put(data, ["issuers", "gitlab", "issuer"], "gopher://x")
    data = put(data, ["version"], 7)
    assert [path for path, _ in problems(data)] == [
        "version",
        "issuers.gitlab.issuer",
        "tiers.read.max_ttl",
        "roles.finance.allow[0].scopes[0]",
    ]


@pytest.mark.parametrize("data", [[], "x", 5, {}, {1: 2}, {"version": {1, 2}}, {"version": b"1"}])
def test_what_is_no_document_at_all(data: object) -> None:
    """Whatever is handed in, the answer is a PolicyError."""
    assert problems(data)


def test_a_document_that_contains_itself_is_refused() -> None:
    """Depth and size are bounded."""
    endless: dict[str, Any] = {"version": 1}
    endless["roles"] = endless
    assert "levels" in problems(endless)[-1][1]
    wide = {"version": 1, "roles": {"r": {"members": [{"agent": "a"}] * 60_000}}}
    assert "more than 100000 values" in problems(wide)[-1][1]


def test_messages_do_not_carry_control_characters() -> None:
    """A hostile key or value cannot forge lines or colours in the message."""
    evil = "x\n\x1b[31mFORGED\u202e"
    with pytest.raises(PolicyError) as caught:
        compiled(document(**{evil: 1, "roles": {evil: {evil: evil}}, "tiers": {"read": {"max_ttl": evil}}}))
    assert all(line.isprintable() and line.isascii() for line in str(caught.value).split("\n"))
    assert len(str(caught.value).split("\n")) == len(caught.value.problems)


def test_identity_tokens() -> None:
    """A role says for whom its agents get identity tokens, for how long, and what these say besides."""
    line = {
        "identity_token": "sts.amazonaws.com",
        "max_ttl": "1m",
        "claims": {"env": "prod"},
        "groups": ["a", "b", "a"],
    }
    allow = [line, {"identity_token": "https://kubernetes.default.svc"}]
    role = compiled(put(DOCUMENT, ["roles", "r"], {"members": [{"agent": "a"}], "allow": allow})).roles["r"]
    aws, kubernetes = role.identities["sts.amazonaws.com"], role.identities["https://kubernetes.default.svc"]
    assert (aws.ttl, aws.path, aws.claims, aws.groups) == (60, "roles.r.allow[0]", {"env": "prod"}, ("a", "b"))
    assert (kubernetes.ttl, kubernetes.claims, kubernetes.groups) == (300, {}, ())
    assert (role.audiences, role.secrets) == ({}, {})
