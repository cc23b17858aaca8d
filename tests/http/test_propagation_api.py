"""Who has applied a rule: verifiers say so, liars are refused, and revoking tells the truth of all of them."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from contextlib import closing
from typing import Any

import pytest

from tests.support.broker_app import BrokerApp, Reply
from tests.support.listeners import ACKS, Listener, mark_at, until_known

PATH = "/v1/revocations"


@pytest.fixture
async def operator(app: BrokerApp) -> str:
    """Return an operator's token."""
    return await app.operator()


@pytest.fixture
async def gateway(app: BrokerApp) -> str:
    """Return a token of the agent that verifiers belong to."""
    return await app.token("gateway", "broker", "revocations:read")


async def revoke(app: BrokerApp, token: str, wait: float = 0, **selector: object) -> Reply:
    """Make a rule."""
    body = {"selector": selector or {"agent": "alpha"}, "reason": "injected", "wait": wait}
    return await app.call("POST", PATH, token=token, json=body, headers={"Idempotency-Key": str(uuid.uuid4())})


async def answers_after(app: BrokerApp, listener: Listener, epoch: int) -> None:
    """Acknowledge an epoch as soon as there is one."""
    for _ in range(6000):
        if app.services.revocations.rules.epoch >= epoch:
            break
        await asyncio.sleep(0.005)
    assert (await listener.acknowledge(epoch)).status == 204


async def recorded(app: BrokerApp, count: int = 1) -> list[dict[str, Any]]:
    """Return what the ledger holds of how far rules have got, once there are so many entries."""
    found: list[dict[str, Any]] = []
    for _ in range(3000):
        found = await app.entries("rule.propagated")
        if len(found) >= count:
            break
        await asyncio.sleep(0.01)
    assert len(found) == count
    return found


async def test_revoking_waits_until_every_verifier_has_applied_the_rule(
    app: BrokerApp, operator: str, gateway: str
) -> None:
    """And returns at once then; the receipt stands in the ledger, once."""
    listeners = [Listener(app, gateway, f"gw-{place}") for place in range(3)]
    await asyncio.gather(*(listener.join() for listener in listeners))
    revoking = asyncio.create_task(revoke(app, operator, wait=60))
    await asyncio.gather(*(answers_after(app, listener, 1) for listener in listeners))
    reply = await revoking
    assert reply.status == 201
    seen = reply.json["propagation"]
    slowest = seen.pop("slowest_ms")
    assert 0 <= slowest < 30_000
    assert seen == {
        "applied": True,
        "replicas": 1,
        "replicas_applied": 1,
        "verifiers": 3,
        "verifiers_applied": 3,
        "waiting_for": [],
        "refusing": [],
        "reason": None,
    }
    (record,) = await recorded(app)
    assert (record["ref"], record["number"], record["applied"]) == (reply.json["id"], 1, True)
    assert (record["verifiers"], record["verifiers_applied"], record["slowest_ms"]) == (3, 3, slowest)
    shown = await app.call("GET", f"{PATH}/1", token=operator)
    assert shown.json["propagation"] == {**seen, "slowest_ms": slowest}


async def test_who_has_not_applied_it_is_named(app: BrokerApp, operator: str, gateway: str) -> None:
    """Not called applied at the time-out; as soon as they say so, it is."""
    quick, slow = Listener(app, gateway, "quick"), Listener(app, gateway, "slow", max_age=600)
    await asyncio.gather(quick.join(), slow.join())
    revoking = asyncio.create_task(revoke(app, operator, wait=0.5))
    await answers_after(app, quick, 1)
    reply = await revoking
    assert reply.json["propagation"]["applied"] is False
    assert "gateway#slow" in reply.json["propagation"]["waiting_for"]
    await quick.acknowledge(1)
    await until_known(app, "quick", 1)
    shown = (await app.call("GET", f"{PATH}/1", token=operator)).json["propagation"]
    assert (shown["applied"], shown["waiting_for"], shown["verifiers_applied"]) == (False, ["gateway#slow"], 1)
    await slow.acknowledge(1)
    await until_known(app, "slow", 1)
    shown = (await app.call("GET", f"{PATH}/1", token=operator)).json["propagation"]
    assert (shown["applied"], shown["waiting_for"], shown["verifiers_applied"]) == (True, [], 2)


async def test_who_is_silent_for_longer_than_its_bound_refuses_by_itself(
    app: BrokerApp, operator: str, gateway: str
) -> None:
    """It is named, and nobody waits for it any more."""
    await Listener(app, gateway, "dead", max_age=0.2).join()
    first = (await revoke(app, operator)).json["propagation"]
    assert (first["applied"], first["waiting_for"]) == (False, ["gateway#dead"])
    seen = (await revoke(app, operator, wait=60)).json["propagation"]
    assert (seen["applied"], seen["refusing"], seen["waiting_for"]) == (True, ["gateway#dead"], [])
    assert (seen["verifiers"], seen["verifiers_applied"]) == (1, 0)
    found = await recorded(app, 2)
    assert {entry["number"]: entry["refusing"] for entry in found} == {1: ["gateway#dead"], 2: ["gateway#dead"]}


