from __future__ import annotations

import time
import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from multidict import CIMultiDict

from broker.core.change import Change, Receipt
from broker.core.errors import Code, Unavailable
from tests.support.broker_app import TICKETS, BrokerApp, Reply

PATH = "/v1/revocations"


async def _revoke(app: BrokerApp, body: dict[str, Any], key: str | None = None, token: str | None = None) -> Reply:
    headers = {"Idempotency-Key": str(uuid.uuid4()) if key is None else key}
    return await app.call("POST", PATH, token=token or await app.operator(), json=body, headers=headers)


async def _is_alive(app: BrokerApp, token: str) -> bool:
    reply = await app.call("POST", "/oauth2/introspect", token=await app.operator(), data={"token": token})
    return bool(reply.json["active"])


async def test_a_revocation_and_its_preview_look_alike(app: BrokerApp) -> None:
    """What an operator sees before is what they get after: the same members, the same counts (part A)."""
    for _ in range(2):
        await app.token("alpha")
    victim = await app.token("alpha")
    bystander = await app.token("beta")
    body = {
        "selector": {"agent": "alpha"},
        "reason": "seen in ticket 8812",
        "incident": "inc_1",
        "block": {"for": "1h"},
    }
    token = await app.operator()
    preview = await app.call("POST", PATH, token=token, json={**body, "preview": True})
    assert preview.status == 200
    assert await _is_alive(app, victim)
    before = preview.json
    assert before["hits"]["tokens"] == 3
    assert before["hits"]["tasks"] == 3
    assert before["hits"]["agents"] == 1
    expiry = datetime.fromisoformat(before["hits"]["latest_expiry"]).timestamp()
    assert 0 < expiry - time.time() <= 901
    assert (before["rule"], before["preview"], before["block"]["id"]) == (None, True, None)

    reply = await _revoke(app, body, token=token)
    assert reply.status == 201
    after = reply.json
    assert set(after) <= set(before)
    assert after["rule"] == 1
    assert reply.headers["Location"] == "/v1/revocations/1"
    assert after["selector"] == {"agent": "alpha"}
    assert (after["reason"], after["incident"], after["by"]) == ("seen in ticket 8812", "inc_1", "operator")
    assert after["hits"] is None or after["hits"] == before["hits"]
    assert after["durable"] is True
    told = ("applied", "replicas", "replicas_applied", "verifiers", "waiting_for", "refusing", "reason")
    assert [after["propagation"][name] for name in told] == [True, 1, 1, 0, [], [], None]
    assert [before["propagation"][name] for name in told] == [False, 1, 0, 0, [], [], None]
    assert after["block"]["id"].startswith("blk_")
    until = datetime.fromisoformat(after["block"]["until"]).timestamp()
    assert 3590 < until - time.time() <= 3600
    assert not await _is_alive(app, victim)
    assert await _is_alive(app, bystander)
    refused = await app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read"))
    assert refused.json["code"] == "blocked"


async def test_a_preview_needs_no_key_and_no_reason(app: BrokerApp) -> None:
    """Looking costs nothing and leaves nothing behind."""
    size = len(await app.entries())
    token = await app.operator()
    reply = await app.call("POST", PATH, token=token, json={"selector": {"everything": True}, "preview": True})
    assert reply.status == 200
    assert len(await app.entries()) == size + 1  # the operator's own token
    assert await _is_alive(app, token)


async def test_a_repeated_request_is_the_same_request(app: BrokerApp) -> None:
    """The same key and body again answers with the same rule; the same key with another body is refused (B.11)."""
    token, body = await app.operator(), {"selector": {"task": "t1"}, "reason": "test", "block": {"for": "1h"}}
    first = await _revoke(app, body, "key-1", token)
    again = await _revoke(app, body, '"key-1"', token)
    assert first.status == again.status == 201
    assert again.json["rule"] == first.json["rule"]
    assert again.json["id"] == first.json["id"]
    other = await _revoke(app, {**body, "reason": "another"}, "key-1", token)
    assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")
    assert len(await app.entries("rule.added")) == 1


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "tab\tbed", "\u00e4"])
async def test_the_key_must_be_usable(app: BrokerApp, key: str) -> None:
    """A key is 1 to 255 printable ASCII characters."""
    reply = await _revoke(app, {"selector": {"task": "t1"}, "reason": "test"}, key)
    assert reply.status == 400


