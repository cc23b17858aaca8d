"""Law 6: a lease that has ended says what became of it, and never that it was revoked without the backend's word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from broker.core.change import Change, Receipt
from broker.core.errors import BackendFailed, Code, Unavailable
from broker.core.lease import LeaseState, LeaseStatus
from broker.ledger.store import SqlLedger
from broker.ledger.verify import verify_file
from tests.support.broker_app import BrokerApp, Template, make_template, running_app
from tests.support.leases import LEASING, POLICY, eventually, leasing_token, reaping, revoke, settled, state_of, take
from tests.support.scripted_backend import Hook, ScriptedBackend, down, nothing, raising, waiting

ATTEMPTS = 3
QUICK = f"\n[leases]\nattempts = {ATTEMPTS}\nfirst_pause_seconds = 0.05\nlongest_pause_seconds = 0.1\n"
REFUSED = BackendFailed(Code.BACKEND_REFUSED, "the role cannot be dropped")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker that gives up soon."""
    made = make_template(tmp_path_factory.mktemp("law-6") / "broker", POLICY, LEASING)
    with (made.folder / "broker.toml").open("a") as file:
        file.write(QUICK)
    return made


@pytest.fixture
def backend() -> ScriptedBackend:
    """A backend that does as it is told."""
    return ScriptedBackend()


@pytest.fixture
async def app(template: Template, tmp_path: Path, backend: ScriptedBackend) -> AsyncIterator[BrokerApp]:
    """Run the broker on it, with its reaper; the ledger is sound at the end."""
    async with (
        running_app(template, tmp_path / "broker", own_backends={"local": backend}) as running,
        reaping(running),
    ):
        yield running
    assert verify_file(tmp_path / "broker" / "ledger.db").problems == ()


async def until(app: BrokerApp, lease: str, holds: Callable[[LeaseState], bool]) -> LeaseState:
    """Return a lease once it is as it should come to be."""
    state = await state_of(app, lease)
    for _ in range(500):
        if holds(state):
            return state
        await asyncio.sleep(0.02)
        state = await state_of(app, lease)
    raise AssertionError(f"it stays {state}")


async def told(app: BrokerApp, lease: str, rule: int) -> tuple[str, str]:
    """Return in which state a lease is by its own answer, and by that of the only rule that hit it."""
    operator = await app.operator("operator:read", "leases:read")
    state = (await app.call("GET", f"/v1/leases/{lease}", token=operator)).json["state"]
    counted = (await app.call("GET", f"/v1/revocations/{rule}", token=operator)).json["leases"]
    assert sum(counted.values()) == 1, counted
    return state, next(name for name, number in counted.items() if number)


@pytest.mark.parametrize(
    "hook",
    [nothing, raising(REFUSED), raising(down()), raising(RuntimeError("a bug")), waiting(asyncio.Event())],
    ids=["at once", "refuses", "down", "bug", "hangs"],
)
@pytest.mark.parametrize("revocable", [True, False])
async def test_revoked_is_the_word_of_the_backend(
    app: BrokerApp, backend: ScriptedBackend, hook: Hook, *, revocable: bool
) -> None:
    """At no moment is a lease called revoked while its secret lives, whatever the backend does."""
    lease = (await take(app, await leasing_token(app))).json["lease_id"]
    backend.before["revoke"], backend.revocable = hook, revocable
    await revoke(app, agent="alpha")
    seen = set()
    for _ in range(60):
        state = await state_of(app, lease)
        assert state.status is not LeaseStatus.REVOKED or lease not in backend.alive
        assert (state.settled_at is not None) == (state.status in {LeaseStatus.REVOKED, LeaseStatus.EXPIRES_ONLY})
        seen.add(state.status)
        await asyncio.sleep(0.01)
    ends = {LeaseStatus.REVOKED if revocable else LeaseStatus.EXPIRES_ONLY}
    assert (seen - {LeaseStatus.LIVE, LeaseStatus.RETRYING, LeaseStatus.STUCK} == ends) == (hook is nothing)


