from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from broker.core.change import Change, Receipt
from broker.core.errors import Code, Unavailable
from broker.core.selector import Selector
from broker.revocation import Order
from broker.signing.access_token import AccessTokenSigner
from tests.support.broker_app import ASSERTION_TYPE, HERE, TICKETS, BrokerApp, Reply

INTROSPECT = "/oauth2/introspect"
REVOKE = "/oauth2/revoke"


def _jti(token: str) -> str:
    return str(jwt.decode(token, options={"verify_signature": False})["jti"])


async def _introspect(app: BrokerApp, token: str, name: str = "gateway") -> Reply:
    form = {"token": token, "client_assertion": app.assertion(name), "client_assertion_type": ASSERTION_TYPE}
    return await app.call("POST", INTROSPECT, data=form)


async def _revoke(app: BrokerApp, token: str, name: str = "alpha", **extra: str) -> Reply:
    form = {"token": token, "client_assertion": app.assertion(name), "client_assertion_type": ASSERTION_TYPE, **extra}
    return await app.call("POST", REVOKE, data=form)


async def test_a_resource_server_learns_what_it_needs(app: BrokerApp) -> None:
    """A server of the audience is told everything about a live token, and may not store it (B.7)."""
    token = await app.token("alpha")
    reply = await _introspect(app, token)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Cache-Control"] == "no-store"
    body = reply.json
    assert body["active"] is True
    assert body["token_type"] == "Bearer"
    claims = jwt.decode(token, options={"verify_signature": False})
    assert {name: body[name] for name in claims} == claims


async def test_a_stranger_to_the_token_learns_nothing(app: BrokerApp) -> None:
    """An authenticated server of another audience is told that it is inactive, and nothing else (pitfall 20)."""
    token = await app.token("alpha")
    reply = await _introspect(app, token, "beta")
    assert reply.status == 200
    assert reply.json == {"active": False}
    assert (await _introspect(app, token, "alpha")).json["active"] is True


@pytest.mark.parametrize("token", ["x", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "\u00e4", " ", "x" * 60_000])
async def test_what_is_no_token_is_inactive(app: BrokerApp, token: str) -> None:
    """Anything that is not a good token is inactive, whatever it is."""
    assert (await _introspect(app, token)).json == {"active": False}


async def test_an_operator_sees_all_with_a_token(app: BrokerApp) -> None:
    """The scope ``operator:read`` shows any token; it is presented as a bearer token."""
    token = await app.token("alpha")
    operator = await app.operator("operator:read")
    reply = await app.call("POST", INTROSPECT, token=operator, data={"token": token})
    assert reply.json["active"] is True


async def test_a_revoked_token_is_inactive_at_once(app: BrokerApp) -> None:
    """Introspection knows of a revocation as soon as it is answered."""
    token = await app.token("alpha")
    order = Order(selector=Selector(agent="alpha"), reason="test", by="operator")
    await app.services.revocation.revoke(order, HERE)
    assert (await _introspect(app, token)).json == {"active": False}


@pytest.mark.parametrize(
    ("form", "headers", "error"),
    [
        ({}, {}, "invalid_client"),
        ({"client_assertion": "a.b.c", "client_assertion_type": ASSERTION_TYPE}, {}, "invalid_client"),
        ({"client_id": "alpha", "client_secret": "x"}, {}, "invalid_client"),
        ({}, {"Authorization": "Bearer abc"}, "invalid_token"),
        ({}, {"Authorization": "Bearer a b"}, "invalid_token"),
        ({}, {"Authorization": "Basic YTpi"}, "invalid_client"),
    ],
)
async def test_introspection_is_for_callers_that_are_known(
    app: BrokerApp, form: dict[str, str], headers: dict[str, str], error: str
) -> None:
    """Whoever is not authenticated gets 401 with a challenge that fits, and learns nothing (pitfall 5)."""
    token = await app.token("alpha")
    reply = await app.call("POST", INTROSPECT, data={"token": token, **form}, headers=headers)
    assert reply.status == 401
    assert reply.json["error"] == error
    assert reply.challenges
    assert "active" not in reply.json
    expected = "Basic" if headers.get("Authorization", "").startswith("Basic") else "Bearer"
    assert reply.challenges[0].startswith(expected)


