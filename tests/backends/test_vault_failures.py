"""A server that is down, sealed, slow, hostile or not set up: each in words of its own, and certain where it can be."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from broker.backends.vault import VaultBackend
from broker.backends.vault_direct import VaultDirect
from broker.backends.vault_messages import Answer, Ask
from broker.backends.vault_server import VaultServer
from broker.core.errors import BackendFailed, Code
from tests.support.certificates import certificate_for_loopback
from tests.support.faulty_vault import (
    MEBIBYTE,
    Fault,
    FaultyVault,
    done_but_lost,
    dripping,
    endless,
    hanging,
    hanging_up,
    saying,
    ten_megabytes,
    text,
)
from tests.support.identity_provider import IdentityProvider
from tests.support.openbao import BROKER_POLICY, OpenBao
from tests.support.postgres import Postgres
from tests.support.running_broker import free_port
from tests.support.vault_backends import (
    LEASE,
    VALUE,
    backend_on,
    broker_token,
    opened,
    order,
    taken,
    tells_nothing,
    token_file,
)

PATH = LEASE["path"]
UNAVAILABLE, REFUSED = Code.BACKEND_UNAVAILABLE, Code.BACKEND_REFUSED


@pytest.fixture
async def vault(bao: OpenBao) -> AsyncIterator[FaultyVault]:
    """A proxy that does no harm yet."""
    async with FaultyVault(bao.url) as proxy:
        yield proxy


@pytest.fixture
def own(bao: OpenBao) -> str:
    """The broker's own token."""
    return broker_token(bao)


@pytest.fixture
async def backend(vault: FaultyVault, own: str, tmp_path: Path) -> AsyncIterator[VaultBackend]:
    """A backend behind the proxy that waits for a few seconds only."""
    async with backend_on(vault.url, token_file(tmp_path, own), timeout_seconds=2.5) as made:
        yield made


