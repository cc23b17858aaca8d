"""Secrets of every backend go through leases of every end; none comes out but in the one answer that hands it out."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker.client import Client, KeyIdentity
from broker.core.jwk import public_jwk
from tests.support.leases import BACKENDS, POLICY
from tests.support.moto_aws import ACCOUNT, REGION, SECRET_KEY, client, environment, moto_server
from tests.support.openbao import OpenBao
from tests.support.postgres import Postgres
from tests.support.running_broker import RunningBroker, free_port

ROLE = f"arn:aws:iam::{ACCOUNT}:role/agents"
SECRETS = f"""
  key: {{backend: local, tier: read, stored: signing-key}}
  orders: {{backend: vault, tier: read, path: database/creds/orders-ro}}
  note: {{backend: vault, tier: read, engine: kv2, path: secret/demo, key: password}}
  lost: {{backend: vault, tier: read, engine: kv2, path: secret/demo, key: no-such-key}}
  cloud: {{backend: aws-sts, tier: read, role_arn: "{ROLE}"}}
  stripe: {{backend: aws-secrets-manager, tier: read, secret_id: prod/stripe, key: api_key}}
  gone: {{backend: aws-secrets-manager, tier: read, secret_id: prod/stripe, key: no-such-key}}
"""
NAMES = ("db", "key", "orders", "note", "cloud", "stripe")
FAILING = ("lost", "gone", "absent")
NOT_SECRET = {"username", "access_key_id", "expiration", "region"}
"""Members of secrets that are names, not secrets; the ledger may have them."""

VAULT_TOKEN = re.compile(rb"(?:hv)?s\.[A-Za-z0-9]{24}")
JWT = re.compile(rb"eyJ[\w-]+\.[\w-]+\.[\w-]+")
"""Taken out of what is searched for tokens of OpenBao: a part that ends with "s" looks like the beginning of one."""

SHORTEST = 12


def marked() -> str:
    """Return a value that is found wherever it comes out."""
    return f"CANARY{secrets.token_hex(12)}"


@dataclass
class Ground:
    """The servers that secrets come from, and the values in them."""

    bao: OpenBao
    moto: str
    audit: Path
    values: dict[str, str] = field(default_factory=lambda: {name: marked() for name in ("kv", "aws", "local", "other")})


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """Start them; OpenBao writes down what it is asked."""
    environment(monkeypatch)
    audit = tmp_path / "bao-audit"
    with moto_server(tmp_path) as moto, Postgres() as postgres, OpenBao(audit=audit) as bao:
        made = Ground(bao, moto, audit)
        bao.with_broker_policy()
        bao.with_database(postgres)
        bao.with_values({"demo": {"password": made.values["kv"], "other": made.values["other"]}})
        with client("iam", moto) as iam, client("secretsmanager", moto) as manager:
            iam.create_role(RoleName="agents", AssumeRolePolicyDocument="{}")
            stored = {"api_key": made.values["aws"], "other": made.values["other"]}
            manager.create_secret(Name="prod/stripe", SecretString=json.dumps(stored))
        yield made


@pytest.fixture
def broker(ground: Ground, tmp_path: Path) -> Iterator[RunningBroker]:
    """A broker on all of them, at its most talkative."""
    line = "      - {secret: db}\n      - {secret: deed}"
    more = "".join(
        f"      - {{secret: {name}}}\n" for name in ("key", "orders", "note", "lost", "cloud", "stripe", "gone")
    )
    policy = POLICY.replace("roles:\n  workers:", f"{SECRETS}roles:\n  workers:").replace(line, more + line)
    policy = policy.replace("live_leases: 5", "live_leases: 1000").replace('"policy:write"', '"agents:write"')
    running = RunningBroker(tmp_path, policy=policy)
    running.initialise()
    (running.home / "bao-token").write_text(ground.bao.token("broker"))
    running.metrics = free_port()
    text = running.config.read_text()
    text = text.replace("[listen]", f'[listen]\nmetrics = "127.0.0.1:{running.metrics}"').replace('"info"', '"debug"')
    text += (
        BACKENDS
        + f'\n[leases]\nattempts = 2\nfirst_pause_seconds = 0.1\n[backends.vault]\naddress = "{ground.bao.url}"\n'
    )
    text += 'sign_in = {method = "token", token_file = "bao-token"}\n'
    for kind in ("aws-sts", "aws-secrets-manager"):
        text += f'\n[backends.{kind}]\nregion = "{REGION}"\nendpoint = "{ground.moto}"\n'
    running.config.write_text(text)
    subprocess.run(
        [sys.executable, "-m", "broker", "secret", "set", "signing-key", "--config", str(running.config)],
        input=ground.values["local"].encode(),
        check=True,
        env=os.environ,
        timeout=60,
    )
    running.start()
    yield running
    running.stop()


@dataclass
class Agent:
    """Somebody who calls, and everything that they are answered but the secrets that are meant for them."""

    broker: RunningBroker
    http: aiohttp.ClientSession
    token: str
    heard: list[str] = field(default_factory=list)

    async def call(self, method: str, path: str, *, key: str | None = None, **rest: Any) -> Any:  # noqa: ANN401 - JSON
        """Make a request; its answer must not hold a secret."""
        text = await self._send(method, path, key, rest)
        self.heard.append(text)
        return json.loads(text) if text else None

    async def take(self, secret: str, key: str, **wish: Any) -> tuple[str, list[str]]:  # noqa: ANN401 - JSON
        """Take a lease; return its id and the secret values in it."""
        text = await self._send("POST", "/v1/leases", key, {"json": {"secret": secret, **wish}})
        lease = json.loads(text)
        assert "lease_id" in lease, text
        data: dict[str, str] = lease.pop("data", None) or {}
        self.heard.append(json.dumps(lease))
        return lease["lease_id"], [value for name, value in data.items() if name not in NOT_SECRET]

    async def _send(self, method: str, path: str, key: str | None, rest: dict[str, Any]) -> str:
        headers = {"Authorization": f"Bearer {self.token}", "Idempotency-Key": key or str(uuid.uuid4())}
        async with self.http.request(method, self.broker.issuer + path, headers=headers, **rest) as response:
            return await response.text()


async def settle(operator: Agent, leases: list[str]) -> set[str]:
    """Wait until every one of these leases has its outcome; return what they are."""
    found: set[str] = set()
    for lease in leases:
        shown = await operator.call("GET", f"/v1/leases/{lease}")
        while shown["settled_at"] is None and shown["state"] != "stuck":
            await asyncio.sleep(0.05)
            shown = await operator.call("GET", f"/v1/leases/{lease}")
        found.add(shown["state"])
    return found


async def put_through(agent: Agent, operator: Agent, bao: OpenBao) -> tuple[set[str], set[str]]:
    """Let leases of every secret be renewed, given back, asked for twice, revoked and lost; return the secrets."""
    released: set[str] = set()
    outcomes: set[str] = set()
    for name in NAMES:
        key = str(uuid.uuid4())
        lease, values = await agent.take(name, key)
        again = await agent.call("POST", "/v1/leases", key=key, json={"secret": name})
        assert (again["lease_id"], again["data"]) == (lease, None)
        await agent.call("POST", f"/v1/leases/{lease}/renew", json={"ttl": "2m"})
        await agent.call("GET", f"/v1/leases/{lease}")
        await agent.call("DELETE", f"/v1/leases/{lease}?wait=5")
        killed, others = await agent.take(name, str(uuid.uuid4()))
        released.update(values, others)
        body = {"selector": {"lease": killed}, "reason": "canary"}
        await operator.call("POST", "/v1/revocations", json=body)
        outcomes |= await settle(operator, [lease, killed])
    for name in FAILING:
        failed = await agent.call("POST", "/v1/leases", json={"secret": name})
        assert failed["code"] == "backend_refused", failed
    pair = ec.generate_private_key(ec.SECP256R1())
    private = {**public_jwk(pair.public_key()), "d": "A" * 43}
    misused = await agent.call("POST", "/v1/leases", json={"secret": "letter", "encrypt_to": private})
    assert misused["status"] == 400
    _, plain = await agent.take("letter", str(uuid.uuid4()), encrypt_to=public_jwk(pair.public_key()))
    assert plain == []
    # A server that goes away while it holds leases: what the broker says of that must be clean, too.
    lease, values = await agent.take("orders", str(uuid.uuid4()))
    released.update(values)
    await asyncio.to_thread(bao.stop)
    await operator.call("POST", "/v1/revocations", json={"selector": {"lease": lease}, "reason": "canary"})
    failed = await agent.call("POST", "/v1/leases", json={"secret": "note"})
    assert failed["code"] in {"backend_unavailable", "backend_refused"}
    for path in ("/v1/leases?limit=100", "/v1/revocations", "/v1/ledger/entries?limit=1000"):
        await operator.call("GET", path)
    return released, outcomes


async def signed_in(broker: RunningBroker, name: str, key: Path, scopes: list[str]) -> str:
    """Return a token for the broker's own API."""
    private = load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    async with Client(broker.issuer, identity=KeyIdentity(name, private)) as session:
        return (await session.token(f"{broker.issuer}/v1", scopes)).access_token