async def test_a_token_and_an_assertion_at_once_are_ambiguous(app: BrokerApp) -> None:
    """One way to authenticate, here too."""
    form = {"token": "x", "client_assertion": app.assertion("alpha"), "client_assertion_type": ASSERTION_TYPE}
    reply = await app.call("POST", INTROSPECT, token=await app.operator(), data=form)
    assert (reply.status, reply.json["error"]) == (400, "invalid_request")


async def test_the_token_parameter_is_needed(app: BrokerApp) -> None:
    """A request about no token is malformed."""
    for path in (INTROSPECT, REVOKE):
        reply = await app.call("POST", path, token=await app.operator(), data={"token": ""})
        assert (reply.status, reply.json["error"]) == (400, "invalid_request")


async def test_a_replayed_assertion_introspects_nothing(app: BrokerApp) -> None:
    """An assertion is used up here as well."""
    form = {"token": "x", "client_assertion": app.assertion("alpha"), "client_assertion_type": ASSERTION_TYPE}
    assert (await app.call("POST", INTROSPECT, data=form)).status == 200
    reply = await app.call("POST", INTROSPECT, data=form)
    assert (reply.status, reply.json["code"]) == (401, "assertion_replayed")


async def test_an_owner_revokes_its_token(app: BrokerApp) -> None:
    """The owner's token is dead when 200 is answered, its other tokens live, and the ledger says who did it."""
    token, other = await app.token("alpha"), await app.token("alpha")
    reply = await _revoke(app, token, token_type_hint="access_token")
    assert reply.status == 200
    assert reply.body == b""
    assert (await _introspect(app, token)).json == {"active": False}
    assert (await _introspect(app, other)).json["active"] is True
    (entry,) = await app.entries("rule.added")
    assert entry["by"] == "alpha"
    assert entry["selector"] == {"token": _jti(token)}


async def test_nobody_elses_token(app: BrokerApp) -> None:
    """Whoever is not the owner gets the same answer, and nothing happens."""
    token = await app.token("alpha")
    reply = await _revoke(app, token, "beta")
    assert (reply.status, reply.body) == (200, b"")
    assert (await _introspect(app, token)).json["active"] is True
    assert await app.entries("rule.added") == []


async def test_an_operator_revokes_any_token(app: BrokerApp) -> None:
    """The scope ``revocations:write`` is enough; another scope is not."""
    token = await app.token("alpha")
    reader = await app.operator("operator:read")
    assert (await app.call("POST", REVOKE, token=reader, data={"token": token})).status == 200
    assert (await _introspect(app, token)).json["active"] is True
    writer = await app.operator("revocations:write")
    assert (await app.call("POST", REVOKE, token=writer, data={"token": token})).status == 200
    assert (await _introspect(app, token)).json == {"active": False}


@pytest.mark.parametrize("token", ["x", "a.b.c", "x" * 60_000])
async def test_revoking_what_is_no_token(app: BrokerApp, token: str) -> None:
    """A token that means nothing is already as dead as can be: 200, and no rule (RFC 7009, 2.2)."""
    assert (await _revoke(app, token)).status == 200
    assert await app.entries("rule.added") == []


async def test_revoking_twice_makes_one_rule(app: BrokerApp) -> None:
    """A dead token needs no second rule."""
    token = await app.token("alpha")
    assert (await _revoke(app, token)).status == 200
    assert (await _revoke(app, token)).status == 200
    assert len(await app.entries("rule.added")) == 1