# --- answers to take ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "outcome", "said"),
    [
        (ten_megabytes, (REFUSED, True), "longer than"),
        (endless, (REFUSED, True), "longer than"),
        (dripping, (UNAVAILABLE, True), "in time"),
        (hanging, (UNAVAILABLE, True), "in time"),
        (hanging_up, (UNAVAILABLE, True), "broke"),
        (text(b"<html>"), (REFUSED, True), "not one of Vault's"),
        (text(b"[" * 100_000), (REFUSED, True), "not one of Vault's"),
        (text(b'{"data": 1}'), (REFUSED, True), "not one of Vault's"),
        (text(gzip.compress(b" " * 5 * MEBIBYTE), Content_Encoding="gzip"), (REFUSED, True), "not one of Vault's"),
        (saying(200, {"data": {"password": "p"}}), (REFUSED, False), "without a lease"),
        (saying(200, {"lease_id": "x", "lease_duration": 0, "data": {}}), (REFUSED, False), "without a lease"),
        (saying(204), (REFUSED, False), "without a lease"),
        (saying(307, Location="http://127.0.0.1:9/v1/sys/seal-status"), (REFUSED, False), "redirect"),
        (saying(403, {"errors": ["permission denied"]}), (REFUSED, False), f'path "{PATH}"'),
        (saying(404, {"errors": []}), (REFUSED, False), "has nothing at"),
        (saying(400, {"errors": ["unknown role"]}), (REFUSED, False), "unknown role"),
        (saying(429, {"errors": []}, Retry_After="7"), (UNAVAILABLE, False), "fewer requests"),
        (saying(500, {"errors": ["connect: refused"]}), (UNAVAILABLE, True), "connect: refused"),
        (saying(502), (UNAVAILABLE, True), "HTTP 502"),
        (saying(503, {"errors": ["Vault is sealed"]}), (UNAVAILABLE, False), "sealed"),
        (saying(503, {"errors": ["error"]}), (UNAVAILABLE, True), "HTTP 503"),
    ],
)
async def test_what_take_makes_of_an_answer(
    backend: VaultBackend,
    vault: FaultyVault,
    bao: OpenBao,
    own: str,
    fault: Fault,
    outcome: tuple[Code, bool],
    said: str,
) -> None:
    """Asked once, whatever comes; if it is certain that there is no secret, the token for it is ended at once."""
    wanted = order(LEASE)
    handle = await backend.prepare(wanted)
    vault.faults[PATH] = fault

    with pytest.raises(BackendFailed) as failure:
        await backend.take(wanted, handle)

    assert (failure.value.code, failure.value.uncertain) == outcome
    assert said in failure.value.public
    assert (failure.value.retry_after is not None) == (outcome[0] is UNAVAILABLE)
    assert vault.asked.count(PATH) == 1
    assert vault.sent < 40 * MEBIBYTE  # most of it in the buffers of two sockets
    assert bao.accessor_is_good(handle["accessor"]) == outcome[1]
    tells_nothing(failure.value, [own])


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (ten_megabytes, REFUSED, "longer than"),
        (endless, REFUSED, "longer than"),
        (dripping, UNAVAILABLE, "in time"),
        (hanging, UNAVAILABLE, "in time"),
        (hanging_up, UNAVAILABLE, "broke"),
        (done_but_lost, UNAVAILABLE, "broke"),
        (text(b"<html>"), REFUSED, "not one of Vault's"),
        (text(b"[" * 100_000), REFUSED, "not one of Vault's"),
        (text(gzip.compress(b" " * 5 * MEBIBYTE), Content_Encoding="gzip"), REFUSED, "not one of Vault's"),
        (saying(307, Location="http://127.0.0.1:9/v1/sys/seal-status"), REFUSED, "redirect"),
        (saying(403, {"errors": ["permission denied"]}), REFUSED, 'path "sys/leases/revoke"'),
        (saying(404), REFUSED, "HTTP 404"),
        (saying(429, {"errors": []}, Retry_After="7"), UNAVAILABLE, "fewer requests"),
        (saying(500, {"errors": ["connect: refused"]}), UNAVAILABLE, "connect: refused"),
        (saying(502), UNAVAILABLE, "HTTP 502"),
        (saying(503, {"errors": ["Vault is sealed"]}), UNAVAILABLE, "sealed"),
    ],
)
async def test_what_revoke_makes_of_an_answer(
    backend: VaultBackend, vault: FaultyVault, own: str, fault: Fault, code: Code, said: str
) -> None:
    """Asked once, and never taken for done; when the server is well again, the same lease is revoked."""
    lease = await taken(backend, order(LEASE))
    vault.faults["sys/leases/revoke"] = fault
    vault.sent = 0

    with pytest.raises(BackendFailed) as failure:
        await backend.revoke(lease.handle)

    assert failure.value.code is code
    assert said in failure.value.public
    assert (failure.value.retry_after is not None) == (code is UNAVAILABLE)
    assert vault.asked.count("sys/leases/revoke") == 1
    assert vault.sent < 40 * MEBIBYTE  # as above
    tells_nothing(failure.value, [own])
    vault.faults.clear()
    assert (await backend.revoke(lease.handle)).revoked


async def test_a_secret_whose_answer_was_lost_is_ended_by_the_handle_of_prepare(
    backend: VaultBackend, vault: FaultyVault, bao: OpenBao, postgres: Postgres
) -> None:
    """The role was made; nobody knows its name; still it goes."""
    bao.with_role("lost")
    wanted = order({"path": "database/creds/lost"})
    handle = await backend.prepare(wanted)
    vault.faults["database/creds/lost"] = done_but_lost

    with pytest.raises(BackendFailed) as failure:
        await backend.take(wanted, handle)
    assert failure.value.uncertain
    assert len(bao.leases("database/creds/lost")) == 1

    assert (await backend.revoke(handle)).revoked
    for _ in range(200):
        if not bao.leases("database/creds/lost"):
            break
        await asyncio.sleep(0.05)
    assert bao.leases("database/creds/lost") == []


