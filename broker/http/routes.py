"""The route table: every route with what its caller needs. What is not in it does not exist (default deny)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from broker.http import (
    actions,
    agents,
    anchors,
    approvals,
    discovery,
    erasures,
    explanations,
    health,
    keys,
    leases,
    ledger,
    oauth,
    oauth_clients,
    paths,
    policy,
    presence,
    proofs,
    revocations,
    status_lists,
    stream,
    tasks,
)
from broker.http.call import Access, Route
from broker.http.discovery import Discovery
from broker.http.urgency import Urgency

PUBLIC: Final = Access.PUBLIC
CLIENT: Final = Access.CLIENT
HOLDER: Final = Access.HOLDER

REVOKING: Final = Urgency.REVOKING
ISSUING: Final = Urgency.ISSUING

API_ROUTES: Final[tuple[Route, ...]] = (
    Route("POST", "/v1/revocations", "revocations:write", revocations.create, REVOKING, revokes=True),
    Route("GET", "/v1/revocations", "operator:read", revocations.index, REVOKING),
    Route("GET", "/v1/revocations/snapshot", "revocations:read", revocations.snapshot, REVOKING),
    Route("GET", "/v1/revocations/stream", "revocations:read", stream.follow, REVOKING),
    Route("POST", "/v1/revocations/acks", "revocations:read", presence.acknowledge, REVOKING),
    Route("GET", "/v1/revocations/{rule}", "operator:read", revocations.show, REVOKING),
    Route("GET", "/v1/verifiers", "operator:read", presence.verifiers, REVOKING),
    Route("GET", "/v1/replicas", "operator:read", presence.replicas, REVOKING),
    Route("GET", "/v1/blocks", "operator:read", revocations.blocks, REVOKING),
    Route("DELETE", "/v1/blocks/{id}", "revocations:write", revocations.lift, REVOKING),
    Route("POST", "/v1/actions", "actions:reserve", actions.create, ISSUING),
    Route("POST", "/v1/actions/{id}/settle", "actions:reserve", actions.settle, REVOKING),
    Route("GET", "/v1/actions", "operator:read", actions.index),
    Route("GET", "/v1/actions/{id}", "operator:read", actions.show),
    Route("GET", "/v1/approvals", "approvals:read", approvals.index, REVOKING),
    Route("GET", "/v1/approvals/{id}", "approvals:read", approvals.show, REVOKING),
    Route("POST", "/v1/approvals/{id}", "approvals:decide", approvals.decide, REVOKING),
    Route("GET", "/v1/agents", "operator:read", agents.index),
    Route("POST", "/v1/agents", "agents:write", agents.register),
    Route("DELETE", "/v1/agents/{name}", "agents:write", agents.remove, REVOKING),
    Route("POST", "/v1/enrollments", "agents:write", agents.invite),
    Route("POST", "/v1/enrollments/redeem", PUBLIC, agents.redeem, ISSUING),
    Route("GET", "/v1/ledger/entries", "ledger:read", ledger.entries),
    Route("GET", "/v1/ledger/entries/{seq}", "ledger:read", ledger.entry),
    Route("GET", "/v1/ledger/trace/{ref}", "ledger:read", ledger.trace),
    Route("GET", "/v1/ledger/checkpoint", "ledger:read", ledger.checkpoint),
    Route("GET", "/v1/ledger/anchors", "ledger:read", anchors.index),
    Route("GET", "/v1/ledger/proof/{seq}", "ledger:read", ledger.proof),
    Route("GET", "/v1/ledger/consistency", "ledger:read", ledger.consistency),
    Route("GET", "/v1/ledger/receipt/{seq}", "ledger:read", proofs.receipt),
    Route("GET", "/v1/ledger/tile/{tile}", "ledger:read", proofs.tile, deep=True),
    Route("GET", "/v1/receipts/{ref}", HOLDER, proofs.own),
    Route("POST", "/v1/ledger/erasures", "ledger:erase", erasures.create),
    Route("POST", "/v1/leases", "leases:take", leases.create, ISSUING),
    Route("POST", "/v1/leases/confirm", "revocations:write", leases.confirm, REVOKING),
    Route("POST", "/v1/leases/revoke-prefix", "revocations:write", leases.revoke_prefix, REVOKING),
    Route("POST", "/v1/leases/{id}/renew", "leases:take", leases.renew, ISSUING),
    Route("DELETE", "/v1/leases/{id}", "leases:take", leases.give_back, REVOKING),
    Route("GET", "/v1/leases", "leases:read", leases.index),
    Route("GET", "/v1/leases/{id}", "leases:read", leases.show),
    Route("POST", "/v1/leases/{id}/retry", "revocations:write", leases.retry, REVOKING),
    Route("POST", "/v1/leases/{id}/abandon", "revocations:write", leases.abandon, REVOKING),
    Route("GET", "/v1/keys", "operator:read", keys.index),
    Route("POST", "/v1/keys/rotate", "keys:write", keys.rotate, REVOKING),
    Route("POST", "/v1/policy/reload", "policy:write", policy.reload, REVOKING),
    Route("POST", "/v1/policy/explain", "operator:read", explanations.explain),
    Route("GET", "/v1/policy/advice", "operator:read", policy.advice),
    Route("POST", "/v1/tasks", "tasks:open", tasks.create, ISSUING),
    Route("GET", "/v1/tasks", "tasks:read", tasks.index),
    Route("GET", "/v1/tasks/{id}", "tasks:read", tasks.show),
    Route("DELETE", "/v1/tasks/{id}", "tasks:close", tasks.close, REVOKING),
    Route("POST", "/v1/tasks/{id}/heartbeat", "tasks:open", tasks.heartbeat),
)
"""The broker's own API: bearer or DPoP tokens, problem details."""

