"""Leases when things go wrong between any two steps: no secret is ever alive that the ledger does not know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.core.change import Change, Receipt
from broker.core.errors import BackendFailed, Code, Unavailable
from broker.core.lease import LeaseStatus
from broker.ledger.store import SqlLedger
from broker.ledger.verify import verify_file
from tests.support.broker_app import BrokerApp, Template, make_template, running_app
from tests.support.leases import LEASING, POLICY, eventually, leasing_token, reaping, revoke, settled, state_of, take
from tests.support.scripted_backend import ScriptedBackend, down, raising, waiting

QUICK = "\n[leases]\nattempts = 3\nfirst_pause_seconds = 0.05\nlongest_pause_seconds = 0.1\n"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker whose reaper does not wait long."""
    made = make_template(tmp_path_factory.mktemp("faults") / "broker", POLICY, LEASING)
    with (made.folder / "broker.toml").open("a") as file:
        file.write(QUICK)
    return made


@pytest.fixture
def backend() -> ScriptedBackend:
    """A backend that does as it is told."""
    return ScriptedBackend()


@pytest.fixture
async def app(template: Template, tmp_path: Path, backend: ScriptedBackend) -> AsyncIterator[BrokerApp]:
    """Run the broker on it, with its reaper; at the end the whole ledger is verified."""
    async with (
        running_app(template, tmp_path / "broker", own_backends={"local": backend}) as running,
        reaping(running),
    ):
        yield running
    report = verify_file(tmp_path / "broker" / "ledger.db")
    assert report.problems == ()


async def only_lease(app: BrokerApp) -> str:
    """Return the id of the one lease that there is."""
    found = (await app.call("GET", "/v1/leases", token=await app.operator("operator:read", "leases:read"))).json
    assert len(found["leases"]) == 1
    return str(found["leases"][0]["lease_id"])


async def test_a_backend_that_is_down_makes_no_lease_and_says_when_to_come_back(
    app: BrokerApp, backend: ScriptedBackend
) -> None:
    """Nothing was recorded as taken, and the budget is whole."""
    backend.before["prepare"] = raising(down())
    reply = await take(app, await leasing_token(app))
    assert (reply.status, reply.json["code"], reply.headers["Retry-After"]) == (503, "backend_unavailable", "1")
    assert (await app.entries("lease.intended")) == []
    assert [entry["code"] for entry in await app.entries("lease.refused")] == ["backend_unavailable"]


async def test_a_backend_that_refuses_costs_no_budget(app: BrokerApp, backend: ScriptedBackend) -> None:
    """The one lease of the budget is still there for the next try."""
    token = await app.token("alpha", "broker", "leases:take leases:read tasks:open")
    opened = await app.call("POST", "/v1/tasks", token=token, json={"purpose": "sort", "budget": {"leases": 1}})
    backend.before["take"] = raising(BackendFailed(Code.BACKEND_REFUSED, "no permission"))
    reply = await take(app, token, key="k", task=opened.json["id"])
    assert (reply.status, reply.json["code"]) == (502, "backend_refused")
    again = await take(app, token, key="k", task=opened.json["id"])
    assert (again.status, again.json["code"]) == (503, "backend_unavailable")
    assert "no permission" in again.json["detail"], "the same request again is told what became of the first"
    lease = await only_lease(app)
    assert (await state_of(app, lease)).status is LeaseStatus.FAILED
    del backend.before["take"]
    assert (await take(app, token, task=opened.json["id"])).status == 201


async def test_a_lost_answer_leaves_no_secret(app: BrokerApp, backend: ScriptedBackend) -> None:
    """The secret was made, nobody saw it, and it is ended by the handle that was recorded before."""
    backend.after["take"] = raising(down(uncertain=True))
    reply = await take(app, await leasing_token(app))
    assert reply.status == 503
    state = await settled(app, await only_lease(app))
    assert (state.status, state.because) == (LeaseStatus.REVOKED, "unsealed")
    assert backend.alive == {}


