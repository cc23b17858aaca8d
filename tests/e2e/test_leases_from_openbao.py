"""Database credentials through the broker, from a real OpenBao: they work in PostgreSQL, and then they do not."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from broker.core.lease import LeaseStatus
from tests.support.broker_app import BrokerApp, Reply, Template, make_template, running_app
from tests.support.leases import LEASING, POLICY, leasing_token, reaping, revoke, settled, state_of, take
from tests.support.openbao import BROKER_POLICY, OpenBao
from tests.support.postgres import Postgres

SECRETS = """
  orders: {backend: vault, tier: read, path: database/creds/orders-ro}
  unrevocable: {backend: vault, tier: read, path: database/creds/unrevocable}
  note: {backend: vault, tier: read, engine: kv2, path: secret/demo, key: password}
"""
PREFIX = "database/creds/orders-ro"
INCIDENTS = 'path "sys/leases/revoke-prefix/*" { capabilities = ["update", "sudo"] }'


@dataclass
class Ground:
    """The servers that the leases come from."""

    bao: OpenBao
    postgres: Postgres


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    """Start them."""
    with Postgres() as postgres, OpenBao() as bao:
        bao.with_broker_policy()
        bao.with_database(postgres)
        bao.with_role("unrevocable", revocation_statements=["SELECT 1/0"])
        bao.with_values({"demo": {"password": "correct horse"}})
        yield Ground(bao, postgres)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, ground: Ground) -> Template:
    """A broker that signs in to OpenBao with a token file."""
    policy = (
        POLICY.replace("roles:\n  workers:", f"{SECRETS}roles:\n  workers:")
        .replace(
            "      - {secret: db}\n      - {secret: deed}",
            "      - {secret: db}\n      - {secret: orders}\n      - {secret: unrevocable}\n      - {secret: note}\n"
            "      - {secret: deed}",
        )
        .replace("live_leases: 5", "live_leases: 2000")
    )
    made = make_template(tmp_path_factory.mktemp("openbao") / "broker", policy, LEASING)
    (made.folder / "bao-token").write_text(ground.bao.token("broker"))
    with (made.folder / "broker.toml").open("a") as file:
        file.write(
            f'\n[leases]\nattempts = 4\nfirst_pause_seconds = 0.1\n[backends.vault]\naddress = "{ground.bao.url}"\n'
            'sign_in = {method = "token", token_file = "bao-token"}\n'
        )
    return made


@pytest.fixture
async def app(template: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run the broker."""
    async with running_app(template, tmp_path / "broker") as running, reaping(running):
        yield running


def works(ground: Ground, reply: Reply) -> bool:
    """Whether PostgreSQL takes the credentials of an answer."""
    data = reply.json["data"]
    return ground.postgres.lets_in(data["username"], data["password"])


async def test_credentials_work_until_they_are_given_back(app: BrokerApp, ground: Ground) -> None:
    """The word "revoked" is true in PostgreSQL."""
    token = await leasing_token(app)
    lease = await take(app, token, "orders", ttl="5m")
    assert lease.status == 201, lease.body
    data = lease.json["data"]
    assert (lease.json["renewable"], lease.json["revocable"]) == (True, True)
    assert 290 <= lease.json["lease_duration"] <= 300
    assert ground.postgres.lets_in(data["username"], data["password"])
    back = await app.call("DELETE", f"/v1/leases/{lease.json['lease_id']}?wait=10", token=token)
    assert back.json["state"] == "revoked", back.body
    assert not ground.postgres.lets_in(data["username"], data["password"])
    assert ground.bao.leases(PREFIX) == []


async def test_a_rule_ends_many_at_once_and_one_that_cannot_be_ended_is_stuck(app: BrokerApp, ground: Ground) -> None:
    """Every other one is dead in PostgreSQL, and the reason of the stuck one is the database's."""
    token = await leasing_token(app)
    bad = (await take(app, token, "unrevocable")).json
    replies = await asyncio.gather(*(take(app, token, "orders") for _ in range(40)))
    assert {reply.status for reply in replies} == {201}
    rule = await revoke(app, agent="alpha")
    for reply in replies:
        assert (await settled(app, reply.json["lease_id"], within=30)).status is LeaseStatus.REVOKED
    assert not any(works(ground, each) for each in replies)
    state = await state_of(app, bad["lease_id"])
    for _ in range(300):
        if state.status is LeaseStatus.STUCK:
            break
        await asyncio.sleep(0.05)
        state = await state_of(app, bad["lease_id"])
    assert state.status is LeaseStatus.STUCK
    assert "division by zero" in (state.last_error or "")
    operator = await app.operator("operator:read")
    outcome = (await app.call("GET", f"/v1/revocations/{rule['rule']}", token=operator)).json["leases"]
    assert outcome == {"revoked": 40, "retrying": 0, "expires_only": 0, "stuck": 1, "abandoned": 0}


