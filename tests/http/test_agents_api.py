from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key

from broker.core.enrollment_proof import TYPE, code_id
from broker.core.jwk import public_jwk, thumbprint
from tests.support.broker_app import BrokerApp, Reply

PATH = "/v1/agents"
REDEEM = "/v1/enrollments/redeem"


def _key() -> tuple[EllipticCurvePrivateKey, dict[str, str]]:
    key = generate_private_key(SECP256R1())
    return key, public_jwk(key.public_key())


def _proof(app: BrokerApp, key: EllipticCurvePrivateKey, code: str, typ: str | None = TYPE, **claims: object) -> str:
    now = int(time.time())
    payload: dict[str, Any] = {"aud": app.issuer, "iat": now, "exp": now + 60, "jti": code_id(code), **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key, algorithm="ES256", headers={"typ": typ})


async def _invite(app: BrokerApp, name: str) -> str:
    reply = await app.call("POST", "/v1/enrollments", token=await app.operator(), json={"name": name})
    assert reply.status == 201
    assert reply.headers["Cache-Control"] == "no-store"
    return str(reply.json["code"])


async def _redeem(app: BrokerApp, code: str, jwk: dict[str, str], proof: str) -> Reply:
    return await app.call("POST", REDEEM, json={"code": code, "jwk": jwk, "proof": proof})


async def test_agents_are_registered_listed_and_removed(app: BrokerApp) -> None:
    """A registered agent can authenticate; its name cannot be taken twice; a removed one is forgotten."""
    token, (_, jwk) = await app.operator(), _key()
    reply = await app.call("POST", PATH, token=token, json={"name": "delta", "jwk": jwk})
    assert reply.status == 201
    assert reply.headers["Location"] == "/v1/agents/delta"
    assert reply.json["key"] == thumbprint(jwk)
    assert reply.json["created_by"] == "operator"
    again = await app.call("POST", PATH, token=token, json={"name": "delta", "jwk": jwk})
    assert (again.status, again.json["code"]) == (409, "conflict")
    listed = (await app.call("GET", PATH, token=token)).json["agents"]
    assert [agent["name"] for agent in listed] == ["alpha", "beta", "delta", "gateway", "operator"]
    gone = await app.call("DELETE", f"{PATH}/delta", token=token)
    assert (gone.status, gone.body) == (204, b"")
    missing = await app.call("DELETE", f"{PATH}/delta", token=token)
    assert (missing.status, missing.json["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "Delta"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 200}, "name"),
        ({"name": "d\u0435lta"}, "name"),
        ({"jwk": {}}, "key"),
        ({"jwk": {"kty": "oct", "k": "AAAA"}}, "key"),
        ({"jwk": "text"}, "jwk"),
        ({"role": "admin"}, "role"),
    ],
)
async def test_bad_registrations(app: BrokerApp, change: dict[str, object], named: str) -> None:
    """A bad name or key is refused, and the refusal names it."""
    reply = await app.call("POST", PATH, token=await app.operator(), json={"name": "delta", "jwk": _key()[1], **change})
    assert reply.status == 400
    assert named in reply.json["detail"]


async def test_a_private_key_must_not_travel(app: BrokerApp) -> None:
    """A key that is sent with its private part is refused, and not repeated anywhere."""
    jwk = {**_key()[1], "d": "c2VjcmV0LXByaXZhdGUtcGFydA"}
    reply = await app.call("POST", PATH, token=await app.operator(), json={"name": "delta", "jwk": jwk})
    assert reply.status == 400
    assert "c2VjcmV0" not in reply.body.decode() + str(app.events.lines) + str(await app.entries())