async def test_a_bug_in_a_backend_leaves_no_secret(app: BrokerApp, backend: ScriptedBackend) -> None:
    """What is not understood may have happened."""
    backend.after["take"] = raising(RuntimeError("a bug"))
    assert (await take(app, await leasing_token(app))).status == 500
    assert (await settled(app, await only_lease(app))).status is LeaseStatus.REVOKED
    assert backend.alive == {}


async def test_a_rule_while_the_backend_answers_kills_the_lease(app: BrokerApp, backend: ScriptedBackend) -> None:
    """Law 2 for leases: what was decided before the rule is not handed out after it."""
    gate = asyncio.Event()
    backend.after["take"] = waiting(gate)
    token = await leasing_token(app)
    taking = asyncio.ensure_future(take(app, token))
    await eventually(lambda: bool(backend.alive))
    rule = await revoke(app, secret="db")
    gate.set()
    reply = await taking
    assert (reply.status, reply.json["code"]) == (409, "lease_ended")
    state = await settled(app, await only_lease(app))
    assert (state.status, state.because, state.rule) == (LeaseStatus.REVOKED, "revoked", rule["rule"])
    assert backend.alive == {}


async def test_a_task_that_is_closed_while_the_backend_answers_kills_the_lease(
    app: BrokerApp, backend: ScriptedBackend
) -> None:
    """The same for the end of the work that it was for."""
    gate = asyncio.Event()
    backend.after["take"] = waiting(gate)
    token = await app.token("alpha", "broker", "leases:take leases:read tasks:open tasks:close")
    opened = await app.call("POST", "/v1/tasks", token=token, json={"purpose": "sort"})
    taking = asyncio.ensure_future(take(app, token, task=opened.json["id"]))
    await eventually(lambda: bool(backend.alive))
    closed = await app.call("DELETE", f"/v1/tasks/{opened.json['id']}", token=token)
    assert closed.status == 200
    gate.set()
    assert (await taking).json["code"] == "lease_ended"
    assert (await settled(app, await only_lease(app))).status is LeaseStatus.REVOKED
    assert backend.alive == {}


async def test_an_agent_that_goes_away_gets_its_lease_by_the_same_key(app: BrokerApp, backend: ScriptedBackend) -> None:
    """The lease is sealed all the same, and can be given back."""
    gate = asyncio.Event()
    backend.after["take"] = waiting(gate)
    token = await leasing_token(app)
    taking = asyncio.ensure_future(take(app, token, key="one-and-the-same"))
    await eventually(lambda: bool(backend.alive))
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    gate.set()
    again = await take(app, token, key="one-and-the-same")
    for _ in range(100):
        if again.json["state"] == "live":
            break
        await asyncio.sleep(0.02)
        again = await take(app, token, key="one-and-the-same")
    assert (again.status, again.json["data"], again.json["state"]) == (200, None, "live")
    back = await app.call("DELETE", f"/v1/leases/{again.json['lease_id']}?wait=5", token=token)
    assert back.json["state"] == "revoked"
    assert backend.alive == {}


@pytest.mark.parametrize("applied", [False, True])
async def test_a_seal_that_fails_hands_nothing_out(
    app: BrokerApp, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch, applied: bool
) -> None:
    """Law 1: failed and not applied, or failed but applied, the secret dies and the agent does not get it."""
    commit = SqlLedger.commit

    async def failing(self: SqlLedger, change: Change) -> Receipt:
        if change.entry.columns.kind != "lease.sealed":
            return await commit(self, change)
        if applied:
            await commit(self, change)
        raise Unavailable(Code.LEDGER_UNAVAILABLE, "the disk is full")

    monkeypatch.setattr(SqlLedger, "commit", failing)
    token = await leasing_token(app)
    reply = await take(app, token)
    assert (reply.status, reply.json["code"]) == (503, "ledger_unavailable")
    await eventually(lambda: not backend.alive)


