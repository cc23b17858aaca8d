"""What is no lease: static values and certificates of a real OpenBao, and other namespaces."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from broker.backends.vault import VaultBackend
from broker.core.errors import BackendFailed, Code
from tests.support.openbao import BROKER_POLICY, OpenBao
from tests.support.postgres import Postgres
from tests.support.vault_backends import (
    CERTIFICATE,
    LEASE,
    VALUE,
    AheadClock,
    backend_on,
    broker_token,
    opened,
    order,
    taken,
    token_file,
)


@pytest.fixture
def clock() -> AheadClock:
    """The real time, until it is put ahead."""
    return AheadClock()


@pytest.fixture
async def backend(bao: OpenBao, tmp_path: Path, clock: AheadClock) -> AsyncIterator[VaultBackend]:
    """A backend that signs in with a token."""
    async with backend_on(bao.url, token_file(tmp_path, broker_token(bao)), clock=clock) as made:
        yield made


# --- static values --------------------------------------------------------------------------------------------------


async def test_a_static_value_says_that_nobody_can_revoke_it(backend: VaultBackend, bao: OpenBao) -> None:
    """It is given out, and the end of its lease is no more than that nobody may ask again."""
    value = await taken(backend, order(VALUE))

    assert opened(value) == {"user": "app", "password": "stored-password"}
    assert (value.revocable, value.renewable, value.lease_seconds) == (False, False, None)
    assert value.handle["kind"] == "static"
    assert bao.lookup(value.handle["accessor"])["explicit_max_ttl"] <= 60

    ended = await backend.revoke(value.handle)

    assert (ended.revoked, ended.expires_at) == (False, None)
    assert ended.note
    assert not bao.accessor_is_good(value.handle["accessor"])
    with pytest.raises(BackendFailed) as failure:
        await backend.renew(value.handle, 60)
    assert failure.value.code is Code.LEASE_NOT_RENEWABLE


async def test_a_version_and_a_member_of_a_value_can_be_asked_for(backend: VaultBackend, bao: OpenBao) -> None:
    """An older version stays what it was; of a value, an agent gets the member that it needs."""
    for password in ("one", "two"):
        bao.call("POST", "secret/data/deep/down", {"data": {"user": "app", "password": password, "port": 5432}})
    deep = {"path": "secret/deep/down", "engine": "kv2"}

    assert opened(await taken(backend, order(deep)))["password"] == "two"
    assert opened(await taken(backend, order({**deep, "version": 1})))["password"] == "one"
    assert opened(await taken(backend, order({**deep, "key": "port"}))) == {"port": 5432}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"path": "secret/nowhere", "engine": "kv2"}, "has nothing at secret/data/nowhere"),
        ({"path": "secret/demo", "engine": "kv2", "version": 99}, "has nothing at"),
        ({"path": "secret/demo", "engine": "kv2", "key": "absent"}, "no member absent"),
        ({"path": "secret/data/demo"}, "without a lease"),
        ({"path": "database/creds/nobody"}, "unknown role"),
        ({"path": "elsewhere/creds/orders"}, 'path "elsewhere/creds/orders" { capabilities = ["read"] }'),
        ({"path": "pki/issue/agents", "engine": "pki", "parameters": {"common_name": "x.example"}}, "not allowed"),
        ({"path": "pki/roles/agents", "engine": "pki", "parameters": {}}, "issues no certificates"),
        ({"path": "database/../sys/seal"}, "path"),
        ({"path": "secret//demo"}, "path"),
    ],
)
async def test_what_cannot_be_had_is_refused_and_leaves_nothing(
    backend: VaultBackend, bao: OpenBao, settings: dict[str, Any], said: str
) -> None:
    """The text says what an operator has to look at; the token that was made for it is ended."""
    before = len(bao.call("LIST", "auth/token/accessors")["data"]["keys"])

    with pytest.raises(BackendFailed) as failure:
        await taken(backend, order(settings, task="task_refusals"))

    assert failure.value.code is Code.BACKEND_REFUSED
    assert not failure.value.uncertain
    assert said in failure.value.public
    assert len(bao.call("LIST", "auth/token/accessors")["data"]["keys"]) <= before + 1  # the task's own


# --- certificates ---------------------------------------------------------------------------------------------------


def crl(bao: OpenBao) -> set[int]:
    """The serial numbers that are revoked."""
    text = bao.call("GET", "pki/cert/crl")["data"]["certificate"]
    return {entry.serial_number for entry in x509.load_pem_x509_crl(text.encode())}


async def test_a_certificate_is_revoked_by_its_serial_number(backend: VaultBackend, bao: OpenBao) -> None:
    """It comes with its key, for as long as was asked; afterwards it is on the list."""
    issued = await taken(backend, order(CERTIFICATE, ttl=600))
    data = opened(issued)
    certificate = x509.load_pem_x509_certificate(data["certificate"].encode())
    assert "PRIVATE KEY" in data["private_key"]
    assert issued.lease_seconds is not None
    assert 590 <= issued.lease_seconds <= 600
    assert issued.revocable
    assert not issued.renewable
    assert data["private_key"] not in str(dict(issued.handle))
    assert certificate.serial_number not in crl(bao)

    ended = await backend.revoke(issued.handle)
    again = await backend.revoke(issued.handle)

    assert ended.revoked
    assert again.revoked
    assert "revocation list" in (ended.note or "")
    assert certificate.serial_number in crl(bao)


async def test_a_certificate_that_was_never_handed_out_is_ended_with_a_true_word(backend: VaultBackend) -> None:
    """A certificate may have been issued, whose key nobody has; and expired ones need no revocation."""
    ended = await backend.revoke(await backend.prepare(order(CERTIFICATE)))
    assert ended.revoked
    assert "nobody has its key" in (ended.note or "")


async def test_a_certificate_whose_mount_is_gone_is_not_called_revoked(backend: VaultBackend) -> None:
    """Vault's word that there is no such path says nothing about the certificate."""
    issued = await taken(backend, order(CERTIFICATE))
    with pytest.raises(BackendFailed) as failure:
        await backend.revoke({**issued.handle, "mount": "secret"})
    assert failure.value.code is Code.BACKEND_REFUSED