async def test_the_key_is_needed_once(app: BrokerApp) -> None:
    """Without a key a revocation is refused, and with two."""
    body, token = {"selector": {"task": "t1"}, "reason": "test"}, await app.operator()
    reply = await app.call("POST", PATH, token=token, json=body)
    assert (reply.status, reply.json["code"]) == (400, "idempotency_key_missing")
    two = CIMultiDict([("Idempotency-Key", "a"), ("Idempotency-Key", "b"), ("Authorization", f"Bearer {token}")])
    async with app.http.post(app.issuer + PATH, json=body, headers=two) as response:
        assert response.status == 400
    assert await app.entries("rule.added") == []


@pytest.mark.parametrize(
    ("body", "code", "named"),
    [
        ({"reason": "x"}, "malformed_request", "selector"),
        ({"selector": {}, "reason": "x"}, "selector_invalid", "selector"),
        ({"selector": {"agent": "a", "everything": True}, "reason": "x"}, "selector_invalid", "selector"),
        ({"selector": {"colour": "red"}, "reason": "x"}, "selector_invalid", "colour"),
        ({"selector": {"agent": 7}, "reason": "x"}, "selector_invalid", "selector"),
        ({"selector": {"agent": ""}, "reason": "x"}, "selector_invalid", "selector.agent"),
        ({"selector": {"agent": "a\nb"}, "reason": "x"}, "selector_invalid", "selector.agent"),
        ({"selector": {"agent": "x" * 513}, "reason": "x"}, "selector_invalid", "selector.agent"),
        ({"selector": [], "reason": "x"}, "malformed_request", "selector"),
        ({"selector": {"agent": "a"}}, "malformed_request", "reason"),
        ({"selector": {"agent": "a"}, "reason": ""}, "malformed_request", "reason"),
        ({"selector": {"agent": "a"}, "reason": "a\r\nb"}, "malformed_request", "reason"),
        ({"selector": {"agent": "a"}, "reason": "x" * 1001}, "malformed_request", "reason"),
        ({"selector": {"agent": "a"}, "reason": 5}, "malformed_request", "reason"),
        ({"selector": {"agent": "a"}, "reason": "x", "reasn": "y"}, "unknown_field", "reasn"),
        ({"selector": {"agent": "a"}, "reason": "x", "block": {"until": "now"}}, "malformed_request", "block.until"),
        (
            {"selector": {"agent": "a"}, "reason": "x", "block": {"until": "2031-01-01T00:00:00"}},
            "malformed_request",
            "block.until",
        ),
        (
            {"selector": {"agent": "a"}, "reason": "x", "block": {"until": "2001-01-01T00:00:00Z"}},
            "malformed_request",
            "block",
        ),
        ({"selector": {"agent": "a"}, "reason": "x", "block": {"for": "soon"}}, "malformed_request", "block.for"),
        (
            {"selector": {"agent": "a"}, "reason": "x", "block": {"for": "1h", "until": "2031-01-01T00:00:00Z"}},
            "malformed_request",
            "block",
        ),
        ({"selector": {"agent": "a"}, "reason": "x", "block": {"fro": "1h"}}, "unknown_field", "block.fro"),
        ({"selector": {"agent": "a"}, "reason": "x", "wait": 61}, "malformed_request", "wait"),
        ({"selector": {"agent": "a"}, "reason": "x", "wait": -1}, "malformed_request", "wait"),
        ({"selector": {"agent": "a"}, "reason": "x", "preview": "yes"}, "malformed_request", "preview"),
    ],
)
async def test_bad_orders(app: BrokerApp, body: dict[str, Any], code: str, named: str) -> None:
    """A bad order is refused whole, the refusal names the field, and nothing is in force."""
    reply = await _revoke(app, body)
    assert (reply.status, reply.json["code"]) == (400, code), reply.json
    assert named in reply.json["detail"]
    assert len(app.services.revocations.rules) == 0
    assert app.services.revocations.blocks.live(time.time()) == ()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"selector": {"agent": "a"}, "selector": {"everything": true}, "reason": "x"}', "malformed_request"),
        (b'{"selector": {"agent": "a", "agent": "b"}, "reason": "x"}', "malformed_request"),
        (b'{"selector": {"agent": "a"}, "reason": "x"', "malformed_request"),
        (b"", "malformed_request"),
        (b"[]", "malformed_request"),
        (b'"x"', "malformed_request"),
        (b'{"wait": NaN}', "malformed_request"),
        (b'{"wait": 1e999}', "malformed_request"),
        (b"[" * 60_000, "malformed_request"),
        (b"\xff\xfe", "malformed_request"),
        (b'{"selector": {"agent": "\\ud800"}, "reason": "x"}', "malformed_request"),
        (b"9" * 60_000, "malformed_request"),
        (b" " * 70_000, "too_large"),
    ],
)
async def test_bodies_that_are_not_strict_json(app: BrokerApp, body: bytes, code: str) -> None:
    """Members given twice, at any depth, and whatever else JSON parsers differ about, are refused."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k"}
    reply = await app.call("POST", PATH, token=await app.operator(), data=body, headers=headers)
    assert reply.json["code"] == code
    assert reply.status == (413 if code == "too_large" else 400)
    assert len(app.services.revocations.rules) == 0


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
async def test_only_json_is_read(app: BrokerApp, content_type: str) -> None:
    """A body of another type is refused: a page of another site could send it."""
    headers = {"Content-Type": content_type, "Idempotency-Key": "k"}
    body = b'{"selector": {"agent": "a"}, "reason": "x"}'
    reply = await app.call("POST", PATH, token=await app.operator(), data=body, headers=headers)
    assert (reply.status, reply.json["code"]) == (415, "unsupported_media_type")


class _Broken:
    async def commit(self, change: Change) -> Receipt:
        raise Unavailable(Code.LEDGER_UNAVAILABLE, "the ledger cannot be written")


async def test_a_revocation_without_the_ledger(app: BrokerApp) -> None:
    """It is in force at once, answered 202 and not durable; later it is written, with a number (law 1)."""
    victim, token = await app.token("beta"), await app.operator()
    ledger = app.services.revocation._ledger
    app.services.revocation._ledger = _Broken()
    reply = await _revoke(app, {"selector": {"agent": "beta"}, "reason": "test"}, "key", token)
    assert reply.status == 202
    body = reply.json
    assert (body["durable"], body["rule"], body["hits"], body["counting"]) == (False, None, None, False)
    reply = await app.call("POST", "/oauth2/introspect", token=token, data={"token": victim})
    assert reply.json == {"active": False}
    shown = await app.call("GET", f"{PATH}/{body['id']}", token=token)
    assert (shown.status, shown.json["durable"]) == (200, False)
    listed = (await app.call("GET", PATH, token=token)).json["revocations"]
    assert [rule["id"] for rule in listed] == [body["id"]]

    app.services.revocation._ledger = ledger
    assert await app.services.revocation.write_pending() == 0
    shown = await app.call("GET", f"{PATH}/1", token=token)
    assert (shown.json["id"], shown.json["durable"]) == (body["id"], True)


async def test_rules_are_listed_in_pages(app: BrokerApp) -> None:
    """The youngest first, each once, with a link to the next page as long as there is one."""
    token = await app.operator()
    for number in range(5):
        await _revoke(app, {"selector": {"task": f"t{number}"}, "reason": "test"}, None, token)
    seen: list[int] = []
    path = f"{PATH}?limit=2"
    for _ in range(4):
        reply = await app.call("GET", path, token=token)
        seen += [rule["rule"] for rule in reply.json["revocations"]]
        if reply.json["next"] is None:
            assert "Link" not in reply.headers
            break
        assert reply.headers["Link"] == f'<?cursor={reply.json["next"]}&limit=2>; rel="next"'
        path = f"{PATH}?limit=2&cursor={reply.json['next']}"
    assert seen == [5, 4, 3, 2, 1]
    assert all(rule["in_force"] for rule in (await app.call("GET", PATH, token=token)).json["revocations"])


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "cursor=!", "cursor=eA", "page=2", "limit=\u0663"]
)
async def test_bad_pages(app: BrokerApp, query: str) -> None:
    """A limit out of range, a cursor of somebody else's, and unknown parameters are refused."""
    reply = await app.call("GET", f"{PATH}?{query}", token=await app.operator())
    assert (reply.status, reply.json["code"]) == (400, "malformed_request")