async def test_one_that_cannot_be_revoked_is_stuck_with_its_reason_and_stops_no_other(
    app: BrokerApp, backend: ScriptedBackend
) -> None:
    """Law 6, and what operators can do: retry, then abandon."""
    token = await leasing_token(app)
    bad = (await take(app, token)).json["lease_id"]
    good = [(await take(app, token)).json["lease_id"] for _ in range(3)]

    async def refuse() -> None:
        if backend.asked[-1] == ("revoke", bad):
            raise BackendFailed(Code.BACKEND_REFUSED, "the role cannot be dropped")

    backend.before["revoke"] = refuse
    rule = await revoke(app, agent="alpha")
    for lease in good:
        assert (await settled(app, lease)).status is LeaseStatus.REVOKED
    state = await state_of(app, bad)
    for _ in range(300):
        if state.status is LeaseStatus.STUCK:
            break
        await asyncio.sleep(0.02)
        state = await state_of(app, bad)
    assert (state.status, state.attempts, state.last_error) == (LeaseStatus.STUCK, 3, "the role cannot be dropped")
    operator = await app.operator("operator:read", "revocations:write", "leases:read")
    outcome = (await app.call("GET", f"/v1/revocations/{rule['rule']}", token=operator)).json["leases"]
    assert outcome == {"revoked": 3, "retrying": 0, "expires_only": 0, "stuck": 1, "abandoned": 0}

    listed = (await app.call("GET", "/v1/leases?state=stuck", token=operator)).json["leases"]
    assert [(each["lease_id"], each["last_error"]) for each in listed] == [(bad, "the role cannot be dropped")]
    retried = await app.call("POST", f"/v1/leases/{bad}/retry", token=operator)
    assert (retried.status, retried.json["state"], retried.json["attempts"]) == (200, "retrying", 0)
    abandoned = await app.call("POST", f"/v1/leases/{bad}/abandon", token=operator, json={"reason": "dropped by hand"})
    assert (abandoned.status, abandoned.json["state"], abandoned.json["note"]) == (200, "abandoned", "dropped by hand")
    own = await app.call("POST", f"/v1/leases/{bad}/abandon", token=token, json={"reason": "x"})
    assert own.status in {401, 403}


async def test_a_backend_that_is_down_for_long_makes_nothing_stuck(app: BrokerApp, backend: ScriptedBackend) -> None:
    """It is left alone, and asked again once it is back."""
    token = await leasing_token(app)
    leases = [(await take(app, token)).json["lease_id"] for _ in range(5)]
    backend.before["revoke"] = raising(down())
    await revoke(app, agent="alpha")
    await eventually(lambda: sum(name == "revoke" for name, _ in backend.asked) > len(leases))
    assert len(backend.alive) == 5
    asked = len(backend.asked)
    await asyncio.sleep(0.3)
    assert len(backend.asked) - asked <= 2, "a backend that is out of order is left alone"
    states = [await state_of(app, lease) for lease in leases]
    assert {state.status for state in states} == {LeaseStatus.RETRYING}
    del backend.before["revoke"]
    for lease in leases:
        assert (await settled(app, lease, within=20)).status is LeaseStatus.REVOKED
    assert backend.alive == {}


async def test_what_only_expires_is_never_called_revoked(app: BrokerApp, backend: ScriptedBackend) -> None:
    """Law 6: the backend's word is the outcome."""
    backend.revocable, backend.seconds = False, None
    lease = (await take(app, await leasing_token(app))).json
    assert lease["revocable"] is False
    rule = await revoke(app, agent="alpha")
    state = await settled(app, lease["lease_id"])
    assert (state.status, state.good_until, state.note) == (LeaseStatus.EXPIRES_ONLY, None, "it cannot be revoked")
    operator = await app.operator("operator:read")
    shown = (await app.call("GET", f"/v1/revocations/{rule['rule']}", token=operator)).json
    assert shown["hits"]["leases"] == {"revocable": 0, "expires_only": 1, "latest_expiry": None}
    assert shown["leases"]["expires_only"] == 1


