"""What the benchmark runs against: a broker and a cluster in processes of their own, and requests made beforehand."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker.demo.cluster import token_file
from tests.bench.load import write_requests
from tests.support.running_broker import TICKETS, RunningBroker, free_port

POLICY = """
version: 1
issuers:
  prod-cluster: {preset: kubernetes, issuer: "CLUSTER", allow_private: true, allow_http: true}
audiences:
  https://tickets.internal: {scopes: {"tickets:read": {tier: read}}, served_by: [{agent: gateway}]}
tiers:
  read: {max_ttl: 15m}
roles:
  triage:
    members:
      - {issuer: prod-cluster, subject: "system:serviceaccount:support:triage"}
      - {agent: alpha}
    allow: [{audience: https://tickets.internal, scopes: ["tickets:read"]}]
    limits: {tokens_per_minute: 1000000, actions: {"tickets:read": 1000000}}
    may_delegate_to: [triage]
  gateways:
    members: [{agent: gateway}]
    allow: [{audience: broker, scopes: ["actions:reserve"]}]
  operators:
    members: [{agent: operator}]
    allow:
      - {audience: broker, scopes: ["operator:read", "revocations:write", "revocations:read", "agents:write"]}
    limits: {tokens_per_minute: 100000}
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of the load generator measured; times in milliseconds."""

    per_second: float
    p50: float
    p99: float
    answers: int


class Stage:
    """A broker with a cluster that vouches for one workload."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        """Everything lives in ``folder``; ``settings`` are tables to add to the broker's."""
        self.folder = folder
        self._settings = settings
        self.cluster_port = free_port()
        cluster = f"http://127.0.0.1:{self.cluster_port}"
        self.broker = RunningBroker(folder, policy=POLICY.replace("CLUSTER", cluster))
        self._cluster: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start both processes."""
        self.broker.initialise()
        text = self.broker.config.read_text()
        self.broker.config.write_text(text.replace("access = true", "access = false") + self._settings)
        arguments = [str(self.folder), str(self.cluster_port), self.broker.issuer]
        self._cluster = subprocess.Popen([sys.executable, "-m", "broker.demo.cluster", *arguments])
        self.broker.start()
        self.key = _read_key(self.broker.agent("alpha"))
        self.gateway_key = _read_key(self.broker.agent("gateway"))
        self.operator_key = _read_key(self.broker.home / "operator.pem")

    @property
    def process(self) -> int:
        """The process id of the broker."""
        if self.broker.process is None:
            raise AssertionError("the broker was started")
        return self.broker.process.pid

    def stop(self) -> None:
        """Stop both."""
        self.broker.stop()
        if self._cluster is not None:
            self._cluster.terminate()
            self._cluster.wait()

    def federated(self) -> list[bytes]:
        """One token request that is repeated as it is: the platform token is reusable."""
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": token_file(self.folder, "triage").read_text(),
            "resource": TICKETS,
            "scope": "tickets:read",
        }
        return [self.post("/oauth2/token", form)]

    def assertions(self, count: int) -> list[bytes]:
        """Token requests with private_key_jwt: each assertion can be used once."""
        return [self.post("/oauth2/token", self._by_assertion("alpha", self.key)) for _ in range(count)]

    def operator_token(self) -> str:
        """Return an access token for the broker's own API."""
        form = self._by_assertion("operator", self.operator_key)
        form |= {"resource": f"{self.broker.issuer}/v1", "scope": "operator:read revocations:write revocations:read"}
        return str(self.send("/oauth2/token", form)["access_token"])

    def send(self, path: str, form: Mapping[str, str] | None = None, **headers: str) -> dict[str, Any]:
        """Make one request and return the JSON answer."""
        data = None if form is None else urlencode(form).encode()
        request = urllib.request.Request(self.broker.issuer + path, data=data, headers=headers)  # noqa: S310
        with urllib.request.urlopen(request) as response:  # noqa: S310 - http on loopback
            return cast("dict[str, Any]", json.load(response))

    def post(self, path: str, form: Mapping[str, str], *headers: str) -> bytes:
        """Return a whole HTTP request as bytes."""
        body = urlencode(form).encode()
        head = [
            f"POST {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.broker.port}",
            "Content-Type: application/x-www-form-urlencoded",
            f"Content-Length: {len(body)}",
            *headers,
        ]
        return "\r\n".join([*head, "", ""]).encode() + body

    @staticmethod
    def form_of(request: bytes) -> dict[str, str]:
        """Return the form that a whole HTTP request holds."""
        return dict(parse_qsl(request.partition(b"\r\n\r\n")[2].decode()))

    def exchange(self) -> list[bytes]:
        """One token exchange that is repeated as it is: the same token for the same delegate."""
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": str(self.send("/oauth2/token", self._by_assertion("alpha", self.key))["access_token"]),
            "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "actor_token": token_file(self.folder, "triage").read_text(),
            "actor_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "resource": TICKETS,
            "scope": "tickets:read",
        }
        return [self.post("/oauth2/token", form)]

    def action(self) -> tuple[list[bytes], bytes]:
        """One reservation that is repeated as it is, and how it is settled."""
        own = self._by_assertion("gateway", self.gateway_key)
        own |= {"resource": f"{self.broker.issuer}/v1", "scope": "actions:reserve"}
        header = f"Authorization: Bearer {self.send('/oauth2/token', own)['access_token']}"
        token = self.send("/oauth2/token", self._by_assertion("alpha", self.key))["access_token"]
        wish = {"token": token, "action": "tickets:read", "digest": "sha256:" + "0" * 64}
        return [self.put("/v1/actions", wish, header)], self.put("/v1/actions/{ID}/settle", {"outcome": "done"}, header)

    def put(self, path: str, body: Mapping[str, Any], *headers: str) -> bytes:
        """Return a whole HTTP request with a JSON body as bytes. ``{ID}`` in the path stands for an id."""
        data = json.dumps(body).encode()
        head = [
            f"POST {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.broker.port}",
            "Content-Type: application/json",
            f"Content-Length: {len(data)}",
            *headers,
        ]
        return "\r\n".join([*head, "", ""]).encode() + data

    def load(
        self,
        requests: Sequence[bytes],
        *,
        seconds: float,
        port: int | None = None,
        once: bool = False,
        then: bytes | None = None,
    ) -> Load:
        """Run the load generator with 32 connections; ``then`` follows each answer and counts as one with it."""
        file, second = self.folder / "requests.bin", self.folder / "then.bin"
        write_requests(file, requests)
        command = [
            sys.executable,
            "-m",
            "tests.bench.load",
            str(port or self.broker.port),
            "32",
            str(seconds),
            str(file),
        ]
        if once:
            command.append("--once")
        if then is not None:
            write_requests(second, [then])
            command += ["--then", str(second)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        figures = json.loads(done.stdout)
        if set(figures["statuses"]) - {"200", "201"}:
            msg = f"answers other than 200: {figures['statuses']}"
            raise RuntimeError(msg)
        return Load(figures["per_second"], figures["p50_ms"], figures["p99_ms"], figures["answers"])

    def _by_assertion(self, name: str, key: EllipticCurvePrivateKey) -> dict[str, str]:
        now = int(time.time())
        claims = {"iss": name, "sub": name, "aud": self.broker.issuer, "iat": now, "exp": now + 280}
        return {
            "grant_type": "client_credentials",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": jwt.encode({**claims, "jti": str(uuid.uuid4())}, key, algorithm="ES256"),
            "resource": TICKETS,
            "scope": "tickets:read",
        }


def _read_key(path: Path) -> EllipticCurvePrivateKey:
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, EllipticCurvePrivateKey):
        msg = f"{path} is not an EC key"
        raise TypeError(msg)
    return key
