from __future__ import annotations

import jwt
import pytest

from tests.support.broker_app import BrokerApp

ROTATE = "/v1/keys/rotate"


def _kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


async def test_keys_are_listed_without_their_private_parts(app: BrokerApp) -> None:
    """An operator sees every key with its times; nothing that is sealed, open or closed, is in the answer."""
    reply = await app.call("GET", "/v1/keys", token=await app.operator())
    keys = reply.json["keys"]
    assert {(key["use"], key["alg"]) for key in keys} >= {("token", "ES256"), ("token", "RS256")}
    for key in keys:
        assert sorted(key) == ["active_at", "alg", "created_at", "kid", "public_jwk", "retires_at", "revoked", "use"]
        assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & set(key["public_jwk"])


async def test_a_rotation_in_good_time(app: BrokerApp) -> None:
    """New keys are published at once and sign later (pitfall 28); old tokens live on."""
    token = await app.operator()
    before = {key["kid"] for key in (await app.call("GET", "/oauth2/jwks.json")).json["keys"]}
    reply = await app.call("POST", ROTATE, token=token, json={})
    assert reply.status == 200
    assert reply.json["revocations"] == []
    after = {key["kid"] for key in (await app.call("GET", "/oauth2/jwks.json")).json["keys"]}
    assert before < after
    fresh = await app.operator()
    assert _kid(fresh) == _kid(token)
    assert (await app.call("GET", "/v1/keys", token=token)).status == 200


async def test_an_emergency(app: BrokerApp) -> None:
    """New keys sign at once, the old ones are published no more, and every token of theirs is dead and on record."""
    operator, victim = await app.operator(), await app.token("alpha")
    reply = await app.call("POST", ROTATE, token=operator, json={"emergency": True, "reason": "key seen in a log"})
    assert reply.status == 200
    rules = reply.json["revocations"]
    assert _kid(victim) in {rule["selector"]["key"] for rule in rules}
    assert all(rule["durable"] and rule["reason"] == "key seen in a log" for rule in rules)
    published = {key["kid"] for key in (await app.call("GET", "/oauth2/jwks.json")).json["keys"]}
    assert _kid(victim) not in published
    assert (await app.call("GET", "/v1/keys", token=operator)).status == 401
    fresh = await app.operator()
    assert _kid(fresh) in published
    reply = await app.call("POST", "/oauth2/introspect", token=fresh, data={"token": victim})
    assert reply.json == {"active": False}


@pytest.mark.parametrize(
    "body",
    [{"emergency": True}, {"emergency": True, "reason": ""}, {"emergency": True, "reason": "a\nb"}, {"urgent": 1}],
)
async def test_an_emergency_needs_a_reason(app: BrokerApp, body: dict[str, object]) -> None:
    """Without a reason that can be recorded nothing is done."""
    token = await app.operator()
    assert (await app.call("POST", ROTATE, token=token, json=body)).status == 400
    assert (await app.call("GET", "/v1/keys", token=token)).status == 200
    assert await app.entries("rule.added") == []