async def test_revoking_needs_a_known_caller(app: BrokerApp) -> None:
    """Without authentication it is ``invalid_client``, 400; with a bad token 401 and a challenge."""
    token = await app.token("alpha")
    reply = await app.call("POST", REVOKE, data={"token": token})
    assert (reply.status, reply.json["error"], reply.challenges) == (400, "invalid_client", ())
    reply = await app.call("POST", REVOKE, data={"token": token}, token="abc")
    assert (reply.status, reply.json["error"]) == (401, "invalid_token")
    assert reply.challenges


class _Broken:
    async def commit(self, change: Change) -> Receipt:
        raise Unavailable(Code.LEDGER_UNAVAILABLE, "the ledger cannot be written")


async def test_revoking_works_without_the_ledger(app: BrokerApp) -> None:
    """The token is dead at once even if that cannot be written yet, and the answer says so (law 1)."""
    token, operator = await app.token("alpha"), await app.operator()
    app.services.revocation._ledger = _Broken()
    reply = await app.call("POST", REVOKE, token=operator, data={"token": token})
    assert reply.status == 200
    assert reply.json == {"durable": False}
    reply = await app.call("POST", INTROSPECT, token=operator, data={"token": token})
    assert reply.json == {"active": False}


async def test_a_bound_token_needs_its_key_here_too(app: BrokerApp) -> None:
    """At the broker's own API a bound token works with a proof for this very URL, and not as a bearer token (B.6)."""
    key = generate_private_key(SECP256R1())
    form = app.form("operator", audience="broker", scope="operator:read")
    proof = app.proof(key, "POST", f"{app.issuer}/oauth2/token")
    bound = str((await app.ask(form, {"DPoP": proof})).json["access_token"])
    token = await app.token("alpha")

    async def ask(headers: dict[str, Any]) -> Reply:
        return await app.call("POST", INTROSPECT, data={"token": token}, headers=headers)

    proof = app.proof(key, "POST", app.issuer + INTROSPECT, bound)
    assert (await ask({"Authorization": f"DPoP {bound}", "DPoP": proof})).json["active"] is True
    replayed = await ask({"Authorization": f"DPoP {bound}", "DPoP": proof})
    assert (replayed.status, replayed.json["error"]) == (401, "invalid_dpop_proof")
    as_bearer = await ask({"Authorization": f"Bearer {bound}"})
    assert (as_bearer.status, as_bearer.json["error"]) == (401, "invalid_token")
    elsewhere = app.proof(key, "POST", app.issuer + REVOKE, bound)
    assert (await ask({"Authorization": f"DPoP {bound}", "DPoP": elsewhere})).status == 401
    for_another = app.proof(key, "POST", app.issuer + INTROSPECT, token)
    assert (await ask({"Authorization": f"DPoP {bound}", "DPoP": for_another})).status == 401
    stolen = app.proof(generate_private_key(SECP256R1()), "POST", app.issuer + INTROSPECT, bound)
    assert (await ask({"Authorization": f"DPoP {bound}", "DPoP": stolen})).status == 401
    assert (await ask({"Authorization": f"DPoP {bound}"})).status == 401


async def test_a_token_for_another_resource_opens_nothing(app: BrokerApp) -> None:
    """A token for a resource server does not admit its holder to the broker."""
    token = await app.token("alpha", TICKETS)
    reply = await app.call("POST", INTROSPECT, token=token, data={"token": token})
    assert (reply.status, reply.json["code"]) == (401, "token_audience")


async def test_an_expired_token_is_dead_already(app: BrokerApp) -> None:
    """A token of ours that has expired is answered like any dead one, and makes no rule."""
    token = await app.token("alpha")
    claims = app.services.token_check.check(token, time.time(), None).claims
    signer = app.services.issuance._signer
    assert isinstance(signer, AccessTokenSigner)
    old = signer.mint(replace(claims, iat=claims.iat - 5000, exp=claims.iat - 4000))
    assert (await _revoke(app, old.token)).status == 200
    assert await app.entries("rule.added") == []