async def test_how_long_to_wait_is_the_server_s_word_within_reason(backend: VaultBackend, vault: FaultyVault) -> None:
    """A minute at most."""
    for header, seconds in (("7", 7), ("0", 1), ("99999999999", 60), ("Wed, 21 Oct 2026", 5)):
        vault.faults["auth/token/create-orphan"] = saying(429, {"errors": []}, Retry_After=header)
        with pytest.raises(BackendFailed) as failure:
            await backend.prepare(order(LEASE))
        assert failure.value.retry_after == seconds


@pytest.mark.parametrize("path", ["auth/token/lookup-self", "auth/token/create-orphan", "auth/token/create"])
@pytest.mark.parametrize("fault", [hanging_up, hanging, ten_megabytes, saying(500, {"errors": ["no"]})])
async def test_preparing_is_never_uncertain(backend: VaultBackend, vault: FaultyVault, path: str, fault: Fault) -> None:
    """A token that may have been made holds nothing, and ends by itself."""
    vault.faults[path] = fault
    with pytest.raises(BackendFailed) as failure:
        await backend.prepare(order(LEASE))
    assert not failure.value.uncertain


async def test_after_a_failure_the_next_request_is_made_as_if_nothing_had_happened(
    backend: VaultBackend, vault: FaultyVault
) -> None:
    """Nothing of a failed sign-in, or of a failed token, is kept."""
    for path in ("auth/token/lookup-self", "auth/token/create-orphan", "auth/token/create"):
        vault.faults[path] = hanging_up
        with pytest.raises(BackendFailed):
            await backend.prepare(order(LEASE))
        vault.faults.clear()
    lease = await taken(backend, order(LEASE))
    await backend.revoke(lease.handle)


async def test_all_who_wait_for_a_sign_in_that_hangs_fail_together(backend: VaultBackend, vault: FaultyVault) -> None:
    """Nobody waits for the time-outs of those before."""
    vault.faults["auth/token/lookup-self"] = hanging
    failures = await asyncio.gather(*(backend.prepare(order(LEASE)) for _ in range(30)), return_exceptions=True)
    assert all(isinstance(failure, BackendFailed) for failure in failures)
    assert vault.asked.count("auth/token/lookup-self") == 1


async def test_a_lease_that_cannot_be_shortened_is_given_as_it_is(backend: VaultBackend, vault: FaultyVault) -> None:
    """The broker ends it in time; Vault's word is what counts until then."""
    vault.faults["sys/leases/renew"] = saying(400, {"errors": ["lease is not renewable"]})
    lease = await taken(backend, order(LEASE, ttl=300, life=7200))
    assert lease.lease_seconds == 3600

    with pytest.raises(BackendFailed) as failure:
        await backend.renew(lease.handle, 100)
    assert failure.value.code is Code.LEASE_NOT_RENEWABLE


async def test_a_revocation_that_fails_says_why_without_telling(backend: VaultBackend, vault: FaultyVault) -> None:
    """200 characters, printable, without what looks like a secret."""
    lease = await taken(backend, order(LEASE))
    words = (
        "failed: password=hunter2 at postgres://root:hunter3@db:5432/x with s.AbCdEfGhIjKlMnOpQrStUvWx\n"
        "ALTER ROLE x PASSWORD 'hunter4' \x1b[31m token: hunter5 " + "x" * 500
    )
    for status, code in ((400, REFUSED), (500, UNAVAILABLE)):
        vault.faults["sys/leases/revoke"] = saying(status, {"errors": [words]})
        with pytest.raises(BackendFailed) as failure:
            await backend.revoke(lease.handle)
        assert failure.value.code is code
        assert "postgres://" in failure.value.public
        assert len(failure.value.public) < 300
        assert failure.value.public.isprintable()
        tells_nothing(failure.value, ["hunter", "AbCdEfGh"])
    vault.faults.clear()
    assert (await backend.revoke(lease.handle)).revoked


