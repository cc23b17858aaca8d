"""What an operator does to a running broker: reload, renew its certificate, stop it, break its disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import ssl
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.support.client_load import read_key, token_form
from tests.support.locked_ledger import locked
from tests.support.running_broker import TICKETS, RunningBroker

PATIENCE = 10.0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """A broker that is set up but not started; whatever runs at the end is killed."""
    running = RunningBroker(tmp_path)
    running.initialise()
    yield running
    running.kill()


def _form(broker: RunningBroker, name: str, key_file: Path, resource: str, scope: str) -> dict[str, str]:
    return token_form(broker.issuer, name, read_key(key_file), resource=resource, scope=scope)


async def _ask(
    session: aiohttp.ClientSession, broker: RunningBroker, form: dict[str, str]
) -> tuple[int, dict[str, str]]:
    async with session.post(f"{broker.issuer}/oauth2/token", data=form) as response:
        return response.status, json.loads(await response.read())


async def _operator(session: aiohttp.ClientSession, broker: RunningBroker) -> dict[str, str]:
    scope = "operator:read revocations:write"
    form = _form(broker, "operator", broker.home / "operator.pem", f"{broker.issuer}/v1", scope)
    _, answer = await _ask(session, broker, form)
    return {"Authorization": f"Bearer {answer['access_token']}"}


def _logged(broker: RunningBroker, event: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in broker.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


async def _until(condition: object, what: str) -> None:
    """Wait until a condition holds, or fail."""
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


async def test_sighup_takes_a_good_policy_and_leaves_a_bad_one(broker: RunningBroker) -> None:
    """A policy with an error changes nothing and says what is wrong; a good one is in force at once."""
    broker.start()
    assert broker.process is not None
    key = broker.agent("alpha")
    policy = broker.home / "policy.yaml"
    good = policy.read_text()
    async with aiohttp.ClientSession() as session:
        policy.write_text(good.replace("{tier: read}", "{tier: raed}"))
        broker.process.send_signal(signal.SIGHUP)
        await _until(lambda: _logged(broker, "policy.not_reloaded"), "the bad policy was not refused")
        assert "raed" in str(_logged(broker, "policy.not_reloaded"))
        status, _ = await _ask(session, broker, _form(broker, "alpha", key, TICKETS, "tickets:read"))
        assert status == 200
        policy.write_text(good.replace("{agent: alpha}, ", ""))
        broker.process.send_signal(signal.SIGHUP)
        await _until(lambda: _logged(broker, "policy.reloaded"), "the good policy was not taken")
        status, answer = await _ask(session, broker, _form(broker, "alpha", key, TICKETS, "tickets:read"))
        assert (status, answer["code"]) == (400, "no_role")
    assert broker.stop() == 0


def _certificate(folder: Path, name: str) -> bytes:
    """Write a fresh self-signed certificate for the loopback address, and return it (DER)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate.public_bytes(Encoding.DER)


async def _served_certificate(port: int) -> bytes | None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    except OSError:
        return None
    served: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return served


async def test_tls_and_a_renewed_certificate(broker: RunningBroker) -> None:
    """The broker speaks TLS; after SIGHUP new connections get the new certificate, and a broken one is not taken."""
    first = _certificate(broker.home, "first")
    text = broker.config.read_text().replace(f"http://127.0.0.1:{broker.port}", f"https://127.0.0.1:{broker.port}")
    broker.config.write_text(text.replace("[listen]", '[listen]\ncertificate = "tls.crt"\nkey = "tls.key"'))
    process = broker.launch()
    served: bytes | None = None
    deadline = time.monotonic() + 3 * PATIENCE
    while served is None:
        assert process.poll() is None, broker.log.read_text()
        assert time.monotonic() < deadline
        served = await _served_certificate(broker.port)
    assert served == first
    (broker.home / "tls.crt").write_text("no certificate")
    process.send_signal(signal.SIGHUP)
    await _until(lambda: _logged(broker, "certificate.not_reloaded"), "the broken certificate was not refused")
    assert await _served_certificate(broker.port) == first
    second = _certificate(broker.home, "second")
    process.send_signal(signal.SIGHUP)
    await _until(lambda: len(_logged(broker, "policy.reloaded")) == 2, "the second reload did not happen")
    assert await _served_certificate(broker.port) == second
    assert broker.stop() == 0


async def test_a_stop_answers_what_was_accepted(broker: RunningBroker) -> None:
    """SIGTERM under load: every answer is whole, every token that came out is in the ledger, the exit code is 0."""
    broker.start()
    key = broker.agent("alpha")
    forms = [_form(broker, "alpha", key, TICKETS, "tickets:read") for _ in range(200)]
    process = broker.process
    assert process is not None
    tokens: list[str] = []
    statuses: set[int] = set()

    async def one(session: aiohttp.ClientSession, form: dict[str, str]) -> None:
        try:
            status, answer = await _ask(session, broker, form)
        except aiohttp.ClientConnectionError:
            return  # not accepted any more
        statuses.add(status)
        if status == 200:
            tokens.append(jwt.decode(answer["access_token"], options={"verify_signature": False})["jti"])

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=32)) as session:
        work = [asyncio.ensure_future(one(session, form)) for form in forms]
        await _until(lambda: len(tokens) >= 20, "no tokens were issued")
        process.send_signal(signal.SIGTERM)
        await asyncio.gather(*work)
    assert await asyncio.to_thread(process.wait, 30) == 0
    assert statuses <= {200, 503}
    with contextlib.closing(sqlite3.connect(f"file:{broker.ledger}?mode=ro", uri=True)) as connection:
        recorded = {row[0] for row in connection.execute("SELECT ref FROM entries WHERE kind = 'token.issued'")}
    assert set(tokens) <= recorded
    broker.command("ledger", "verify", "--file", str(broker.ledger))


async def test_a_ledger_that_cannot_be_written(broker: RunningBroker) -> None:
    """No token is issued; a revocation acts at once and says that it is not durable; later it is written by itself."""
    broker.start()
    key = broker.agent("alpha")
    async with aiohttp.ClientSession() as session:
        operator = await _operator(session, broker)
        _, answer = await _ask(session, broker, _form(broker, "alpha", key, TICKETS, "tickets:read"))
        token = answer["access_token"]

        async def active() -> bool:
            url = f"{broker.issuer}/oauth2/introspect"
            async with session.post(url, data={"token": token}, headers=operator) as response:
                said: bool = (await response.json())["active"]
                return said

        assert await active()
        async with locked(broker.ledger):
            status, refused = await _ask(session, broker, _form(broker, "alpha", key, TICKETS, "tickets:read"))
            assert (status, refused["code"]) == (503, "ledger_unavailable")
            assert "access_token" not in refused
            body = {"selector": {"agent": "alpha"}, "reason": "the disk is broken and the agent hijacked"}
            headers = {**operator, "Idempotency-Key": str(uuid.uuid4())}
            async with session.post(f"{broker.issuer}/v1/revocations", json=body, headers=headers) as response:
                made = await response.json()
                assert (response.status, made["durable"]) == (202, False)
            assert not await active()
        await _until(lambda: _logged(broker, "rule.written_late"), "the rule was not written later")
        async with session.get(f"{broker.issuer}/v1/revocations/1", headers=operator) as response:
            assert (await response.json())["id"] == made["id"]
        assert not await active()
        status, _ = await _ask(session, broker, _form(broker, "alpha", key, TICKETS, "tickets:read"))
        assert status == 200
    assert broker.stop() == 0
    broker.command("ledger", "verify", "--file", str(broker.ledger))