async def test_an_agent_enrols_itself(app: BrokerApp) -> None:
    """With a code and the proof of its key an agent registers, once; then it can authenticate with that key."""
    code, (key, jwk) = await _invite(app, "epsilon"), _key()
    reply = await _redeem(app, code, jwk, _proof(app, key, code))
    assert reply.status == 201
    assert reply.json["name"] == "epsilon"
    app.keys["epsilon"] = key
    refused = await app.ask(app.form("epsilon", audience="broker", scope="operator:read"))
    assert refused.json["error"] == "unauthorized_client"  # known, but in no role
    again = await _redeem(app, code, jwk, _proof(app, key, code))
    assert (again.status, again.json["code"]) == (400, "enrollment_invalid")


async def test_a_new_code_replaces_a_key(app: BrokerApp) -> None:
    """A code for a registered name gives it a new key, and the old one is good no more."""
    code, (key, jwk) = await _invite(app, "alpha"), _key()
    assert (await _redeem(app, code, jwk, _proof(app, key, code))).status == 201
    refused = await app.ask(app.form("alpha", audience="https://tickets.internal", scope="tickets:read"))
    assert refused.json["code"] == "assertion_invalid"
    app.keys["alpha"] = key
    assert await app.token("alpha")


@pytest.mark.parametrize(
    ("change", "typ"),
    [
        ({"jti": "another"}, TYPE),
        ({"jti": None}, TYPE),
        ({"aud": "https://other.example"}, TYPE),
        ({"aud": None}, TYPE),
        ({"exp": 1, "iat": 0}, TYPE),
        ({"exp": int(time.time()) + 4000}, TYPE),
        ({"exp": None}, TYPE),
        ({}, "JWT"),
        ({}, "dpop+jwt"),
        ({}, None),
    ],
)
async def test_the_key_must_be_shown_to_be_held(app: BrokerApp, change: dict[str, object], typ: str | None) -> None:
    """A proof for another code, broker or time, or of another type, registers nothing, and the code stays good."""
    code, (key, jwk) = await _invite(app, "epsilon"), _key()
    reply = await _redeem(app, code, jwk, _proof(app, key, code, typ, **change))
    assert (reply.status, reply.json["code"]) == (400, "enrollment_invalid")
    assert (await _redeem(app, code, jwk, _proof(app, key, code))).status == 201


async def test_somebody_elses_key_cannot_be_registered(app: BrokerApp) -> None:
    """A proof signed with another key than the one to be registered is refused."""
    code, (_, jwk), (other, _) = await _invite(app, "epsilon"), _key(), _key()
    reply = await _redeem(app, code, jwk, _proof(app, other, code))
    assert (reply.status, reply.json["code"]) == (400, "enrollment_invalid")
    assert await app.services.records.registered_agent("epsilon") is None


@pytest.mark.parametrize("code", ["q" * 43, "x", "\u00e4", "\\ud800"])
async def test_a_guess_leaves_nothing_behind(app: BrokerApp, code: str) -> None:
    """A wrong code is refused and costs nothing lasting (law 10); the refusal does not say what was wrong."""
    size, (key, jwk) = len(await app.entries()), _key()
    reply = await _redeem(app, code, jwk, _proof(app, key, code))
    assert (reply.status, reply.json["code"]) == (400, "enrollment_invalid")
    assert len(await app.entries()) == size


async def test_a_code_is_never_written_down(app: BrokerApp) -> None:
    """The code is in one answer, and in no log line and no ledger entry."""
    code, (key, jwk) = await _invite(app, "epsilon"), _key()
    await _redeem(app, code, jwk, _proof(app, key, code))
    assert code not in str(app.events.lines)
    assert code not in str(await app.entries())


@pytest.mark.parametrize(
    "body", [{}, {"code": "x"}, {"code": "", "jwk": {}, "proof": "x"}, {"code": "x" * 300, "jwk": {}, "proof": "x"}]
)
async def test_bad_redemptions(app: BrokerApp, body: dict[str, object]) -> None:
    """What is not a redemption is refused before anything is looked up."""
    reply = await app.call("POST", REDEEM, json=body)
    assert (reply.status, reply.json["code"]) == (400, "malformed_request")
