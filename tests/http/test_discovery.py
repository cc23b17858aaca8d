from __future__ import annotations

import json

import jwt
import pytest

from broker.core.errors import Code
from broker.core.policy import OPERATOR_SCOPES
from tests.support.broker_app import BrokerApp

METADATA = "/.well-known/oauth-authorization-server"
OPENID = "/.well-known/openid-configuration"
RESOURCE = "/.well-known/oauth-protected-resource"
JWKS = "/oauth2/jwks.json"
PUBLIC = (METADATA, OPENID, RESOURCE, f"{RESOURCE}/v1", JWKS)


async def test_the_server_metadata(app: BrokerApp) -> None:
    """The metadata names the configured issuer and what works, and has what strict clients miss (pitfall 1; B.1)."""
    body = (await app.call("GET", METADATA)).json
    assert body["issuer"] == app.issuer
    for name in ("authorization", "token", "revocation", "introspection"):
        assert body[f"{name}_endpoint"].startswith(f"{app.issuer}/oauth2/")
    assert body["jwks_uri"] == app.issuer + JWKS
    assert body["response_types_supported"] == ["none"]
    assert body["grant_types_supported"] == [
        "client_credentials",
        "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "urn:ietf:params:oauth:grant-type:token-exchange",
        "urn:openid:params:grant-type:ciba",
    ]
    assert body["token_endpoint_auth_methods_supported"] == ["private_key_jwt", "none"]
    assert body["revocation_endpoint_auth_methods_supported"] == ["private_key_jwt"]
    assert body["introspection_endpoint_auth_methods_supported"] == ["private_key_jwt"]
    assert "ES256" in body["token_endpoint_auth_signing_alg_values_supported"]
    assert "RS256" in body["id_token_signing_alg_values_supported"]
    assert not any("secret" in str(value) for value in body.values())
    assert (await app.call("GET", OPENID)).json == body


async def test_every_endpoint_that_is_named_exists(app: BrokerApp) -> None:
    """No URL in the metadata leads nowhere."""
    body = (await app.call("GET", METADATA)).json
    for name, url in body.items():
        if name.endswith(("_endpoint", "_uri")):
            reply = await app.call("GET", str(url).removeprefix(app.issuer))
            assert reply.status != 404, name


async def test_the_algorithms_that_are_named_work(app: BrokerApp) -> None:
    """Each algorithm for client assertions is one that the verifier takes."""
    named = (await app.call("GET", METADATA)).json["token_endpoint_auth_signing_alg_values_supported"]
    assert {"ES256", "ES384", "RS256", "PS256"} <= set(named)
    assert not any(name.startswith("HS") or name == "none" for name in named)


async def test_the_api_as_a_protected_resource(app: BrokerApp) -> None:
    """The broker's own API describes itself, at the path of its URL and at the root (B.9; RFC 9728)."""
    body = (await app.call("GET", f"{RESOURCE}/v1")).json
    assert body["resource"] == f"{app.issuer}/v1"
    assert body["authorization_servers"] == [app.issuer]
    assert body["bearer_methods_supported"] == ["header"]
    assert set(body["scopes_supported"]) <= set(OPERATOR_SCOPES)
    assert "revocations:write" in body["scopes_supported"]
    assert (await app.call("GET", RESOURCE)).json == body


async def test_the_keys_verify_tokens(app: BrokerApp) -> None:
    """A token verifies with the published key that it names; no private member is published."""
    reply = await app.call("GET", JWKS)
    assert reply.headers["Content-Type"] == "application/json"
    token = await app.token("alpha")
    keys = jwt.PyJWKSet.from_json(reply.body.decode())
    key = next(key for key in keys.keys if key.key_id == jwt.get_unverified_header(token)["kid"])
    assert jwt.decode(token, key, algorithms=["ES256"], audience="https://tickets.internal")["sub"] == "alpha"
    algorithms = {member["alg"] for member in reply.json["keys"]}
    assert {"ES256", "RS256"} <= algorithms
    assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & {name for member in reply.json["keys"] for name in member}


@pytest.mark.parametrize("path", PUBLIC)
async def test_public_documents_are_for_everybody(app: BrokerApp, path: str) -> None:
    """Any page may read them (CORS), they may be kept for a while, and a copy that is current is not sent again."""
    reply = await app.call("GET", path)
    assert reply.status == 200
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert reply.headers["Cache-Control"] == "public, max-age=300"
    assert "WWW-Authenticate" not in reply.headers
    tag = reply.headers["ETag"]
    for known in (tag, f'"other", {tag}', "*", f"W/{tag}"):
        again = await app.call("GET", path, headers={"If-None-Match": known})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["ETag"] == tag
        assert again.headers["Access-Control-Allow-Origin"] == "*"
    changed = await app.call("GET", path, headers={"If-None-Match": '"other"'})
    assert changed.body == reply.body


@pytest.mark.parametrize("path", PUBLIC)
async def test_preflight_and_head(app: BrokerApp, path: str) -> None:
    """A browser may ask first, and anyone for the header alone; a wrong method names the right ones."""
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    preflight = await app.call("OPTIONS", path, headers=asked)
    assert preflight.status == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == "*"
    assert "GET" in preflight.headers["Access-Control-Allow-Methods"]
    head = await app.call("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["Content-Length"]) > 0
    refused = await app.call("POST", path)
    assert refused.status == 405
    assert refused.headers["Allow"] == "GET, HEAD, OPTIONS"


async def test_the_private_api_is_not_for_other_sites(app: BrokerApp) -> None:
    """Nothing but the public documents may be read by other pages."""
    operator = await app.operator()
    reply = await app.call("GET", "/v1/agents", token=operator, headers={"Origin": "https://app.example"})
    assert reply.status == 200
    assert "Access-Control-Allow-Origin" not in reply.headers
    assert (await app.call("OPTIONS", "/v1/agents")).status == 405


async def test_there_is_no_code_flow(app: BrokerApp) -> None:
    """The authorization endpoint is a page that says no; it never sends anybody anywhere."""
    query = {"response_type": "code", "client_id": "alpha", "redirect_uri": "https://evil.example", "state": "<b>"}
    reply = await app.call("GET", "/oauth2/authorize", params=query)
    assert reply.status == 400
    assert reply.headers["Content-Type"].startswith("text/html")
    assert "Location" not in reply.headers
    assert b"evil" not in reply.body
    assert b"<b>" not in reply.body


async def test_every_error_code_has_a_page(app: BrokerApp) -> None:
    """The type URI of a problem leads to its meaning."""
    for code in Code:
        reply = await app.call("GET", f"/problems/{code.value}")
        assert reply.status == 200
        assert json.loads(reply.body)["code"] == code.value
    assert (await app.call("GET", "/problems/made_up")).status == 404


async def test_the_host_header_changes_nothing(app: BrokerApp) -> None:
    """Metadata comes from the configuration, never from what a request says about its host."""
    usual = await app.call("GET", METADATA)
    forged = await app.call("GET", METADATA, headers={"Host": "evil.example", "X-Forwarded-Proto": "https"})
    assert forged.body == usual.body