async def test_a_certificate_that_is_not_stored_is_not_called_revoked(backend: VaultBackend, clock: AheadClock) -> None:
    """It is good until it expires, which is what the broker says; later, that it has."""
    unstored = {**CERTIFICATE, "path": "pki/issue/unstored"}
    issued = await taken(backend, order(unstored, ttl=600))

    ended = await backend.revoke(issued.handle)
    assert not ended.revoked
    assert ended.expires_at is not None
    assert 590 <= ended.expires_at - time.time() <= 605

    clock.ahead = 700
    assert (await backend.revoke(issued.handle)).revoked


# --- requests with parameters, and namespaces -----------------------------------------------------------------------


async def test_parameters_are_sent_and_their_ttl_counts(backend: VaultBackend) -> None:
    """What the policy's author wrote stands, the time included."""
    parameters = {"common_name": "other.internal", "ttl": "120s"}
    issued = await taken(backend, order({**CERTIFICATE, "parameters": parameters}, ttl=600))

    assert issued.lease_seconds is not None
    assert issued.lease_seconds <= 120
    certificate = x509.load_pem_x509_certificate(opened(issued)["certificate"].encode())
    assert certificate.subject.rfc4514_string() == "CN=other.internal"


async def test_a_secret_of_another_namespace_lives_and_ends_there(
    bao: OpenBao, postgres: Postgres, tmp_path: Path
) -> None:
    """The broker signs in once, in its own namespace, and works in those below."""
    bao.call("POST", "sys/namespaces/team-a")
    bao.with_database(postgres, namespace="team-a")
    bao.write_policy("below", BROKER_POLICY + BROKER_POLICY.replace('path "', 'path "team-a/'))
    async with backend_on(bao.url, token_file(tmp_path, bao.token("below"))) as backend:
        lease = await taken(backend, order({**LEASE, "namespace": "team-a"}))
        data = opened(lease)
        assert lease.handle["namespace"] == "team-a"
        assert lease.lease_seconds == 300
        assert postgres.lets_in(data["username"], data["password"])

        await backend.revoke(lease.handle)

    assert not postgres.lets_in(data["username"], data["password"])