# --- what the operator has not allowed -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lacking", "named"),
    [
        ("auth/token/create-orphan", "auth/token/create-orphan"),
        ("auth/token/create", "auth/token/create"),
        ("database/creds/*", "database/creds/orders-ro"),
        ("sys/leases/revoke", "sys/leases/revoke"),
        ("auth/token/revoke-accessor", "auth/token/revoke-accessor"),
    ],
)
async def test_each_rule_of_the_broker_s_policy_is_needed_and_missed_by_its_name(
    bao: OpenBao, tmp_path: Path, lacking: str, named: str
) -> None:
    """The documented policy holds nothing to spare, and whoever forgets a part of it reads which."""
    rules = [line for line in BROKER_POLICY.splitlines() if f'"{lacking}"' not in line]
    assert len(rules) == len(BROKER_POLICY.splitlines()) - 1
    bao.write_policy("lacking", "\n".join(rules))
    async with backend_on(bao.url, token_file(tmp_path, bao.token("lacking"))) as backend:
        with pytest.raises(BackendFailed) as failure:
            await whole_life(backend)
    assert failure.value.code is REFUSED
    assert f'path "{named}" {{ capabilities = [' in failure.value.public


async def whole_life(backend: VaultBackend) -> None:
    """Take a lease, end it, and end what was prepared for it."""
    wanted = order(LEASE)
    handle = await backend.prepare(wanted)
    lease = await backend.take(wanted, handle)
    await backend.revoke(lease.handle)
    await backend.revoke(handle)


# --- connections ----------------------------------------------------------------------------------------------------


async def test_nobody_listens(tmp_path: Path) -> None:
    """Nothing was sent, so nothing can have happened."""
    async with backend_on(f"http://127.0.0.1:{free_port()}", token_file(tmp_path, "s.token")) as backend:
        with pytest.raises(BackendFailed) as failure:
            await backend.prepare(order(LEASE))
        assert (failure.value.code, failure.value.uncertain) == (UNAVAILABLE, False)
        assert "cannot be reached" in failure.value.public
        with pytest.raises(BackendFailed) as failure:
            await backend.revoke({"kind": "lease", "lease_id": "x", "accessor": "y", "ends": "1"})
        assert failure.value.code is UNAVAILABLE


async def test_a_name_that_nobody_has(tmp_path: Path) -> None:
    """The same as nobody listening."""
    async with backend_on("https://vault.invalid", token_file(tmp_path, "s.token")) as backend:
        with pytest.raises(BackendFailed) as failure:
            await backend.prepare(order(LEASE))
    assert (failure.value.code, failure.value.uncertain) == (UNAVAILABLE, False)


@pytest.mark.parametrize("namespace", ["team\r\nX-Evil: 1", "naïve", "a b"])
async def test_a_namespace_that_is_no_header_is_refused(bao: OpenBao, own: str, tmp_path: Path, namespace: str) -> None:
    """Nothing of it reaches the wire."""
    async with backend_on(bao.url, token_file(tmp_path, own)) as backend:
        with pytest.raises(BackendFailed) as failure:
            await taken(backend, order({**VALUE, "namespace": namespace}))
    assert (failure.value.code, failure.value.uncertain) == (REFUSED, False)


