"""Every mistake in a policy is refused, with the place and the reason."""

from __future__ import annotations

import pytest

from tests.support.policies import BROKER_AUDIENCE, DOCUMENT, ISSUER, TICKETS, problems, put

GITHUB = {"issuer": "github"}
ROLE: dict[str, list[dict[str, object]]] = {
    "members": [{"agent": "a"}],
    "allow": [{"audience": TICKETS, "scopes": ["tickets:read"]}],
}
ALLOW: list[str | int] = ["roles", "finance", "allow", 0]
AT_ALLOW = "roles.finance.allow[0]"
MEMBER: list[str | int] = ["roles", "finance", "members", 0]
AT_MEMBER = "roles.finance.members[0]"

BAD: list[tuple[list[str | int], object, str, str]] = [
    # the document
    (["version"], 2, "version", "must be 1"),
    (["version"], True, "version", "must be 1"),
    (["version"], "1", "version", "must be 1"),
    (["extra"], 1, "extra", "unknown key; known here: version, roles, issuers"),
    (["roles"], {}, "roles", "must not be empty"),
    (["roles"], [], "roles", "must be a mapping"),
    (["tiers"], {}, "tiers", "must not be empty"),
    (["tiers"], None, "tiers", "has no value"),
    (["tiers", "read", "max_ttl"], 1.5, "tiers.read.max_ttl", "a number with a fraction"),
    # tiers
    (["tiers", "Read"], {"max_ttl": "1m"}, "tiers.Read", "a tier is named with"),
    (["tiers", "read", "max_ttl"], "0s", "tiers.read.max_ttl", "must be a duration"),
    (["tiers", "read", "max_ttl"], 900, "tiers.read.max_ttl", "must be a duration"),
    (["tiers", "read", "max_ttl"], "2h", "tiers.read.max_ttl", "more than 1h"),
    (["tiers", "read"], {"max_ttl": "25h", "allow_long": True}, "tiers.read.max_ttl", "must be at most 24h"),
    (["tiers", "read"], {}, "tiers.read", "must not be empty"),
    (["tiers", "read", "ttl"], "1m", "tiers.read.ttl", "unknown key"),
    (["tiers", "read", "allow_long"], "yes", "tiers.read.allow_long", "must be true or false"),
    (["tiers", "write", "proof_of_possession"], "maybe", "tiers.write.proof_of_possession", "must be one of"),
    (
        ["tiers", "sensitive", "approval", "approvers"],
        "nobody",
        "tiers.sensitive.approval.approvers",
        "'nobody' is not",
    ),
    (["tiers", "sensitive", "approval", "quorum"], 0, "tiers.sensitive.approval.quorum", "whole number from 1 to 10"),
    (["tiers", "sensitive", "approval"], {"approvers": "finance"}, "tiers.sensitive.approval", "quorum is missing"),
    # audiences
    (["audiences", "tickets"], DOCUMENT["audiences"][TICKETS], "audiences.tickets", "must be an absolute URI"),
    (
        ["audiences", TICKETS + "/"],
        DOCUMENT["audiences"][TICKETS],
        "audiences['https://tickets.internal/']",
        "write it",
    ),
    (["audiences", BROKER_AUDIENCE], DOCUMENT["audiences"][TICKETS], f"audiences['{BROKER_AUDIENCE}']", "write broker"),
    (["audiences", TICKETS, "scopes"], {}, f"audiences['{TICKETS}'].scopes", "must not be empty"),
    (["audiences", TICKETS, "scopes"], ["x"], f"audiences['{TICKETS}'].scopes", "must be a mapping"),
    (["audiences", TICKETS, "scopes", "a b"], {"tier": "read"}, f"audiences['{TICKETS}'].scopes['a b']", "a scope is"),
    (
        ["audiences", TICKETS, "scopes", "x"],
        {"tier": "no"},
        f"audiences['{TICKETS}'].scopes.x.tier",
        "'no' is not a tier",
    ),
    (["audiences", TICKETS, "scopes", "x"], {}, f"audiences['{TICKETS}'].scopes.x", "must not be empty"),
    (["audiences", TICKETS, "served_by"], [], f"audiences['{TICKETS}'].served_by", "must not be empty"),
    (
        ["audiences", "broker"],
        {"scopes": {"x:y": {"tier": "read"}}},
        "audiences.broker.scopes['x:y']",
        "is not a scope",
    ),
    (["audiences", "broker"], {"served_by": []}, "audiences.broker", "scopes is missing"),
    # secrets
    (["secrets", "orders-db", "tier"], "none", "secrets.orders-db.tier", "'none' is not a tier"),
    (["secrets", "orders-db", "backend"], "file", "secrets.orders-db.backend", "must be one of: vault"),
    (["secrets", "orders-db", "key"], "k", "secrets.orders-db.key", "unknown key"),
    (["secrets", "s"], {"backend": "aws-sts", "tier": "read"}, "secrets.s", "role_arn is missing"),
    (
        ["secrets", "s"],
        {"backend": "aws-secrets-manager", "secret_id": "x", "tier": "read", "on_revoke": "burn"},
        "secrets.s.on_revoke",
        "must be one of: rotate, leave",
    ),
    # issuers
    (["issuers", "registered"], {"preset": "oidc", "issuer": "https://x"}, "issuers.registered", "choose another"),
    (["issuers", "A"], {"preset": "oidc", "issuer": "https://x"}, "issuers.A", "an issuer is named with"),
    (["issuers", "x"], {"issuer": "https://x"}, "issuers.x", "preset is missing"),
    (["issuers", "x"], {"preset": "okta"}, "issuers.x.preset", "must be one of: kubernetes"),
    (["issuers", "x"], {"preset": "oidc"}, "issuers.x", "issuer is missing"),
    (["issuers", "gitlab", "issuer"], "http://gitlab.example", "issuers.gitlab.issuer", "must begin with https://"),
    (["issuers", "gitlab", "issuer"], "https://u@x", "issuers.gitlab.issuer", "must be an https URL"),
    (["issuers", "gitlab", "issuer"], "https://x?y", "issuers.gitlab.issuer", "must be an https URL"),
    (["issuers", "gitlab", "issuer"], ISSUER, "issuers.gitlab.issuer", "is the broker itself"),
    (
        ["issuers", "gitlab", "issuer"],
        "https://token.actions.githubusercontent.com",
        "issuers.gitlab.issuer",
        "use the",
    ),
    (["issuers", "x"], {"preset": "oidc", "issuer": "https://gitlab.example"}, "issuers.x", "is the same issuer as"),
    (["issuers", "gitlab", "bundle_url"], "https://x", "issuers.gitlab.bundle_url", "unknown key"),
    (["issuers", "gitlab", "algorithms"], ["HS256"], "issuers.gitlab.algorithms[0]", "must be one of: RS256"),
    (["issuers", "gitlab", "algorithms"], ["none"], "issuers.gitlab.algorithms[0]", "must be one of: RS256"),
    (["issuers", "gitlab", "algorithms"], [], "issuers.gitlab.algorithms", "must not be empty"),
    (["issuers", "gitlab", "audience"], [], "issuers.gitlab.audience", "must not be empty"),
    (["issuers", "gitlab", "audience"], [ISSUER, ISSUER], "issuers.gitlab.audience[1]", "is in this list twice"),
    (
        ["issuers", "prod-cluster", "audience"],
        "https://oidc.cluster.example",
        "issuers.prod-cluster.audience",
        "API server",
    ),
    (
        ["issuers", "prod-cluster", "audience"],
        ["https://kubernetes.default.svc"],
        "issuers.prod-cluster.audience[0]",
        "API",
    ),
    (
        ["issuers", "mesh", "trust_domain"],
        "spiffe://corp",
        "issuers.mesh.trust_domain",
        "must be a SPIFFE trust domain",
    ),
    (
        ["issuers", "mesh"],
        {"preset": "spiffe", "trust_domain": "x"},
        "issuers.mesh",
        "one of bundle_url, jwks is missing",
    ),
    (["issuers", "mesh", "jwks"], {"keys": []}, "issuers.mesh.jwks.keys", "must not be empty"),
    (["issuers", "mesh", "jwks"], {"keys": [{"kty": "EC"}]}, "issuers.mesh.jwks", "keys come from one source only"),
    (["issuers", "gitlab", "jwks"], {"keys": [{"kty": "EC", "d": "x"}]}, "issuers.gitlab.jwks.keys[0]", "is a private"),
    (
        ["issuers", "gitlab", "jwks"],
        {"keys": [{"kty": "oct", "k": "x"}]},
        "issuers.gitlab.jwks.keys[0]",
        "is a private",
    ),
    (["issuers", "gitlab", "jwks"], "keys", "issuers.gitlab.jwks", "must be a JWK set"),
    (["issuers", "gitlab", "allow_private"], 1, "issuers.gitlab.allow_private", "must be true or false"),
    (["issuers", "mesh", "require_unique_jti"], True, "issuers.mesh.require_unique_jti", "unknown key"),
    (["issuers", "gitlab", "issuer"], "https://x:port", "issuers.gitlab.issuer", "is not a valid URL"),
    (["issuers", "gitlab", "issuer"], 5, "issuers.gitlab.issuer", "must be text"),
    (["issuers", "gitlab", "jwks_url"], "file:///etc/passwd", "issuers.gitlab.jwks_url", "must be an https URL"),
    (["issuers", "gitlab", "audience"], [5], "issuers.gitlab.audience[0]", "must be text"),
    (["issuers", "gitlab", "jwks"], {"keys": ["x"]}, "issuers.gitlab.jwks.keys[0]", "must be a JWK"),
    (["issuers", "gitlab"], "https://gitlab.example", "issuers.gitlab", "must be a mapping"),
    # roles
    (["roles", "Big Role"], ROLE, "roles['Big Role']", "a role is named with"),
    (["roles", "r"], {"allow": ROLE["allow"]}, "roles.r", "members is missing"),
    (["roles", "r"], {"members": ROLE["members"]}, "roles.r", "allow is missing"),
    (["roles", "r"], {**ROLE, "allow": []}, "roles.r.allow", "must not be empty"),
    (["roles", "r"], {**ROLE, "members": []}, "roles.r.members", "must not be empty"),
    (["roles", "r"], {**ROLE, "deny": []}, "roles.r.deny", "unknown key"),
    (["roles", "r"], {**ROLE, "may_delegate_to": ["x"]}, "roles.r.may_delegate_to[0]", "'x' is not a role"),
    (["roles", "r"], {**ROLE, "limits": {}}, "roles.r.limits", "must not be empty"),
    (["roles", "r"], {**ROLE, "limits": {"live_leases": 0}}, "roles.r.limits.live_leases", "must be a whole number"),
    (
        ["roles", "r"],
        {**ROLE, "limits": {"tokens_per_minute": "60"}},
        "roles.r.limits.tokens_per_minute",
        "whole number",
    ),
    ([*ALLOW, "scopes"], ["x"], f"{AT_ALLOW}.scopes[0]", "'x' is not a scope of this"),
    ([*ALLOW, "scopes"], ["*"], f"{AT_ALLOW}.scopes[0]", "'*' is not a scope"),
    ([*ALLOW, "scopes"], [], f"{AT_ALLOW}.scopes", "must not be empty"),
    ([*ALLOW, "scopes"], "ledger:read", f"{AT_ALLOW}.scopes", "must be a list"),
    ([*ALLOW, "audience"], "https://x", f"{AT_ALLOW}.audience", "is not an audience"),
    ([*ALLOW, "secret"], "orders-db", AT_ALLOW, "either an audience"),
    (ALLOW, {"audience": "broker"}, AT_ALLOW, "scopes is missing"),
    (ALLOW, {"secret": "x"}, f"{AT_ALLOW}.secret", "'x' is not a secret"),
    (ALLOW, {"max_ttl": "1m"}, AT_ALLOW, "either an audience"),
    ([*ALLOW, "max_ttl"], "48h", f"{AT_ALLOW}.max_ttl", "must be at most 24h"),
    (
        [*ALLOW, "default_scopes"],
        ["ledger:read"],
        f"{AT_ALLOW}.default_scopes[0]",
        "is not among the scopes of this line",
    ),
    (
        ["roles", "r"],
        {**ROLE, "allow": [*ROLE["allow"], *ROLE["allow"]]},
        "roles.r.allow[1].scopes[0]",
        "allowed by roles.r.allow[0]",
    ),
    (ALLOW, {"secret": "orders-db", "scopes": ["x"]}, f"{AT_ALLOW}.scopes", "a secret has no scopes"),
    (["roles", "finance", "allow"], [{"secret": "orders-db"}] * 2, "roles.finance.allow[1].secret", "allowed by"),
    (
        ["roles", "r"],
        {
            **ROLE,
            "allow": [
                {"audience": TICKETS, "scopes": [scope], "default_scopes": [scope]}
                for scope in ("tickets:read", "tickets:comment")
            ],
        },
        "roles.r.allow[1].default_scopes",
        "another line of this role has default scopes",
    ),
    # members
    (MEMBER, {}, AT_MEMBER, "must not be empty"),
    (MEMBER, "alice", AT_MEMBER, "must be a mapping"),
    (MEMBER, {"agent": "*"}, f"{AT_MEMBER}.agent", "no patterns"),
    (MEMBER, {"agent": "mesh/*"}, f"{AT_MEMBER}.agent", "matched exactly"),
    (MEMBER, {"agent": "gitlab/project_path:acme%2Fweb"}, f"{AT_MEMBER}.agent", "can change hands"),
    (MEMBER, {"agent": "x/y"}, f"{AT_MEMBER}.agent", "not an issuer"),
    (MEMBER, {"agent": "a", "issuer": "mesh"}, f"{AT_MEMBER}.issuer", "alone"),
    (MEMBER, {"issuer": "mesh"}, AT_MEMBER, "add a subject or claims"),
    (MEMBER, {"issuer": "no", "subject": "x"}, f"{AT_MEMBER}.issuer", "'no' is"),
    (MEMBER, {"issuer": "registered", "any_subject": True}, f"{AT_MEMBER}.issuer", "'registered' is not an issuer"),
    (MEMBER, {"subject": "x"}, AT_MEMBER, "name an agent, or an issuer"),
    (MEMBER, {"issuer": "mesh", "any_subject": False}, f"{AT_MEMBER}.any_subject", "may only be true"),
    (MEMBER, {"issuer": "mesh", "subject": "x", "any_subject": True}, f"{AT_MEMBER}.any_subject", "contradicts"),
    (MEMBER, {"issuer": "mesh", "claims": {}}, f"{AT_MEMBER}.claims", "be empty"),
    (MEMBER, {"issuer": "mesh", "claims": {"a": []}}, f"{AT_MEMBER}.claims.a", "must not be empty"),
    (MEMBER, {"issuer": "mesh", "claims": {"a": ""}}, f"{AT_MEMBER}.claims.a", "must be printable text"),
    (MEMBER, {"issuer": "mesh", "claims": {"sub": "x"}}, f"{AT_MEMBER}.claims.sub", "write subject instead"),
    (MEMBER, {"issuer": "mesh", "subject": 5}, f"{AT_MEMBER}.subject", "quotes"),
    (MEMBER, {"issuer": "mesh", "subject": "*"}, f"{AT_MEMBER}.subject", "alone"),
    (MEMBER, {"issuer": "mesh", "subject": "*/*"}, f"{AT_MEMBER}.subject", "alone"),
    (MEMBER, {"issuer": "mesh", "subject": "a/**"}, f"{AT_MEMBER}.subject", "one"),
    (
        MEMBER,
        {"issuer": "prod-cluster", "subject": "system:serviceaccount:support:*"},
        f"{AT_MEMBER}.subject",
        "one whole segment",
    ),
    (
        MEMBER,
        {"issuer": "mesh", "subject": {"regex": "(a+)+"}},
        f"{AT_MEMBER}.subject.regex",
        "a group may be optional",
    ),
    (MEMBER, {"issuer": "mesh", "subject": {"glob": "a"}}, f"{AT_MEMBER}.subject.glob", "unknown key"),
    (MEMBER, {"issuer": "mesh", "subject": {"regex": 5}}, f"{AT_MEMBER}.subject.regex", "must be text"),
    (MEMBER, {"agent": ""}, f"{AT_MEMBER}.agent", "must be printable text"),
    (
        MEMBER,
        {"issuer": "gitlab", "subject": ["x", {"regex": "project_path:acme/.+"}]},
        AT_MEMBER,
        "project_path is a name that can change hands",
    ),
    # names where the platform has immutable ids
    (
        MEMBER,
        {**GITHUB, "subject": "repo:acme/web:environment:prod"},
        AT_MEMBER,
        "claims must name repository_id or repository_owner_id exactly",
    ),
    (MEMBER, {**GITHUB, "claims": {"repository": "acme/web"}}, AT_MEMBER, "claims must name repository_id"),
    (MEMBER, {**GITHUB, "claims": {"environment": "prod"}}, AT_MEMBER, "claims must name repository_id"),
    (MEMBER, {**GITHUB, "claims": {"repository_id": {"regex": "[0-9]+"}}}, AT_MEMBER, "claims must name repository_id"),
    (MEMBER, {**GITHUB, "any_subject": True}, AT_MEMBER, "claims must name repository_id"),
    (
        MEMBER,
        {"issuer": "gitlab", "claims": {"project_path": "acme/web"}},
        AT_MEMBER,
        "project_path is a name that can change hands",
    ),
    (
        MEMBER,
        {"issuer": "gitlab", "subject": "project_path:acme/web:ref_type:branch:ref:main"},
        AT_MEMBER,
        "project_path is a name that can change hands",
    ),
]


@pytest.mark.parametrize(("keys", "value", "path", "reason"), BAD)
def test_bad_policies(keys: list[str | int], value: object, path: str, reason: str) -> None:
    """One thing is wrong; its place and its reason are told, and nothing is loaded."""
    found = problems(put(DOCUMENT, keys, value))
    assert any(place == path and reason in why for place, why in found), found