async def test_renewing_what_was_revoked_behind_our_back_ends_the_lease(
    app: BrokerApp, backend: ScriptedBackend
) -> None:
    """The agent is told, and the ledger says so."""
    token = await leasing_token(app)
    lease = (await take(app, token)).json["lease_id"]
    backend.alive.clear()
    reply = await app.call("POST", f"/v1/leases/{lease}/renew", token=token, json={})
    assert (reply.status, reply.json["code"]) == (409, "lease_ended")
    state = await settled(app, lease)
    assert (state.status, state.because) == (LeaseStatus.REVOKED, "gone")


async def test_a_renewal_that_races_a_rule_revives_nothing(app: BrokerApp, backend: ScriptedBackend) -> None:
    """The backend was asked to renew before the rule; the lease is dead all the same."""
    token = await leasing_token(app)
    lease = (await take(app, token)).json["lease_id"]
    gate = asyncio.Event()
    backend.before["renew"] = waiting(gate)
    renewing = asyncio.ensure_future(app.call("POST", f"/v1/leases/{lease}/renew", token=token, json={}))
    await eventually(lambda: ("renew", lease) in backend.asked)
    await revoke(app, lease=lease)
    gate.set()
    reply = await renewing
    assert (reply.status, reply.json["code"]) == (409, "lease_ended")
    assert (await settled(app, lease)).status is LeaseStatus.REVOKED
    assert backend.alive == {}


async def test_two_revocations_at_once_are_one_end(app: BrokerApp, backend: ScriptedBackend) -> None:
    """Both rules are made, the lease ends once."""
    lease = (await take(app, await leasing_token(app))).json["lease_id"]
    await asyncio.gather(revoke(app, lease=lease), revoke(app, agent="alpha"), revoke(app, secret="db"))
    assert (await settled(app, lease)).status is LeaseStatus.REVOKED
    await asyncio.sleep(0.2)
    ends = [entry for entry in await app.entries() if entry.get("ref") == lease]
    assert [entry["kind"] for entry in ends][2:] == ["lease.ended", "lease.settled"]


async def test_leases_are_revoked_although_the_ledger_cannot_be_written(
    app: BrokerApp, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 1: revoking works then; it is recorded once that is possible."""
    lease = (await take(app, await leasing_token(app))).json["lease_id"]
    operator = await app.operator("revocations:write")
    commit, broken = SqlLedger.commit, True

    async def failing(self: SqlLedger, change: Change) -> Receipt:
        if broken:
            raise Unavailable(Code.LEDGER_UNAVAILABLE, "the disk is full")
        return await commit(self, change)

    monkeypatch.setattr(SqlLedger, "commit", failing)
    reply = await app.call(
        "POST",
        "/v1/revocations",
        token=operator,
        json={"selector": {"agent": "alpha"}, "reason": "x"},
        headers={"Idempotency-Key": "k"},
    )
    assert (reply.status, reply.json["durable"]) == (202, False)
    await eventually(lambda: not backend.alive)
    broken = False
    await app.services.revocation.write_pending()
    state = await settled(app, lease)
    assert (state.status, state.because) == (LeaseStatus.REVOKED, "revoked")


async def test_more_leases_than_are_taken_up_at_once_are_each_revoked_once(
    app: BrokerApp, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reaper passes over what it has under way already, and goes on with the rest as soon as there is room."""
    monkeypatch.setattr("broker.reaper.WIDTH", 3)
    under_way: list[int] = [0]

    async def slowly() -> None:
        under_way.append(under_way[-1] + 1)
        await asyncio.sleep(0.03)
        under_way.append(under_way[-1] - 1)

    backend.before["revoke"] = slowly
    leases = []
    for agent in ("alpha", "beta"):
        token = await leasing_token(app, agent)
        leases += [(await take(app, token)).json["lease_id"] for _ in range(5)]
    await revoke(app, secret="db")
    for lease in leases:
        assert (await settled(app, lease)).status is LeaseStatus.REVOKED
    revoked = [lease for what, lease in backend.asked if what == "revoke"]
    assert sorted(revoked) == sorted(leases)
    assert max(under_way) == 3