async def test_the_environment_s_proxies_and_passwords_are_not_used(
    bao: OpenBao, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets go to the address that the operator gave, and nowhere else."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:9")
    monkeypatch.setenv("VAULT_TOKEN", "s.somebody-elses")
    async with backend_on(bao.url, token_file(tmp_path, own)) as backend:
        assert (await taken(backend, order(VALUE))).handle["kind"] == "static"


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A server with a certificate of its own."""
    with OpenBao(tls=certificate_for_loopback(tmp_path_factory.mktemp("tls"))) as server:
        server.write_policy("broker", BROKER_POLICY)
        server.with_values({"demo": {"password": "over-tls"}})
        yield server


async def test_a_certificate_that_ca_file_vouches_for(tls: OpenBao, tmp_path: Path) -> None:
    """With it, all is well."""
    assert tls.tls is not None
    sign_in = token_file(tmp_path, broker_token(tls))
    async with backend_on(tls.url, sign_in, ca_file=str(tls.tls[0])) as backend:
        assert opened(await taken(backend, order(VALUE))) == {"password": "over-tls"}


@pytest.mark.parametrize("other", [False, True])
async def test_a_certificate_that_nobody_vouches_for(tls: OpenBao, tmp_path: Path, other: bool) -> None:
    """Without, or with another's, the text says what to do, and nothing was sent."""
    ca_file = str(certificate_for_loopback(tmp_path, "other")[0]) if other else None
    sign_in = token_file(tmp_path, broker_token(tls))
    async with backend_on(tls.url, sign_in, ca_file=ca_file) as backend:
        with pytest.raises(BackendFailed) as failure:
            await backend.prepare(order(VALUE))
    assert (failure.value.code, failure.value.uncertain) == (REFUSED, False)
    assert "not trusted" in failure.value.public


@pytest.mark.parametrize("root", ["its own", "another's", "the system's"])
async def test_revocations_which_are_sent_in_a_way_of_their_own_trust_the_same(
    tls: OpenBao, tmp_path: Path, root: str
) -> None:
    """Whom ``ca_file`` vouches for is asked, and nobody else."""
    assert tls.tls is not None
    own = broker_token(tls)
    roots = {"its own": tls.tls[0], "another's": certificate_for_loopback(tmp_path, "other")[0]}
    ca_file = str(roots[root]) if root in roots else None
    server = VaultServer(address=tls.url, sign_in=token_file(tmp_path, own), ca_file=ca_file)
    ask = Ask("POST", "sys/leases/revoke", body={"lease_id": "database/creds/none/1", "sync": True}, often=True)
    http = VaultDirect("vault", server)
    (answer,) = await asyncio.gather(http.send(ask, own), return_exceptions=True)
    await http.close()
    if root == "its own":
        assert isinstance(answer, Answer)
        assert (answer.status, answer.errors) == (204, ())
        return
    assert isinstance(answer, BackendFailed)
    assert (answer.code, answer.uncertain) == (REFUSED, False)
    assert "not trusted" in answer.public
    tells_nothing(answer, [own])


async def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    """Its root is trusted, but it is somebody else's."""
    pem, private = certificate_for_loopback(tmp_path, address="127.0.0.2")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, private)
    provider = IdentityProvider(time.time).with_tls(context)
    async with provider:
        url = provider.url.replace("localhost", "127.0.0.1")
        async with backend_on(url, token_file(tmp_path, "s.x"), ca_file=str(pem)) as backend:
            with pytest.raises(BackendFailed) as failure:
                await backend.prepare(order(VALUE))
    assert failure.value.code is REFUSED
    assert "not trusted" in failure.value.public
    assert not provider.asked


async def test_a_server_without_tls_where_tls_was_expected(bao: OpenBao, tmp_path: Path) -> None:
    """A broken connection, and no fallback."""
    async with backend_on(bao.url.replace("http:", "https:"), token_file(tmp_path, "s.x")) as backend:
        with pytest.raises(BackendFailed) as failure:
            await backend.prepare(order(VALUE))
    assert failure.value.code is UNAVAILABLE


def test_a_ca_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    """Before any request."""
    with pytest.raises(OSError, match="No such file"):
        asyncio.run(_made(tmp_path))


async def _made(folder: Path) -> None:
    async with backend_on("https://127.0.0.1:9", token_file(folder, "s.x"), ca_file=str(folder / "absent")):
        raise AssertionError