async def test_an_operator_ends_everything_below_a_path(app: BrokerApp, ground: Ground) -> None:
    """What others took there dies too; the broker's own leases get their outcome."""
    token = await leasing_token(app)
    mine = await take(app, token, "orders")
    theirs = ground.bao.call("GET", PREFIX)["data"]
    assert ground.postgres.lets_in(theirs["username"], theirs["password"])
    body = {"backend": "vault", "prefix": PREFIX, "reason": "the database was copied"}
    ground.bao.write_policy("broker", BROKER_POLICY + INCIDENTS)
    reply = await app.call("POST", "/v1/leases/revoke-prefix", token=await app.operator("revocations:write"), json=body)
    assert (reply.status, reply.json["leases"]) == (200, 1), reply.body
    assert not ground.postgres.lets_in(theirs["username"], theirs["password"])
    state = await settled(app, mine.json["lease_id"])
    assert (state.status, state.because) == (LeaseStatus.REVOKED, "prefix")
    assert not works(ground, mine)
    recorded = (await app.entries("prefix.revoked"))[0]
    assert (recorded["prefix"], recorded["by"]) == (PREFIX, "operator")
    unknown = await app.call(
        "POST",
        "/v1/leases/revoke-prefix",
        token=await app.operator("revocations:write"),
        json={**body, "backend": "local"},
    )
    assert (unknown.status, unknown.json["code"]) == (502, "backend_refused")


async def test_a_static_value_says_that_it_cannot_be_revoked(app: BrokerApp) -> None:
    """It stays good until somebody changes it."""
    token = await leasing_token(app)
    lease = (await take(app, token, "note")).json
    assert (lease["data"], lease["revocable"]) == ({"password": "correct horse"}, False)
    await revoke(app, secret="note")
    state = await settled(app, lease["lease_id"])
    assert (state.status, state.good_until) == (LeaseStatus.EXPIRES_ONLY, None)


async def test_a_server_that_dies_while_leases_are_revoked_revokes_them_when_it_is_back(
    app: BrokerApp, ground: Ground
) -> None:
    """Killed in the middle: nothing is lost, nothing is called revoked before it is."""
    token = await leasing_token(app)
    replies = await asyncio.gather(*(take(app, token, "orders") for _ in range(60)))
    assert {reply.status for reply in replies} == {201}
    await revoke(app, agent="alpha")
    await asyncio.sleep(0.15)
    await asyncio.to_thread(ground.bao.kill)
    states = [await state_of(app, reply.json["lease_id"]) for reply in replies]
    done = sum(state.status is LeaseStatus.REVOKED for state in states)
    await asyncio.sleep(1)
    await asyncio.to_thread(ground.bao.start)
    for reply in replies:
        assert (await settled(app, reply.json["lease_id"], within=60)).status is LeaseStatus.REVOKED, done
    assert not any(works(ground, each) for each in replies)
    assert ground.bao.leases(PREFIX) == []


async def test_the_broker_signs_in_with_its_own_identity_token(
    template: Template, tmp_path: Path, ground: Ground
) -> None:
    """No secret zero: OpenBao discovers the broker's keys, and takes its word for who it is."""
    folder = tmp_path / "broker"
    shutil.copytree(template.folder, folder)
    settings = (folder / "broker.toml").read_text()
    sign_in = 'sign_in = {method = "jwt", role = "broker", audience = "openbao"}'
    (folder / "broker.toml").write_text(
        settings.replace('sign_in = {method = "token", token_file = "bao-token"}', sign_in)
    )
    (folder / "bao-token").unlink()
    async with running_app(replace(template, folder=folder), tmp_path / "again") as app, reaping(app):
        await asyncio.to_thread(ground.bao.with_jwt, app.issuer, audience="openbao", subject="broker")
        token = await leasing_token(app)
        lease = await take(app, token, "orders")
        assert lease.status == 201, lease.body
        assert works(ground, lease)
        back = await app.call("DELETE", f"/v1/leases/{lease.json['lease_id']}?wait=10", token=token)
        assert back.json["state"] == "revoked"
        assert not works(ground, lease)
