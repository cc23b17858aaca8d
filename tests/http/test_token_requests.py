from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from multidict import CIMultiDict, MultiDict

from broker.core.change import Change, Receipt
from broker.core.errors import Code, Unavailable
from tests.support.broker_app import ASSERTION_TYPE, PAYMENTS, TICKETS, BrokerApp, Reply

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
FORM = "application/x-www-form-urlencoded"


def _claims(token: str) -> dict[str, Any]:
    decoded: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return decoded


def _refused(reply: Reply, status: int, error: str, code: str) -> dict[str, Any]:
    body: dict[str, Any] = reply.json
    assert (reply.status, body["error"], body["code"]) == (status, error, code), body
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Cache-Control"] == "no-store"
    return body


async def test_a_token_is_issued(app: BrokerApp) -> None:
    """The answer is what strict clients demand: a number of seconds, one text of scopes, and nothing more (B.2)."""
    reply = await app.ask(app.form("alpha", resource=TICKETS, scope="tickets:read"))
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Cache-Control"] == "no-store"
    body = reply.json
    assert sorted(body) == ["access_token", "expires_in", "scope", "token_type"]
    assert body["token_type"] == "Bearer"
    assert type(body["expires_in"]) is int
    assert body["expires_in"] == 900
    assert body["scope"] == "tickets:read"
    claims = _claims(body["access_token"])
    assert claims["aud"] == TICKETS
    assert claims["sub"] == claims["client_id"] == "alpha"


async def test_what_is_released_is_recorded(app: BrokerApp) -> None:
    """The token is in the ledger by the time it is answered, with the request and trace ids of the answer (law 1)."""
    reply = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read"))
    (entry,) = await app.entries("token.issued")
    assert entry["ref"] == _claims(reply.json["access_token"])["jti"]
    assert entry["request"] == reply.headers["X-Request-Id"]
    assert entry["trace"] == reply.headers["traceparent"].split("-")[1]


async def test_a_token_is_bound_to_a_proven_key(app: BrokerApp) -> None:
    """With a DPoP proof the token is of type DPoP and bound to that key, which tiers can demand."""
    key = generate_private_key(SECP256R1())
    form = app.form("alpha", audience=TICKETS, scope="tickets:comment")
    proof = app.proof(key, "POST", f"{app.issuer}/oauth2/token")
    reply = await app.ask(form, {"DPoP": proof})
    assert reply.status == 200
    assert reply.json["token_type"] == "DPoP"
    assert len(_claims(reply.json["access_token"])["cnf"]) == 1


async def test_the_tier_demands_a_proof(app: BrokerApp) -> None:
    """A scope whose tier needs proof of possession is refused without one, in the words of RFC 9449."""
    reply = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:comment"))
    _refused(reply, 400, "invalid_dpop_proof", "proof_required")


async def test_the_host_header_has_no_say(app: BrokerApp) -> None:
    """What a proof must name is the configured URL, whatever the request says about its host (pitfall 14)."""
    key = generate_private_key(SECP256R1())
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
    form = app.form("alpha", audience=TICKETS, scope="tickets:read")
    proof = app.proof(key, "POST", "http://evil.example/oauth2/token")
    _refused(await app.ask(form, {**headers, "DPoP": proof}), 400, "invalid_dpop_proof", "proof_invalid")
    form = app.form("alpha", audience=TICKETS, scope="tickets:read")
    proof = app.proof(key, "POST", f"{app.issuer}/oauth2/token")
    assert (await app.ask(form, {**headers, "DPoP": proof})).status == 200


async def test_one_proof_only(app: BrokerApp) -> None:
    """Two DPoP headers are refused, both good or not (RFC 9449, 4.3); so is a proof that was used before."""
    key = generate_private_key(SECP256R1())
    proofs = [app.proof(key, "POST", f"{app.issuer}/oauth2/token") for _ in range(2)]
    form = app.form("alpha", audience=TICKETS, scope="tickets:read")
    twice = CIMultiDict([("DPoP", proofs[0]), ("DPoP", proofs[1])])
    async with app.http.post(f"{app.issuer}/oauth2/token", data=form, headers=twice) as response:
        assert response.status == 400
        assert (await response.json())["error"] == "invalid_dpop_proof"
    assert (await app.ask(form, {"DPoP": proofs[0]})).status == 200
    again = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read"), {"DPoP": proofs[0]})
    _refused(again, 400, "invalid_dpop_proof", "proof_replayed")