@pytest.mark.parametrize("rule", ["0", "99", "rule_x", "-1", "9" * 18, "\u0663", "%0a"])
async def test_rules_that_are_not_there(app: BrokerApp, rule: str) -> None:
    """An unknown rule is 404."""
    assert (await app.call("GET", f"{PATH}/{rule}", token=await app.operator())).status == 404


async def test_blocks_are_listed_and_lifted(app: BrokerApp) -> None:
    """A lifted block lets new tokens be granted; what its rule killed stays dead; lifting again is 404."""
    victim, token = await app.token("alpha"), await app.operator()
    until = (datetime.now().astimezone() + timedelta(hours=1)).isoformat(timespec="seconds")
    body = {"selector": {"agent": "alpha"}, "reason": "test", "block": {"until": until}}
    block = (await _revoke(app, body, None, token)).json["block"]["id"]
    (listed,) = (await app.call("GET", "/v1/blocks", token=token)).json["blocks"]
    assert (listed["id"], listed["rule"], listed["selector"], listed["by"]) == (
        block,
        1,
        {"agent": "alpha"},
        "operator",
    )
    assert datetime.fromisoformat(listed["until"]) == datetime.fromisoformat(until)
    reply = await app.call("DELETE", f"/v1/blocks/{block}", token=token, params={"reason": "all clear"})
    assert (reply.status, reply.body) == (204, b"")
    assert (await app.call("GET", "/v1/blocks", token=token)).json == {"blocks": []}
    assert await app.token("alpha")
    assert not await _is_alive(app, victim)
    (entry,) = await app.entries("block.lifted")
    assert (entry["reason"], entry["by"]) == ("all clear", "operator")
    again = await app.call("DELETE", f"/v1/blocks/{block}", token=token)
    assert (again.status, again.json["code"]) == (404, "not_found")


async def test_a_block_without_an_end_stays(app: BrokerApp) -> None:
    """``block: {}`` has no end."""
    reply = await _revoke(app, {"selector": {"agent": "alpha"}, "reason": "test", "block": {}})
    assert reply.json["block"]["until"] is None


async def test_the_snapshot_is_for_verifiers(app: BrokerApp) -> None:
    """A verifier with its own scope gets the signed rules; nobody may store them."""
    await _revoke(app, {"selector": {"agent": "alpha"}, "reason": "test"})
    token = await app.token("gateway", "broker", "revocations:read")
    reply = await app.call("GET", f"{PATH}/snapshot", token=token)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/jwt"
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.body.count(b".") == 2


async def test_an_operator_can_revoke_itself(app: BrokerApp) -> None:
    """Operators are agents: a rule on everything kills the token that made it, and its answer still arrives."""
    token = await app.operator()
    reply = await _revoke(app, {"selector": {"everything": True}, "reason": "all"}, None, token)
    assert reply.status == 201
    reply = await app.call("GET", PATH, token=token)
    assert (reply.status, reply.json["code"]) == (401, "token_revoked")
    assert 'error="invalid_token"' in reply.challenges[0]