async def test_each_state_says_what_it_knows(app: BrokerApp, backend: ScriptedBackend) -> None:
    """Of retrying how often and why, of stuck why, of expires_only until when: to the holder and to the operator."""
    token = await leasing_token(app)

    async def ended(secret: str = "db") -> tuple[str, int]:
        lease = (await take(app, token, secret)).json["lease_id"]
        return lease, (await revoke(app, lease=lease))["rule"]

    lease, rule = await ended()
    state = await settled(app, lease)
    assert (state.status, state.rule) == (LeaseStatus.REVOKED, rule)
    assert await told(app, lease, rule) == ("revoked", "revoked")

    backend.revocable, backend.seconds = False, 600
    lease, rule = await ended()
    state = await settled(app, lease)
    assert (state.status, state.note) == (LeaseStatus.EXPIRES_ONLY, "it cannot be revoked")
    assert await told(app, lease, rule) == ("expires_only", "expires_only")

    backend.revocable, backend.before["revoke"] = True, raising(REFUSED)
    lease, rule = await ended()
    state = await until(app, lease, lambda now: now.status is LeaseStatus.STUCK)
    assert (state.attempts, state.last_error, state.next_attempt_at) == (ATTEMPTS, REFUSED.public, None)
    assert await told(app, lease, rule) == ("stuck", "stuck")
    assert lease in backend.alive

    gate = asyncio.Event()
    backend.before["revoke"] = waiting(gate)
    lease, rule = await ended()
    await eventually(lambda: ("revoke", lease) in backend.asked)
    assert await told(app, lease, rule) == ("retrying", "retrying")
    backend.before["revoke"] = raising(BackendFailed(Code.BACKEND_REFUSED, "busy", retry_after=60))
    gate.set()
    await settled(app, lease)
    lease, rule = await ended()
    state = await until(app, lease, lambda now: now.attempts == 1)
    assert (state.status, state.last_error) == (LeaseStatus.RETRYING, "busy")
    assert state.next_attempt_at is not None
    assert await told(app, lease, rule) == ("retrying", "retrying")


async def test_an_outcome_that_cannot_be_recorded_is_not_told(
    app: BrokerApp, backend: ScriptedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend has revoked, the record fails: it is asked again, and its word counts once it is written."""
    commit, broken = SqlLedger.commit, True

    async def failing(self: SqlLedger, change: Change) -> Receipt:
        if broken and change.entry.columns.kind == "lease.settled":
            raise Unavailable(Code.LEDGER_UNAVAILABLE, "the disk is full")
        return await commit(self, change)

    monkeypatch.setattr(SqlLedger, "commit", failing)
    lease = (await take(app, await leasing_token(app))).json["lease_id"]
    rule = (await revoke(app, lease=lease))["rule"]
    await eventually(lambda: backend.asked.count(("revoke", lease)) > 1)
    assert backend.alive == {}
    assert await told(app, lease, rule) == ("retrying", "retrying")
    broken = False
    assert (await settled(app, lease)).status is LeaseStatus.REVOKED
    assert await told(app, lease, rule) == ("revoked", "revoked")


async def test_abandoned_is_not_revoked(app: BrokerApp, backend: ScriptedBackend) -> None:
    """What an operator gives up is called that, with their name and their reason in the record."""
    lease = (await take(app, await leasing_token(app))).json["lease_id"]
    backend.before["revoke"] = raising(REFUSED)
    rule = (await revoke(app, lease=lease))["rule"]
    await until(app, lease, lambda now: now.status is LeaseStatus.STUCK)
    operator = await app.operator("revocations:write")
    body = {"reason": "the server was switched off"}
    assert (await app.call("POST", f"/v1/leases/{lease}/abandon", token=operator, json=body)).status == 200
    assert await told(app, lease, rule) == ("abandoned", "abandoned")
    record = (await app.entries("lease.settled"))[-1]
    assert (record["status"], record["by"], record["note"]) == ("abandoned", "operator", body["reason"])
