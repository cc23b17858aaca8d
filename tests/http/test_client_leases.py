"""Leased secrets as an agent works with them, against a whole broker: nothing is alive once the work is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.client import Client, KeyIdentity, LeaseRefused
from broker.core.errors import Code
from broker.core.lease import LeaseStatus
from tests.support.broker_app import BrokerApp, Template, make_template, running_app
from tests.support.leases import BACKENDS, LEASING, POLICY, reaping, revoke, settled, state_of


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with secrets to lease."""
    made = make_template(tmp_path_factory.mktemp("leases") / "broker", POLICY, LEASING)
    with (made.folder / "broker.toml").open("a") as file:
        file.write(BACKENDS)
    return made


@pytest.fixture
async def app(template: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run it, with its reaper."""
    async with running_app(template, tmp_path / "broker") as running, reaping(running):
        yield running


def client_of(app: BrokerApp, agent: str = "alpha", **more: Any) -> Client:  # noqa: ANN401 - the client's
    """Return a client of an agent."""
    return Client(app.issuer, identity=KeyIdentity(agent, app.keys[agent]), **more)


@pytest.mark.parametrize(("dpop", "encrypted"), [(False, False), (True, False), (True, True)])
async def test_a_secret_is_dead_after_its_block(app: BrokerApp, dpop: bool, encrypted: bool) -> None:
    """Taken, renewed, and returned; the backend has confirmed it, and the ledger says who gave it back."""
    async with client_of(app, dpop=dpop) as client:
        async with client.lease("letter" if encrypted else "db", ttl="1m", encrypted=encrypted) as leased:
            assert len(leased.data["value"]) >= 32
            before = leased.expires_at
            await asyncio.sleep(1.1)
            await leased.renew()
            assert before is not None
            assert leased.expires_at is not None
            assert leased.expires_at > before
            assert (await state_of(app, leased.id)).status is LeaseStatus.LIVE
        ended = await settled(app, leased.id)
    assert (ended.status, ended.because) == (LeaseStatus.REVOKED, "returned")


async def test_a_secret_that_needs_a_proof(app: BrokerApp) -> None:
    """A client with a key of its own gets it, one without is told why not."""
    async with client_of(app) as bare:
        with pytest.raises(LeaseRefused) as refused:
            await bare.lease("deed").take()
        assert refused.value.code is Code.PROOF_REQUIRED
        assert refused.value.refusal is not None
    async with client_of(app, dpop=True) as client, client.lease("deed") as leased:
        assert leased.data


@pytest.mark.parametrize(
    ("secret", "code"),
    [
        ("other", Code.SECRET_NOT_ALLOWED),
        ("letter", Code.ENCRYPTION_REQUIRED),
        ("absent", Code.BACKEND_REFUSED),
        ("../db", Code.MALFORMED_REQUEST),
    ],
)
async def test_what_is_refused(app: BrokerApp, secret: str, code: Code) -> None:
    """With the broker's own reason, and without asking again."""
    async with client_of(app) as client:
        with pytest.raises(LeaseRefused) as refused:
            await client.lease(secret).take()
    assert refused.value.code is code


async def test_a_lease_in_a_task(app: BrokerApp) -> None:
    """It belongs to it, ends with it, and the block that held it copes."""
    async with client_of(app) as client:
        async with client.open_task("look", secrets=["db"]) as task:
            leased = client.lease("db", task=task.id)
            await leased.take()
            assert leased.task == task.id
            with pytest.raises(LeaseRefused) as refused:
                await client.lease("payroll", task=task.id).take()
            assert refused.value.code is Code.TASK_CEILING
        await leased.give_back()
        assert leased.is_over
    assert (await settled(app, leased.id)).status is LeaseStatus.REVOKED


async def test_a_revoked_lease_is_not_renewed(app: BrokerApp) -> None:
    """The agent learns it when it renews; giving it back is no error."""
    async with client_of(app) as client, client.lease("db", ttl="1m") as leased:
        await revoke(app, lease=leased.id)
        await settled(app, leased.id)
        with pytest.raises(LeaseRefused) as refused:
            await leased.renew()
        assert refused.value.code is Code.LEASE_ENDED


@pytest.mark.parametrize("encrypted", [False, True])
async def test_people_agree_to_a_lease(app: BrokerApp, encrypted: bool) -> None:
    """The client waits for them, and goes on with exactly that request."""
    asked: asyncio.Queue[str] = asyncio.Queue()
    async with client_of(app, on_pending=lambda auth_req_id, _seconds: asked.put_nowait(auth_req_id)) as client:
        taking = asyncio.ensure_future(client.lease("payroll", encrypted=encrypted).take())
        approval = await asyncio.wait_for(asked.get(), 20)
        token = await app.token("carol", "broker", "approvals:decide")
        decision = {"decision": "approve", "reason": "month end"}
        reply = await app.call("POST", f"/v1/approvals/{approval}", token=token, json=decision)
        assert reply.status == 200, reply.body
        await taking
    entries = await app.entries("lease.intended")
    assert entries[-1]["approval"] == approval


async def test_going_ahead_without_people(app: BrokerApp) -> None:
    """Where the role lets."""
    async with client_of(app) as client, client.lease("payroll", break_glass="salaries are due now") as leased:
        assert leased.data