OAUTH_ROUTES: Final[tuple[Route, ...]] = (
    Route("POST", paths.TOKEN, CLIENT, oauth.token, ISSUING),
    Route("POST", paths.REVOKE, CLIENT, oauth_clients.revoke, REVOKING, revokes=True),
    Route("POST", paths.INTROSPECT, CLIENT, oauth_clients.introspect, protected=True),
    Route("GET", paths.AUTHORIZE, PUBLIC, discovery.authorize),
)

HEALTH_ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", "/healthz", PUBLIC, health.alive, REVOKING),
    Route("GET", "/readyz", PUBLIC, health.ready, REVOKING),
)

METRICS_ROUTES: Final[tuple[Route, ...]] = (*HEALTH_ROUTES, Route("GET", "/metrics", PUBLIC, health.metrics, REVOKING))
"""What the private listener serves, and nothing else."""


def scopes_of(routes: Iterable[Route]) -> frozenset[str]:
    """Return the scopes that routes need."""
    return frozenset(route.access for route in routes if isinstance(route.access, str))


def document_routes(documents: Discovery) -> tuple[Route, ...]:
    """Return the routes of the public documents, which any web page may read."""
    readable = (
        Route("GET", paths.AUTHORIZATION_SERVER, PUBLIC, documents.server),
        Route("GET", paths.OPENID_CONFIGURATION, PUBLIC, documents.server),
        Route("GET", paths.PROTECTED_RESOURCE, PUBLIC, documents.resource),
        Route("GET", paths.API_METADATA, PUBLIC, documents.resource),
        Route("GET", paths.JWKS, PUBLIC, discovery.jwks),
        Route("GET", "/problems/{code}", PUBLIC, discovery.problem),
        Route("GET", paths.STATUS_LIST, PUBLIC, status_lists.show),
    )
    asked_first = tuple(Route("OPTIONS", route.path, PUBLIC, discovery.preflight) for route in readable)
    return (*readable, *asked_first)


def by_place(routes: Iterable[Route]) -> Mapping[tuple[str, str], Route]:
    """Return the table by method and path; a GET route answers HEAD too. Raises ``ValueError`` for two in one place."""
    table: dict[tuple[str, str], Route] = {}
    for route in routes:
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            if table.setdefault((method, route.path), route) is not route:
                msg = f"two routes for {method} {route.path}"
                raise ValueError(msg)
    return table