async def test_basic_authentication_is_challenged(app: BrokerApp) -> None:
    """A client that tries HTTP Basic gets 401 and a Basic challenge; it is the only way to a 401 here (B.2)."""
    form = {"grant_type": "client_credentials", "audience": TICKETS}
    reply = await app.ask(form, {"Authorization": "Basic YWxwaGE6c2VjcmV0"})
    _refused(reply, 401, "invalid_client", "client_authentication_failed")
    assert reply.challenges == ('Basic realm="broker"',)


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ({}, "client_authentication_missing"),
        ({"client_id": "alpha"}, "client_authentication_missing"),
        ({"client_id": "alpha", "client_secret": "hunter2"}, "client_authentication_failed"),
        ({"client_assertion": "a.b.c"}, "client_authentication_failed"),
        ({"client_assertion_type": ASSERTION_TYPE}, "client_authentication_failed"),
        ({"client_assertion": "a.b.c", "client_assertion_type": "urn:x"}, "client_authentication_failed"),
        ({"client_assertion": "a.b.c", "client_assertion_type": ASSERTION_TYPE}, "assertion_invalid"),
    ],
)
async def test_a_client_that_is_not_authenticated(app: BrokerApp, extra: dict[str, str], code: str) -> None:
    """Every way not to be authenticated is ``invalid_client``, 400, without a challenge that would hide the JSON."""
    reply = await app.ask({"grant_type": "client_credentials", "audience": TICKETS, "scope": "tickets:read", **extra})
    _refused(reply, 400, "invalid_client", code)
    assert reply.challenges == ()
    assert await app.entries("token.refused") == []


@pytest.mark.parametrize(
    ("extra", "headers"),
    [
        ({"client_secret": "hunter2"}, {}),
        ({}, {"Authorization": "Basic YWxwaGE6c2VjcmV0"}),
        ({}, {"Authorization": "Bearer abc"}),
        ({}, {"OAuth-Client-Attestation": "a.b.c"}),
    ],
)
async def test_only_one_way_to_authenticate(app: BrokerApp, extra: dict[str, str], headers: dict[str, str]) -> None:
    """A client that uses two methods at once is refused, even if one of them is good."""
    reply = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read", **extra), headers)
    _refused(reply, 400, "invalid_request", "client_authentication_ambiguous")


async def test_two_authorization_headers(app: BrokerApp) -> None:
    """The header that is there twice is no header to believe."""
    twice = CIMultiDict([("Authorization", "Basic YTpi"), ("Authorization", "Basic Yzpk")])
    async with app.http.post(f"{app.issuer}/oauth2/token", data=app.form("alpha"), headers=twice) as response:
        assert response.status == 400


async def test_the_client_id_is_optional_but_must_be_right(app: BrokerApp) -> None:
    """``client_id`` is not demanded (pitfall 9); one that is not the authenticated client is refused."""
    right = app.form("alpha", audience=TICKETS, scope="tickets:read", client_id="alpha")
    assert (await app.ask(right)).status == 200
    wrong = app.form("alpha", audience=TICKETS, scope="tickets:read", client_id="beta")
    _refused(await app.ask(wrong), 400, "invalid_client", "client_authentication_failed")


async def test_an_assertion_works_once(app: BrokerApp) -> None:
    """The same client assertion again is refused, and gets no token."""
    form = app.form("alpha", audience=TICKETS, scope="tickets:read")
    assert (await app.ask(form)).status == 200
    _refused(await app.ask(form), 400, "invalid_client", "assertion_replayed")


