"""Policies for tests: a small document that compiles, and how to change it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from broker.core.errors import Code
from broker.core.policy import Policy, PolicyError, compile_policy

ISSUER = "https://broker.example"
BROKER_AUDIENCE = "https://broker.example/v1"
TICKETS = "https://tickets.internal"
PAYMENTS = "https://payments.internal"

DOCUMENT: dict[str, Any] = {
    "version": 1,
    "issuers": {
        "prod-cluster": {"preset": "kubernetes", "issuer": "https://oidc.cluster.example"},
        "github": {"preset": "github-actions"},
        "mesh": {"preset": "spiffe", "trust_domain": "corp.example", "bundle_url": "https://bundle.corp.example"},
        "gitlab": {"preset": "oidc", "issuer": "https://gitlab.example"},
    },
    "audiences": {
        TICKETS: {
            "scopes": {"tickets:read": {"tier": "read"}, "tickets:comment": {"tier": "write"}},
            "served_by": [{"agent": "tickets-server"}],
        },
        PAYMENTS: {"scopes": {"refunds:read": {"tier": "read"}, "refunds:create": {"tier": "sensitive"}}},
    },
    "secrets": {"orders-db": {"backend": "vault", "path": "database/creds/orders-ro", "tier": "read"}},
    "tiers": {
        "read": {"max_ttl": "15m"},
        "write": {"max_ttl": "10m", "proof_of_possession": "required"},
        "sensitive": {"max_ttl": "5m", "approval": {"approvers": "finance", "quorum": 1, "expires": "10m"}},
    },
    "roles": {
        "support-triage": {
            "members": [{"issuer": "prod-cluster", "subject": "system:serviceaccount:support:triage"}],
            "allow": [
                {"audience": TICKETS, "scopes": ["tickets:read", "tickets:comment"]},
                {"audience": PAYMENTS, "scopes": ["refunds:create"]},
                {"secret": "orders-db"},
            ],
            "limits": {"tokens_per_minute": 30, "role_tokens_per_minute": 300, "task_ttl": "1h"},
            "may_delegate_to": ["support-reader"],
        },
        "support-reader": {
            "members": [{"agent": "reader"}],
            "allow": [{"audience": TICKETS, "scopes": ["tickets:read"], "default_scopes": ["tickets:read"]}],
        },
        "finance": {
            "members": [{"agent": "boss"}],
            "allow": [{"audience": "broker", "scopes": ["approvals:read", "approvals:decide"]}],
        },
    },
}
"""A sound policy document with something of everything. Copy it before changing it."""


def document(**parts: object) -> dict[str, Any]:
    """Return a copy of the document with some of its top members replaced."""
    return {**copy.deepcopy(DOCUMENT), **parts}


def compiled(data: dict[str, Any] | None = None, **parts: object) -> Policy:
    """Compile a document (by default the one above) with some of its top members replaced."""
    chosen = document(**parts) if data is None else data
    return compile_policy(chosen, broker_audience=BROKER_AUDIENCE, broker_issuer=ISSUER)


def put(data: dict[str, Any], path: list[str | int], value: object) -> dict[str, Any]:
    """Return a copy of a document with one value replaced (or added)."""
    changed = copy.deepcopy(data)
    inner: Any = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def problems(data: object) -> list[tuple[str, str]]:
    """Return the problems of what is no policy, as (path, reason)."""
    with pytest.raises(PolicyError) as caught:
        compile_policy(data, broker_audience=BROKER_AUDIENCE, broker_issuer=ISSUER)  # type: ignore[arg-type]
    assert caught.value.code is Code.POLICY_INVALID
    return [(problem.path, problem.reason) for problem in caught.value.problems]