async def test_who_left_is_nobody_and_who_joins_later_knows_the_rule(
    app: BrokerApp, operator: str, gateway: str
) -> None:
    """A verifier that begins with the newest rules has applied them."""
    gone, new = Listener(app, gateway, "gone"), Listener(app, gateway, "new")
    await gone.join()
    assert (await revoke(app, operator)).json["propagation"]["waiting_for"] == ["gateway#gone"]
    assert (await gone.leave()).status == 204
    await until_known(app, "gone", None)
    await new.join()
    seen = (await app.call("GET", f"{PATH}/1", token=operator)).json["propagation"]
    assert (seen["applied"], seen["waiting_for"], seen["refusing"]) == (True, [], [])
    (record,) = await recorded(app)
    assert record["applied"] is True


async def test_liars_are_refused_and_counted(app: BrokerApp, operator: str, gateway: str) -> None:
    """Nobody can acknowledge what the broker has not told: the future, or an epoch with another's mark."""
    liar = Listener(app, gateway, "liar", max_age=600)
    await liar.join()
    assert (await revoke(app, operator)).json["propagation"]["applied"] is False
    for epoch, mark in ((1, mark_at(app, 0)), (2**53, "x" * 22), (1, ""), (1, "ä" * 22), (9, mark_at(app, 1))):
        reply = await liar.acknowledge(epoch, mark=mark)
        assert (reply.status, reply.json["code"]) == (400, "ack_invalid")
    seen = (await app.call("GET", f"{PATH}/1", token=operator)).json["propagation"]
    assert seen["waiting_for"] == ["gateway#liar"]
    assert b'broker_acknowledgements_total{outcome="invalid"} 5.0' in app.services.metrics.text()


async def test_a_replay_takes_nothing_back(app: BrokerApp, operator: str, gateway: str) -> None:
    """An older epoch than before is no news."""
    listener = Listener(app, gateway, "gw")
    await listener.join()
    await revoke(app, operator)
    await listener.acknowledge(1)
    await until_known(app, "gw", 1)
    for _ in range(3):
        assert (await listener.acknowledge(0)).status == 204
    await app.services.acknowledging.close()
    present = await app.services.propagations.present()
    assert [(each.name, each.epoch) for each in present.verifiers] == [("gw", 1)]


@pytest.mark.parametrize(
    "body",
    [
        {"verifier": "a b", "epoch": 0, "mark": "m", "max_age": 1},
        {"verifier": "", "leaving": True},
        {"verifier": "a", "epoch": -1, "mark": "m", "max_age": 1},
        {"verifier": "a", "epoch": 0, "mark": "m", "max_age": 0},
        {"verifier": "a", "epoch": 0, "mark": "m", "max_age": 600.5},
        {"verifier": "a", "epoch": 0, "mark": "m"},
        {"verifier": "a", "epoch": 0, "mark": "m", "max_age": 1, "leaving": True},
        {"verifier": "a", "epoch": 1.5, "mark": "m", "max_age": 1},
        {"verifier": "a", "epoch": 0, "mark": "m", "max_age": 1, "more": 1},
        {"verifier": "a"},
    ],
)
async def test_what_no_verifier_says(app: BrokerApp, gateway: str, body: dict[str, Any]) -> None:
    """It is refused, with the field that is wrong."""
    reply = await app.call("POST", ACKS, token=gateway, json=body)
    assert reply.status == 400
    assert reply.json["code"] in {"malformed_request", "unknown_field"}
    assert (await app.services.propagations.present()).verifiers == []


_EPOCHS = ("NaN", "Infinity", "-0.5", "1e308", "true", "null", '"0"', "[]", "{}", "1e999", str(2**53 + 0.5))
_AGES = ("NaN", "-Infinity", "1e308", "1e999", "-1", "-0.0", "true", "null", '"15"', "[15]", str(2**63), "9" * 400)


@pytest.mark.parametrize(
    "members",
    [f'"epoch": {value}, "max_age": 15' for value in _EPOCHS] + [f'"epoch": 0, "max_age": {value}' for value in _AGES],
)
async def test_numbers_that_are_none(app: BrokerApp, gateway: str, members: str) -> None:
    """What JSON or a language's numbers allow beyond reason is refused as malformed, and nobody is remembered."""
    body = f'{{"verifier": "odd", "mark": "{mark_at(app, 0)}", {members}}}'.encode()
    headers = {"Content-Type": "application/json"}
    reply = await app.call("POST", ACKS, token=gateway, data=body, headers=headers)
    assert (reply.status, reply.json["code"]) == (400, "malformed_request")
    assert (await app.services.propagations.present()).verifiers == []


