"""Marked secrets are put through every path; none of them may come out anywhere (law 8)."""

from __future__ import annotations

import base64
import secrets
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker.client import Client, KeyIdentity
from tests.support.running_broker import TICKETS, RunningBroker, free_port

FORM_PATHS = ("/oauth2/token", "/oauth2/introspect", "/oauth2/revoke")
JSON_PATHS = ("/v1/revocations", "/v1/agents", "/v1/enrollments", "/v1/enrollments/redeem", "/v1/keys/rotate")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """A running broker that logs every request at the most talkative level and serves metrics."""
    running = RunningBroker(tmp_path)
    running.initialise()
    metrics = free_port()
    text = running.config.read_text()
    text = text.replace("[listen]", f'[listen]\nmetrics = "127.0.0.1:{metrics}"').replace('"info"', '"debug"')
    running.config.write_text(text)
    running.metrics = metrics
    running.start()
    yield running
    running.stop()


def _marked() -> str:
    return f"CANARY{secrets.token_hex(12)}"


def _jwt_like(mark: str) -> str:
    """Return a JWT whose header, payload and signature all hold the mark."""
    parts = (f'{{"alg":"ES256","kid":"{mark}"}}', f'{{"iss":"{mark}","sub":"{mark}"}}', mark)
    return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts)


async def _misuse(broker: RunningBroker, session: aiohttp.ClientSession, mark: str) -> list[str]:
    """Send the mark wherever a caller could put a secret by mistake; return everything that came back."""
    answers: list[str] = []

    async def send(method: str, path: str, **request: object) -> None:
        async with session.request(method, broker.issuer + path, **request) as response:  # type: ignore[arg-type]
            answers.append(f"{response.headers} {await response.text()}")

    assertion_type = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    for path in FORM_PATHS:
        for form in (
            {"client_secret": mark, "client_id": "alpha", "grant_type": "client_credentials"},
            {"client_assertion": _jwt_like(mark), "client_assertion_type": assertion_type, "token": mark},
            {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": _jwt_like(mark)},
            {"token": _jwt_like(mark), "password": mark, "refresh_token": mark},
        ):
            await send("POST", path, data=form)
            await send("POST", path, data=form, headers={"DPoP": _jwt_like(mark), "Cookie": f"s={mark}"})
        await send("POST", path, data={}, headers={"Authorization": aiohttp.encode_basic_auth("alpha", mark)})
        await send("POST", f"{path}?client_secret={mark}", data={})
        await send("POST", path, data=mark, headers={"Content-Type": "application/json"})
    for path in JSON_PATHS:
        for scheme in ("Bearer", "DPoP", "Basic", "Nonsense"):
            await send(
                "POST", path, json={"code": mark, "unexpected": mark}, headers={"Authorization": f"{scheme} {mark}"}
            )
        await send("POST", path, json={"code": mark, "jwk": {"kty": "oct", "k": mark}, "proof": _jwt_like(mark)})
    await send("GET", f"/v1/agents?access_token={mark}")
    await send("GET", f"/{mark}")
    return answers


async def _proper_use(broker: RunningBroker) -> list[str]:
    """Use what works, and return every secret that was involved."""
    private = broker.agent("alpha")
    key = load_pem_private_key(private.read_bytes(), password=None)
    operator = load_pem_private_key((broker.home / "operator.pem").read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(operator, ec.EllipticCurvePrivateKey)
    used = [private.read_text(), (broker.home / "operator.pem").read_text(), (broker.home / "master.key").read_text()]
    async with (
        Client(broker.issuer, identity=KeyIdentity("alpha", key), dpop=True) as agent,
        Client(broker.issuer, identity=KeyIdentity("operator", operator)) as operators,
        aiohttp.ClientSession() as session,
    ):
        bound = await agent.token(TICKETS, ["tickets:comment"])
        token = await operators.token(f"{broker.issuer}/v1", ["operator:read", "revocations:write"])
        used += [bound.access_token, token.access_token]
        headers = {"Authorization": f"Bearer {token.access_token}", "Idempotency-Key": str(uuid.uuid4())}
        async with session.post(
            f"{broker.issuer}/oauth2/introspect", data={"token": bound.access_token}, headers=headers
        ) as response:
            assert (await response.json())["active"]
        body = {"selector": {"agent": "alpha"}, "reason": "canary"}
        async with session.post(f"{broker.issuer}/v1/revocations", json=body, headers=headers) as response:
            assert response.status == 201
    now = int(time.time())
    claims = {"iss": "alpha", "sub": "alpha", "aud": broker.issuer, "iat": now, "exp": now + 60, "jti": _marked()}
    assertion = jwt.encode(claims, key, algorithm="ES256")
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": assertion,
        "resource": TICKETS,
        "scope": "tickets:delete",
    }
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.post(f"{broker.issuer}/oauth2/token", data=form) as response:
                assert response.status == 400
    code = broker.ask("agent", "enroll", "newcomer")["code"]
    return [*used, assertion, code]


async def test_no_secret_comes_out(broker: RunningBroker) -> None:
    """Nothing that was sent or held as a secret is in answers, logs, metrics or any byte of the ledger's files."""
    mark = _marked()
    async with aiohttp.ClientSession() as session:
        answers = await _misuse(broker, session, mark)
        used = await _proper_use(broker)
        # The ledger breaks under the running broker: what it logs then must be clean, too.
        broker.ledger.rename(broker.ledger.with_suffix(".away"))
        answers += await _misuse(broker, session, mark)
        async with session.get(f"http://127.0.0.1:{broker.metrics}/metrics") as response:
            metrics = await response.text()
            assert response.status == 200
    broker.stop()
    needles = {mark, base64.urlsafe_b64encode(mark.encode()).decode().rstrip("=")[:-2]}
    for secret in used:
        lines = [line for line in secret.splitlines() if line and not line.startswith("-----")]
        needles.update(part for line in lines for part in line.split(".")[1:] or [line])
    files = [path.read_bytes() for path in broker.home.iterdir() if path.name.startswith("ledger")]
    places = [broker.log.read_bytes(), metrics.encode(), *(answer.encode() for answer in answers), *files]
    assert sum(map(len, files)) > 10_000
    for needle in needles:
        assert len(needle) >= 16
        for place in places:
            assert needle.encode() not in place, f"a secret came out: {place[:200]!r}"