@pytest.mark.parametrize("audience", ["token_endpoint", "list", "slash", "other"])
async def test_an_assertion_is_for_the_issuer_alone(app: BrokerApp, audience: str) -> None:
    """The token endpoint's URL, several audiences, and another host are refused as audience (pitfalls 2 and 8)."""
    aud: Any = {
        "token_endpoint": f"{app.issuer}/oauth2/token",
        "list": [app.issuer, "https://other.example"],
        "slash": f"{app.issuer}/",
        "other": "https://other.example",
    }[audience]
    form = app.form("alpha", audience=TICKETS, scope="tickets:read")
    form["client_assertion"] = app.assertion("alpha", aud=aud)
    _refused(await app.ask(form), 400, "invalid_client", "assertion_invalid")


@pytest.mark.parametrize(
    ("change", "status", "error", "code"),
    [
        ({"grant_type": "password"}, 400, "unsupported_grant_type", "unsupported_grant_type"),
        ({"grant_type": "authorization_code"}, 400, "unsupported_grant_type", "unsupported_grant_type"),
        ({"grant_type": ""}, 400, "invalid_request", "malformed_request"),
        ({"audience": ""}, 400, "invalid_target", "audience_required"),
        ({"audience": "https://unknown.internal"}, 400, "invalid_target", "audience_not_allowed"),
        ({"audience": "tickets"}, 400, "invalid_target", "audience_not_allowed"),
        ({"audience": TICKETS + "#part"}, 400, "invalid_target", "audience_not_allowed"),
        ({"audience": TICKETS + "/api"}, 400, "invalid_target", "audience_not_allowed"),
        ({"audience": "https://tickets.internal\u0131"}, 400, "invalid_target", "audience_not_allowed"),
        ({"scope": "tickets:delete"}, 400, "invalid_scope", "scope_not_allowed"),
        ({"scope": "tickets:read tickets:delete"}, 400, "invalid_scope", "scope_not_allowed"),
        ({"scope": "tickets:read  tickets:read"}, 400, "invalid_scope", "scope_malformed"),
        ({"scope": 'tickets:"read"'}, 400, "invalid_scope", "scope_malformed"),
        ({"scope": "tickets:re\u00e4d"}, 400, "invalid_scope", "scope_malformed"),
        ({"scope": " ".join(f"s{number}" for number in range(10_000))}, 400, "invalid_scope", "scope_malformed"),
        ({"scope": ""}, 400, "invalid_scope", "scope_required"),
        ({"task": "../../etc"}, 400, "invalid_request", "task_malformed"),
        ({"task": "t\u00e4sk"}, 400, "invalid_request", "task_malformed"),
        ({"task": "a" * 200}, 400, "invalid_request", "task_malformed"),
        ({"task": "a\nb"}, 400, "invalid_request", "malformed_request"),
        ({"authorization_details": "[]"}, 400, "invalid_authorization_details", "details_invalid"),
        ({"audience": PAYMENTS, "scope": "refunds:create"}, 400, "authorization_pending", "authorization_pending"),
    ],
)
async def test_what_may_not_be_asked(
    app: BrokerApp, change: dict[str, str], status: int, error: str, code: str
) -> None:
    """Each refusal has its OAuth error and its stable code, and a description that any client can show (pitfall 6)."""
    form = app.form("alpha", audience=TICKETS, scope="tickets:read")
    body = _refused(await app.ask({**form, **change}), status, error, code)
    assert body["error_description"].isascii()
    assert '"' not in body["error_description"]


async def test_an_agent_without_a_role(app: BrokerApp) -> None:
    """An agent that is in no role may never ask: ``unauthorized_client``."""
    reply = await app.ask(app.form("gateway", audience=TICKETS, scope="tickets:read"))
    _refused(reply, 400, "invalid_target", "audience_not_allowed")


async def test_a_refusal_can_be_looked_up(app: BrokerApp) -> None:
    """The answer to an authenticated agent quotes the ledger entry that records its refusal."""
    reply = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:delete"))
    body = _refused(reply, 400, "invalid_scope", "scope_not_allowed")
    record = await app.services.records.record_of(body["refusal"])
    assert record is not None
    assert record.members["kind"] == "token.refused"
    assert record.members["agent"] == "alpha"