@pytest.mark.parametrize("epoch", [1, 2**31, 2**53, 2**63, 2**64 + 1, 10**400])
async def test_epochs_that_are_to_come(app: BrokerApp, gateway: str, epoch: int) -> None:
    """However large, they have no mark that anybody knows."""
    body = {"verifier": "early", "epoch": epoch, "mark": mark_at(app, 0), "max_age": 15}
    reply = await app.call("POST", ACKS, token=gateway, json=body)
    assert reply.status == 400
    assert reply.json["code"] in {"ack_invalid", "malformed_request"}
    assert (await app.services.propagations.present()).verifiers == []


async def test_nobody_speaks_for_another_agent(app: BrokerApp, operator: str, gateway: str) -> None:
    """A verifier is an agent's and a name: what one agent says under the same name is about a verifier of its own."""
    watched, other = Listener(app, gateway, "gw-1", max_age=600), Listener(app, operator, "gw-1", max_age=600)
    await watched.join()
    assert (await revoke(app, operator)).json["propagation"]["waiting_for"] == ["gateway#gw-1"]
    assert (await other.acknowledge(1)).status == 204
    assert (await other.leave()).status == 204
    await app.services.acknowledging.close()
    seen = (await app.call("GET", f"{PATH}/1", token=operator)).json["propagation"]
    assert (seen["applied"], seen["waiting_for"], seen["verifiers"]) == (False, ["gateway#gw-1"], 1)


@pytest.mark.parametrize("leaving", [True, False])
async def test_who_was_revoked_can_say_nothing(app: BrokerApp, operator: str, gateway: str, leaving: bool) -> None:
    """Neither that it has applied the rule nor that it has ended: it is waited for until it must refuse by itself."""
    listener = Listener(app, gateway, "gw-1", max_age=600)
    await listener.join()
    await revoke(app, operator, agent="gateway")
    reply = await (listener.leave() if leaving else listener.acknowledge(1))
    assert (reply.status, reply.json["code"]) == (401, "token_revoked")
    seen = (await app.call("GET", f"{PATH}/1", token=operator)).json["propagation"]
    assert (seen["applied"], seen["waiting_for"]) == (False, ["gateway#gw-1"])


async def test_who_is_there_can_be_listed(app: BrokerApp, operator: str, gateway: str) -> None:
    """By operators, with how far behind each is; nobody else learns who verifies tokens."""
    await Listener(app, gateway, "gw-1", max_age=20).join()
    await revoke(app, operator)
    listed = (await app.call("GET", "/v1/verifiers", token=operator)).json
    (verifier,) = listed["verifiers"]
    assert listed["epoch"] == 1
    assert (verifier["agent"], verifier["verifier"], verifier["epoch"], verifier["lag"]) == ("gateway", "gw-1", 0, 1)
    assert (verifier["max_age"], verifier["silent_seconds"] < 30) == (20, True)
    (replica,) = (await app.call("GET", "/v1/replicas", token=operator)).json["replicas"]
    assert (replica["id"], replica["epoch"], replica["lag"], replica["max_staleness"]) == ("local", 1, 0, 0)
    assert replica["policy"].startswith("sha256:")
    assert (await app.services.propagations.present()).replicas[0].known > 0
    await app.services.propagations.measure()
    shown = app.services.metrics.text()
    assert b"broker_verifiers 1.0" in shown
    assert b"broker_worst_lag_epochs 1.0" in shown
    for path in ("/v1/verifiers", "/v1/replicas"):
        assert (await app.call("GET", path, token=gateway)).json["code"] == "insufficient_scope"


async def test_a_rule_that_is_not_written_is_applied_by_nobody(app: BrokerApp, operator: str, gateway: str) -> None:
    """It is in force here, and the answer says what is not known (law 1)."""
    await Listener(app, gateway, "gw").join()
    with closing(sqlite3.connect(app.file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        reply = await revoke(app, operator, wait=60)
        assert reply.status == 202
        seen = reply.json["propagation"]
        assert (seen["applied"], seen["verifiers"], seen["waiting_for"]) == (False, None, [])
        assert "not written" in seen["reason"]
        other.execute("ROLLBACK")
    assert await app.services.revocation.write_pending() == 0
    seen = (await app.call("GET", f"{PATH}/1", token=operator)).json["propagation"]
    assert seen["waiting_for"] == ["gateway#gw"]


async def test_a_broker_alone_records_nothing_of_it(app: BrokerApp, operator: str) -> None:
    """The rule's own entry is all there is to say; and waiting takes no time."""
    reply = await revoke(app, operator, wait=60)
    seen = reply.json["propagation"]
    assert (seen["applied"], seen["replicas"], seen["verifiers"]) == (True, 1, 0)
    await app.services.propagations.close()
    assert await app.entries("rule.propagated") == []


async def test_closing_a_broker_records_what_is_still_under_way(app: BrokerApp, operator: str, gateway: str) -> None:
    """Nobody is called to have applied a rule that did not say so."""
    await Listener(app, gateway, "gw", max_age=600).join()
    await revoke(app, operator)
    await app.services.propagations.close()
    (record,) = await app.entries("rule.propagated")
    assert (record["applied"], record["waiting_for"]) == (False, ["gateway#gw"])
