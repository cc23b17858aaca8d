"""A whole broker inside the test's own process: the real composition, on loopback, with a ledger of its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from multidict import MultiDict

from broker.cli.folder import make_folder
from broker.config import Config, load_config
from broker.core import base64url
from broker.core.jwk import public_jwk, thumbprint
from broker.http.app import create_app, create_metrics_app
from broker.http.server import Bounds, Certificate, Door, HttpServer
from broker.http.surface import Services
from broker.ports import Backend, Caller
from broker.wiring import ALONE, Broker, Place, open_broker
from tests.support.running_broker import free_port

TICKETS = "https://tickets.internal"
PAYMENTS = "https://payments.internal"
POLICY = """
version: 1
audiences:
  https://tickets.internal:
    scopes:
      "tickets:read": {tier: read}
      "tickets:comment": {tier: write}
    served_by: [{agent: gateway}]
  https://payments.internal:
    scopes: {"refunds:create": {tier: sensitive}}
tiers:
  read: {max_ttl: 15m}
  write: {max_ttl: 10m, proof_of_possession: required}
  sensitive: {max_ttl: 5m, approval: {approvers: operators, quorum: 1, expires: 10m}}
roles:
  support:
    members: [{agent: alpha}, {agent: beta}]
    allow:
      - {audience: https://tickets.internal, scopes: ["tickets:read", "tickets:comment"]}
      - {audience: https://payments.internal, scopes: ["refunds:create"]}
    limits: {tokens_per_minute: 100}
  watchers:
    members: [{agent: gateway}]
    allow:
      - {audience: broker, scopes: ["revocations:read"]}
  operators:
    members: [{agent: operator}]
    allow:
      - audience: broker
        scopes:
          - "operator:read"
          - "revocations:write"
          - "revocations:read"
          - "agents:write"
          - "ledger:read"
          - "ledger:erase"
          - "keys:write"
          - "policy:write"
    limits: {tokens_per_minute: 1000}
"""

Form = Mapping[str, str] | MultiDict[str]

AGENTS = ("alpha", "beta", "gateway")
"""The agents that are registered in a template, besides ``operator``."""

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
OPERATOR_SCOPES = (
    "operator:read",
    "revocations:write",
    "revocations:read",
    "agents:write",
    "ledger:read",
    "ledger:erase",
    "keys:write",
    "policy:write",
)
HERE = Caller(address="127.0.0.1", request_id="req_test", trace_id="0" * 32)


@dataclass
class KeptEvents:
    """Keeps what is logged, as it would be written."""

    lines: list[dict[str, Any]] = field(default_factory=list)

    def info(self, event: str, **members: Any) -> None:  # noqa: ANN401 - the port's
        """Keep a line."""
        self.lines.append({"level": "info", "event": event, **members})

    def error(self, event: str, **members: Any) -> None:  # noqa: ANN401 - the port's
        """Keep a line."""
        self.lines.append({"level": "error", "event": event, **members})

    def of(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of one event."""
        return [line for line in self.lines if line["event"] == event]


@dataclass(frozen=True)
class Reply:
    """An answer, read to the end."""

    status: int
    headers: Mapping[str, str]
    challenges: tuple[str, ...]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - a JSON value
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Template:
    """A broker's folder as ``broker init`` makes it, with agents registered; copied for each test."""

    folder: Path
    keys: Mapping[str, EllipticCurvePrivateKey]


@dataclass
class BrokerApp:
    """A running broker, and everything a test wants to do to it."""

    broker: Broker
    server: HttpServer
    keys: dict[str, EllipticCurvePrivateKey]
    events: KeptEvents
    http: aiohttp.ClientSession

    @property
    def issuer(self) -> str:
        """The issuer URL, which is also where it listens."""
        return self.broker.config.issuer

    @property
    def file(self) -> Path:
        """The file of its ledger."""
        assert isinstance(self.broker.config.ledger, Path)
        return self.broker.config.ledger

    @property
    def services(self) -> Services:
        """The composed use cases."""
        return self.broker.services

    async def call(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        **rest: Any,  # noqa: ANN401 - aiohttp's
    ) -> Reply:
        """Make one request; ``rest`` is aiohttp's (``json``, ``data``, ``params``)."""
        sent = dict(headers or {})
        if token is not None:
            sent.setdefault("Authorization", f"Bearer {token}")
        async with self.http.request(
            method, self.issuer + path, headers=sent, allow_redirects=False, **rest
        ) as response:
            challenges = tuple(response.headers.getall("WWW-Authenticate", ()))
            return Reply(response.status, response.headers, challenges, await response.read())

    def assertion(self, name: str, **claims: object) -> str:
        """Return a fresh client assertion of an agent; ``claims`` replace its claims, None leaves one out."""
        now = int(time.time())
        usual = {
            "iss": name,
            "sub": name,
            "aud": self.issuer,
            "iat": now,
            "exp": now + 60,
            "jti": secrets.token_hex(),
        }
        payload = {claim: value for claim, value in {**usual, **claims}.items() if value is not None}
        return jwt.encode(payload, self.keys[name], algorithm="ES256", headers={"kid": self.kid(name)})

    def kid(self, name: str) -> str:
        """Return the thumbprint of an agent's key."""
        return thumbprint(public_jwk(self.keys[name].public_key()))

    def form(self, name: str, **parameters: str) -> dict[str, str]:
        """Return the parameters of a client credentials request of an agent."""
        return {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": self.assertion(name),
            **parameters,
        }

    async def ask(self, form: Form, headers: Mapping[str, str] | None = None) -> Reply:
        """Post a form to the token endpoint."""
        return await self.call("POST", "/oauth2/token", data=form, headers=headers)

    async def token(self, name: str, audience: str = TICKETS, scope: str = "tickets:read", **parameters: str) -> str:
        """Return a bearer token."""
        reply = await self.ask(self.form(name, audience=audience, scope=scope, **parameters))
        assert reply.status == 200, reply.body
        return str(reply.json["access_token"])

    async def operator(self, *scopes: str) -> str:
        """Return an operator's token for the broker's own API, with all scopes unless some are named."""
        return await self.token("operator", "broker", " ".join(scopes or OPERATOR_SCOPES))

    def proof(self, key: EllipticCurvePrivateKey, method: str, url: str, token: str | None = None) -> str:
        """Return a fresh DPoP proof."""
        payload: dict[str, object] = {"jti": secrets.token_hex(), "htm": method, "htu": url, "iat": int(time.time())}
        if token is not None:
            payload["ath"] = base64url.encode(hashlib.sha256(token.encode()).digest())
        header = {"typ": "dpop+jwt", "jwk": public_jwk(key.public_key())}
        return jwt.encode(payload, key, algorithm="ES256", headers=header)

    async def entries(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the ledger's entries, oldest first."""
        records = await self.services.records.records(limit=1000)
        return [dict(record.members) for record in records if kind in {None, record.members["kind"]}]


def make_template(folder: Path, policy: str = POLICY, agents: Sequence[str] = AGENTS) -> Template:
    """Make a folder to copy: keys take long to make, so it is made once."""
    config = make_folder(folder)
    (folder / "policy.yaml").write_text(policy)
    return asyncio.run(_with_agents(folder, config, agents))


def with_settings(template: Template, folder: Path, settings: str) -> Template:
    """Return a copy of a template with more tables in its settings, and no checkpoint that was signed before.

    Those were signed under the name that a broker has by its port, which is another one each time.
    """
    shutil.copytree(template.folder, folder)
    with (folder / "broker.toml").open("a") as file:
        file.write(settings)
    with closing(sqlite3.connect(folder / "ledger.db")) as ledger:
        ledger.execute("UPDATE checkpoints SET note = NULL")
        ledger.commit()
    return replace(template, folder=folder)


async def _with_agents(folder: Path, config: Config, agents: Sequence[str]) -> Template:
    operator = load_pem_private_key((folder / "operator.pem").read_bytes(), None)
    assert isinstance(operator, EllipticCurvePrivateKey)
    keys = {name: generate_private_key(SECP256R1()) for name in agents}
    async with open_broker(config, KeptEvents()) as broker:
        for name, key in keys.items():
            jwk = public_jwk(key.public_key())
            await broker.services.registration.register(name, jwk, by="operator", caller=HERE)
    return Template(folder, {**keys, "operator": operator})


@asynccontextmanager
async def running_app(
    template: Template,
    folder: Path,
    *,
    adjust: Callable[[Services], Services] = lambda services: services,
    site: Mapping[str, Any] | None = None,
    bounds: Bounds | None = None,
    certificate: Certificate | None = None,
    metrics: bool = False,
    settings: str = "",
    own_backends: Mapping[str, Backend] | None = None,
    port: int | None = None,
    place: Place = ALONE,
) -> AsyncIterator[BrokerApp]:
    """Run a broker on a copy of ``template``, composed as in production; ``adjust`` may put a fault in a part of it.

    ``settings`` are lines to put at the head of its settings file; ``place`` is where it stands among others.
    """
    shutil.copytree(template.folder, folder, dirs_exist_ok=True)
    (folder / "broker.toml").write_text(settings + (folder / "broker.toml").read_text())
    config = load_config(folder / "broker.toml", {}, port=free_port() if port is None else port)
    events = KeptEvents()
    async with open_broker(config, events, own_backends=own_backends, place=place) as opened:
        broker = replace(opened, services=adjust(opened.services), site=replace(opened.site, **(site or {})))
        server = _server(broker, config, bounds or Bounds(stop_seconds=5.0), certificate, metrics=metrics)
        await server.start()
        async with aiohttp.ClientSession() as http:
            try:
                yield BrokerApp(broker, server, dict(template.keys), events, http)
            finally:
                await server.stop()


def _server(
    broker: Broker, config: Config, bounds: Bounds, certificate: Certificate | None, *, metrics: bool
) -> HttpServer:
    listen, issuer = config.listen, broker.site.issuer
    public = Door(create_app(broker.services, broker.site), listen.host, listen.port, bounds, issuer)
    private = None
    if metrics:
        private = Door(create_metrics_app(broker.services, broker.site), listen.host, 0, bounds, issuer)
    return HttpServer(public, private, certificate)