async def test_a_malformed_request_uses_up_no_assertion(app: BrokerApp) -> None:
    """An agent that mistyped can correct itself with the same assertion: nothing was done yet."""
    form = app.form("alpha", audience=TICKETS, scope="tickets:read")
    _refused(await app.ask({**form, "task": "/"}), 400, "invalid_request", "task_malformed")
    assert (await app.ask(form)).status == 200


@pytest.mark.parametrize(
    ("targets", "status"),
    [
        ([("resource", TICKETS), ("audience", TICKETS)], 200),
        ([("resource", TICKETS), ("resource", TICKETS)], 200),
        ([("resource", "HTTPS://Tickets.Internal:443")], 200),
        ([("resource", TICKETS), ("audience", PAYMENTS)], 400),
        ([("audience", TICKETS), ("audience", "broker")], 400),
        ([("resource", "broker")], 400),
    ],
)
async def test_one_target_per_token(app: BrokerApp, targets: list[tuple[str, str]], status: int) -> None:
    """Naming the same resource again is harmless; two different ones are refused; ``broker`` is no URI."""
    form = MultiDict([*app.form("alpha", scope="tickets:read").items(), *targets])
    reply = await app.ask(form)
    assert reply.status == status
    if status == 400:
        assert reply.json["error"] == "invalid_target"


async def test_the_brokers_own_api_has_a_short_name(app: BrokerApp) -> None:
    """``audience=broker`` is the broker's own API; the token names its URL."""
    token = await app.token("operator", "broker", "operator:read")
    assert _claims(token)["aud"] == f"{app.issuer}/v1"
    token = await app.token("operator", f"{app.issuer}/v1", "operator:read")
    assert _claims(token)["aud"] == f"{app.issuer}/v1"


async def test_a_task_is_carried_along(app: BrokerApp) -> None:
    """A task that is named must have been opened; a request that names none gets one of its own."""
    reply = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read", task="T-8812"))
    _refused(reply, 400, "invalid_request", "task_not_open")
    assert _claims(await app.token("alpha"))["broker"]["task"].startswith("task_")


@pytest.mark.parametrize("name", ["scope", "grant_type", "client_assertion", "task", "made_up"])
async def test_duplicate_parameters(app: BrokerApp, name: str) -> None:
    """No parameter but the targets may be given twice, equal values included (pitfall 7)."""
    form = app.form("alpha", audience=TICKETS, scope="tickets:read", task="t", made_up="x")
    reply = await app.ask(MultiDict([*form.items(), (name, form[name])]))
    _refused(reply, 400, "invalid_request", "duplicate_parameter")


async def test_parameters_of_other_extensions_are_ignored(app: BrokerApp) -> None:
    """A parameter that we do not know changes nothing (RFC 6749, 3.2)."""
    form = app.form("alpha", audience=TICKETS, scope="tickets:read", made_up="x\ny", requested_token_use="on_behalf_of")
    assert (await app.ask(form)).status == 200


async def test_parameters_belong_into_the_body(app: BrokerApp) -> None:
    """Nothing in the URL is a parameter: it would end up in logs on the way."""
    form = app.form("alpha", audience=TICKETS, scope="tickets:read")
    reply = await app.call("POST", "/oauth2/token?scope=tickets:read", data=form)
    _refused(reply, 400, "invalid_request", "malformed_request")


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (FORM, 200),
        (FORM + "; charset=UTF-8", 200),
        (FORM.upper(), 200),
        (FORM + "; charset=latin-1", 400),
        ("application/json", 400),
        ("multipart/form-data; boundary=x", 400),
        ("", 400),
    ],
)
async def test_the_content_type(app: BrokerApp, content_type: str, status: int) -> None:
    """Only a form in UTF-8 is read."""
    body = urlencode(app.form("alpha", audience=TICKETS, scope="tickets:read"))
    reply = await app.call("POST", "/oauth2/token", data=body, headers={"Content-Type": content_type})
    assert reply.status == status, reply.body
    if status == 400:
        _refused(reply, 400, "invalid_request", "unsupported_media_type")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