async def test_no_leased_secret_comes_out(broker: RunningBroker, ground: Ground) -> None:
    """Not in other answers, logs at debug level, metrics, any byte of the ledger, or OpenBao's own audit file."""
    alpha = await signed_in(broker, "alpha", broker.agent("alpha"), ["leases:take", "leases:read"])
    scopes = ["operator:read", "leases:read", "revocations:write", "ledger:read"]
    own = await signed_in(broker, "operator", broker.home / "operator.pem", scopes)
    async with aiohttp.ClientSession() as http:
        agent, operator = Agent(broker, http, alpha), Agent(broker, http, own)
        released, outcomes = await put_through(agent, operator, ground.bao)
        async with http.get(f"http://127.0.0.1:{broker.metrics}/metrics") as response:
            metrics = await response.text()
    broker.stop()
    assert {"revoked", "expires_only"} <= outcomes
    assert {ground.values[name] for name in ("kv", "aws", "local")} <= released
    assert len(released) >= 2 * 2 + 2 + 1 + 2 * 2 + 1

    kept = [path.read_bytes() for path in broker.home.iterdir() if path.name.startswith(("ledger", "secrets"))]
    assert sum(map(len, kept)) > 10_000
    said = [broker.log.read_bytes(), metrics.encode(), *(text.encode() for text in (*agent.heard, *operator.heard))]
    audit = ground.audit.read_bytes()
    assert b"database/creds/orders-ro" in audit
    needles = {*released, *ground.values.values(), SECRET_KEY, (broker.home / "bao-token").read_text()}
    for needle in needles:
        assert len(needle) >= SHORTEST
        for place in (*kept, *said, audit):
            assert needle.encode() not in place, f"a secret came out: {place[:200]!r}"
    for place in (*kept, *said, audit):
        assert VAULT_TOKEN.search(JWT.sub(b"", place)) is None, f"a token of OpenBao came out: {place[:200]!r}"