async def test_other_methods(app: BrokerApp, method: str) -> None:
    """Only POST is allowed, and the answer says so."""
    reply = await app.call(method, "/oauth2/token")
    assert reply.status == 405
    assert reply.headers["Allow"] == "POST"
    if method != "HEAD":
        _refused(reply, 405, "invalid_request", "method_not_allowed")


async def test_a_body_that_is_too_large(app: BrokerApp) -> None:
    """More than 64 KiB is refused, announced or not, and nothing of it is kept."""
    form = app.form("alpha", audience=TICKETS, scope="tickets:read", padding="x" * 70_000)
    _refused(await app.ask(form), 413, "invalid_request", "too_large")

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(80):
            yield b"x" * 1024

    reply = await app.call("POST", "/oauth2/token", data=endless(), headers={"Content-Type": FORM})
    _refused(reply, 413, "invalid_request", "too_large")


async def test_a_compressed_body_is_refused(app: BrokerApp) -> None:
    """Nothing is ever decompressed for a stranger."""
    headers = {"Content-Type": FORM, "Content-Encoding": "gzip"}
    reply = await app.call("POST", "/oauth2/token", data=b"\x1f\x8b" + b"x" * 100, headers=headers)
    _refused(reply, 400, "invalid_request", "unsupported_media_type")


async def test_an_assertion_grant_is_its_own_authentication(app: BrokerApp) -> None:
    """A bad assertion is ``invalid_grant``; one besides a client assertion is ambiguous; none is missing."""
    form = {"grant_type": JWT_BEARER, "audience": TICKETS, "scope": "tickets:read"}
    _refused(await app.ask({**form, "assertion": "a.b.c"}), 400, "invalid_grant", "assertion_invalid")
    _refused(await app.ask(form), 400, "invalid_request", "malformed_request")
    both = {**app.form("alpha", audience=TICKETS, scope="tickets:read", assertion="a.b.c"), "grant_type": JWT_BEARER}
    _refused(await app.ask(both), 400, "invalid_request", "client_authentication_ambiguous")


async def test_a_registered_agents_assertion_is_no_grant(app: BrokerApp) -> None:
    """What authenticates a client is not an assertion grant: the two are kept apart."""
    form = {"grant_type": JWT_BEARER, "assertion": app.assertion("alpha"), "audience": TICKETS, "scope": "tickets:read"}
    _refused(await app.ask(form), 400, "invalid_grant", "assertion_invalid")


async def test_the_rate_limit(app: BrokerApp) -> None:
    """Above the role's limit the answer is 429, and says in headers and body when to come back (B.2, step 6)."""
    for _ in range(100):
        await app.token("alpha")
    reply = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read"))
    _refused(reply, 429, "temporarily_unavailable", "rate_limited")
    wait = int(reply.headers["Retry-After"])
    assert 0 < wait <= 70
    assert reply.headers["RateLimit"] == f'"default";r=0;t={wait}'
    assert await app.token("beta")


class _Broken:
    """A ledger that cannot write."""

    async def commit(self, change: Change) -> Receipt:
        raise Unavailable(Code.LEDGER_UNAVAILABLE, "the ledger cannot be written: the disk is full")


async def test_no_record_no_token(app: BrokerApp) -> None:
    """While the ledger cannot write, nothing is issued: 503, when to try again, and no credential in it (law 1)."""
    app.services.issuance._ledger = _Broken()
    reply = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read"))
    _refused(reply, 503, "temporarily_unavailable", "ledger_unavailable")
    assert int(reply.headers["Retry-After"]) > 0
    assert b"access_token" not in reply.body
    assert b"eyJ" not in reply.body


async def test_an_expired_assertion(app: BrokerApp) -> None:
    """An assertion that has expired, or lives too long, is refused."""
    now = int(time.time())
    for exp in (now - 100, now + 7200):
        form = app.form("alpha", audience=TICKETS, scope="tickets:read")
        form["client_assertion"] = app.assertion("alpha", exp=exp, iat=now - 200)
        _refused(await app.ask(form), 400, "invalid_client", "assertion_invalid")
