"""Leases of a real OpenBao: roles of a real PostgreSQL that come, are renewed, and go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.backends.vault import VaultBackend
from broker.core.errors import BackendFailed, Code
from broker.core.lease import Taken
from tests.support.openbao import OpenBao
from tests.support.postgres import Postgres
from tests.support.vault_backends import (
    LEASE,
    AheadClock,
    backend_on,
    broker_token,
    opened,
    order,
    taken,
    tells_nothing,
    token_file,
)


@pytest.fixture
def own(bao: OpenBao) -> str:
    """The broker's own token."""
    return broker_token(bao)


@pytest.fixture
def clock() -> AheadClock:
    """The real time, until it is put ahead."""
    return AheadClock()


@pytest.fixture
async def backend(bao: OpenBao, own: str, tmp_path: Path, clock: AheadClock) -> AsyncIterator[VaultBackend]:
    """A backend that signs in with a token."""
    async with backend_on(bao.url, token_file(tmp_path, own), clock=clock) as made:
        yield made


def works(postgres: Postgres, lease: Taken) -> bool:
    """Whether the database lets in who holds a lease."""
    data = opened(lease)
    return postgres.lets_in(data["username"], data["password"])


async def dies(postgres: Postgres, lease: Taken) -> bool:
    """Whether the database soon does not let in who holds a lease: Vault ends what a token made one by one."""
    for _ in range(200):
        if not works(postgres, lease):
            return True
        await asyncio.sleep(0.05)
    return False


async def ends(bao: OpenBao, accessor: str) -> bool:
    """Whether a token is soon known no more."""
    for _ in range(200):
        if not bao.accessor_is_good(accessor):
            return True
        await asyncio.sleep(0.05)
    return False


async def test_a_role_works_until_its_lease_is_revoked(backend: VaultBackend, bao: OpenBao, postgres: Postgres) -> None:
    """When revoke returns, the database knows the role no more: nothing is left to wait for. Its token follows."""
    lease = await taken(backend, order(LEASE))
    assert works(postgres, lease)
    assert (lease.revocable, lease.renewable) == (True, True)

    ended = await backend.revoke(lease.handle)

    assert not works(postgres, lease)
    assert ended.revoked
    user = opened(lease)["username"]
    assert postgres.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", user) == []
    assert await ends(bao, lease.handle["accessor"])
    assert bao.accessor_is_good(lease.handle["task_accessor"])


async def test_a_lease_is_as_long_as_it_was_asked_for(backend: VaultBackend, bao: OpenBao, postgres: Postgres) -> None:
    """The role's own time is an hour; the lease was for five minutes, in Vault and in the database, too."""
    lease = await taken(backend, order(LEASE, ttl=300))

    assert lease.lease_seconds == 300
    found = bao.call("POST", "sys/leases/lookup", {"lease_id": lease.handle["lease_id"]})["data"]
    assert 290 <= found["ttl"] <= 300
    user = opened(lease)["username"]
    (left,) = postgres.execute(
        "SELECT extract(epoch FROM rolvaliduntil - now()) FROM pg_roles WHERE rolname = %s", user
    )
    assert 290 <= float(left[0]) <= 305


async def test_a_lease_that_cannot_be_shortened_ends_with_its_token(backend: VaultBackend, bao: OpenBao) -> None:
    """Vault says an hour; no more than the rest of the lease's time is promised, and Vault ends it then by itself."""
    wanted = order(LEASE, ttl=7200, life=900)
    lease = await taken(backend, wanted)

    assert lease.lease_seconds is not None
    assert 890 <= lease.lease_seconds <= 900
    token = bao.lookup(lease.handle["accessor"])
    assert token["explicit_max_ttl"] <= 900
    assert not token["renewable"]


async def test_vault_itself_ends_a_lease_that_nobody_revokes(
    backend: VaultBackend, bao: OpenBao, postgres: Postgres
) -> None:
    """The broker may be gone for good: the end of the lease's time is kept by Vault."""
    lease = await taken(backend, order(LEASE, ttl=60, life=2))
    assert works(postgres, lease)

    assert await dies(postgres, lease)
    assert not bao.accessor_is_good(lease.handle["accessor"])


async def test_what_was_never_handed_out_is_ended_by_the_handle_of_prepare(
    backend: VaultBackend, bao: OpenBao, postgres: Postgres
) -> None:
    """The broker died between taking and sealing: the handle from before is enough."""
    wanted = order(LEASE)
    handle = await backend.prepare(wanted)
    lease = await backend.take(wanted, handle)
    assert works(postgres, lease)

    assert (await backend.revoke(handle)).revoked

    assert await dies(postgres, lease)
    assert bao.leases(LEASE["path"]).count(lease.handle["lease_id"].rpartition("/")[2]) == 0


async def test_what_was_revoked_before_it_was_taken_is_never_made(backend: VaultBackend, bao: OpenBao) -> None:
    """A late take does not bring back what was ended."""
    wanted = order(LEASE)
    handle = await backend.prepare(wanted)
    before = bao.leases(LEASE["path"])

    await backend.revoke(handle)

    with pytest.raises(BackendFailed) as failure:
        await backend.take(wanted, handle)
    assert not failure.value.uncertain
    assert bao.leases(LEASE["path"]) == before


async def test_another_process_cannot_take_what_this_one_prepared(
    backend: VaultBackend, bao: OpenBao, own: str, tmp_path: Path
) -> None:
    """The token's value is in the memory of the one that prepared; the other one can still end it."""
    wanted = order(LEASE)
    handle = await backend.prepare(wanted)
    async with backend_on(bao.url, token_file(tmp_path, own)) as other:
        with pytest.raises(BackendFailed) as failure:
            await other.take(wanted, handle)
        assert (failure.value.code, failure.value.uncertain) == (Code.BACKEND_UNAVAILABLE, False)

        assert (await other.revoke(handle)).revoked
    assert not bao.accessor_is_good(handle["accessor"])


async def test_revoking_twice_and_at_once_and_what_never_was_succeeds(backend: VaultBackend, bao: OpenBao) -> None:
    """Whoever asks for an end gets it, however often."""
    lease = await taken(backend, order(LEASE))

    ended = await asyncio.gather(*(backend.revoke(lease.handle) for _ in range(5)))
    again = await backend.revoke(lease.handle)
    never = await backend.revoke(
        {**lease.handle, "lease_id": "database/creds/orders-ro/neverwas", "accessor": "nobody"}
    )
    unsealed = await backend.revoke({"kind": "unsealed", "accessor": "nobody"})

    assert all(one.revoked for one in (*ended, again, never, unsealed))


async def test_a_handle_holds_all_that_a_restart_needs_and_no_secret(
    backend: VaultBackend, bao: OpenBao, own: str, postgres: Postgres, tmp_path: Path
) -> None:
    """It is text by text, and goes through a ledger."""
    lease = await taken(backend, order(LEASE))
    data = opened(lease)
    text = str(dict(lease.handle))
    assert all(isinstance(value, str) for value in lease.handle.values())
    assert data["password"] not in text
    assert own not in text
    assert data["password"] not in repr(lease)

    async with backend_on(bao.url, token_file(tmp_path, own)) as other:
        assert 595 <= await other.renew(lease.handle, 600) <= 600
        await other.revoke(lease.handle)
    assert not works(postgres, lease)


# --- renewing -------------------------------------------------------------------------------------------------------


async def test_renewing_lengthens_a_lease_but_not_beyond_its_end(backend: VaultBackend, bao: OpenBao) -> None:
    """However often it is renewed, the order's end stands."""
    lease = await taken(backend, order(LEASE, ttl=100, life=600))

    assert await backend.renew(lease.handle, 400) == 400
    assert 590 <= await backend.renew(lease.handle, 5000) <= 600
    found = bao.call("POST", "sys/leases/lookup", {"lease_id": lease.handle["lease_id"]})["data"]
    assert found["ttl"] <= 600


async def test_renewing_what_has_ended_says_so(backend: VaultBackend, clock: AheadClock) -> None:
    """Revoked in Vault or over by time: the same word."""
    revoked, over = await taken(backend, order(LEASE)), await taken(backend, order(LEASE, life=500))
    await backend.revoke(revoked.handle)

    with pytest.raises(BackendFailed) as failure:
        await backend.renew(revoked.handle, 100)
    assert failure.value.code is Code.LEASE_ENDED

    clock.ahead = 600
    with pytest.raises(BackendFailed) as failure:
        await backend.renew(over.handle, 100)
    assert failure.value.code is Code.LEASE_ENDED


# --- tasks ----------------------------------------------------------------------------------------------------------


async def test_leases_of_a_task_share_a_token_that_ends_them_all(
    backend: VaultBackend, bao: OpenBao, postgres: Postgres
) -> None:
    """Ten leases at once make one token of the task; ending that ends them, and no other task's."""
    mine = await asyncio.gather(*(taken(backend, order(LEASE, task="task_shared")) for _ in range(10)))
    other = await taken(backend, order(LEASE))
    accessors = {lease.handle["task_accessor"] for lease in mine}
    assert len(accessors) == 1
    assert len({lease.handle["accessor"] for lease in mine}) == 10

    await backend.revoke_task(accessors.pop())

    assert all([await dies(postgres, lease) for lease in mine])
    assert works(postgres, other)


async def test_a_task_whose_token_was_ended_in_vault_gets_another_one(backend: VaultBackend, bao: OpenBao) -> None:
    """Whether the task may have leases, the broker decides."""
    first = await taken(backend, order(LEASE, task="task_again"))
    bao.call("POST", "auth/token/revoke-accessor", {"accessor": first.handle["task_accessor"]})

    again = await asyncio.gather(*(taken(backend, order(LEASE, task="task_again")) for _ in range(5)))

    assert {lease.handle["task_accessor"] for lease in again} & {first.handle["task_accessor"]} == set()
    assert len({lease.handle["task_accessor"] for lease in again}) == 1


async def test_tokens_say_whose_they_are_and_end_with_the_task(backend: VaultBackend, bao: OpenBao) -> None:
    """In Vault's own records a lease has its agent, its task and its name."""
    wanted = order(LEASE, life=600)
    lease = await taken(backend, wanted)

    task, token = bao.lookup(lease.handle["task_accessor"]), bao.lookup(lease.handle["accessor"])

    assert task["meta"] == {"agent": "agent:alpha", "task": wanted.task}
    assert task["orphan"]
    assert 1190 <= task["explicit_max_ttl"] <= 1200
    assert token["meta"]["lease"] == wanted.lease
    assert not token["orphan"]
    read = [entry["auth"]["metadata"] for entry in bao.asked(LEASE["path"])]
    assert wanted.lease in [meta["lease"] for meta in read if meta]


async def test_leases_outlive_the_broker_s_own_token(
    backend: VaultBackend, bao: OpenBao, own: str, postgres: Postgres
) -> None:
    """What is alive does not die because the broker's token did."""
    lease = await taken(backend, order(LEASE))

    bao.call("POST", "auth/token/revoke", {"token": own})

    assert not bao.token_is_good(own)
    assert bao.accessor_is_good(lease.handle["task_accessor"])
    assert works(postgres, lease)


async def test_a_prefix_is_revoked_by_who_may(bao: OpenBao, postgres: Postgres, tmp_path: Path) -> None:
    """In an incident, whatever a path has ever made is ended; it takes more than the broker's everyday policy."""
    bao.with_role("burnt")
    everyday = broker_token(bao)
    async with backend_on(bao.url, token_file(tmp_path, everyday)) as backend:
        lease = await taken(backend, order({"path": "database/creds/burnt"}))
        with pytest.raises(BackendFailed) as failure:
            await backend.revoke_prefix("database/creds/burnt")
        assert 'path "sys/leases/revoke-prefix/database/creds/burnt"' in failure.value.public
        assert '"sudo"' in failure.value.public
        assert works(postgres, lease)

    path = "sys/leases/revoke-prefix/*"
    bao.write_policy("incidents", f'path "{path}" {{ capabilities = ["update", "sudo"] }}')
    async with backend_on(bao.url, token_file(tmp_path, bao.token("broker", "incidents"))) as backend:
        await backend.revoke_prefix("database/creds/burnt")
    assert not works(postgres, lease)


async def test_what_is_below_a_prefix_ends_though_it_takes_longer_than_a_request_may(
    bao: OpenBao, postgres: Postgres, tmp_path: Path
) -> None:
    """Vault goes on by itself, and the caller is not told that it is done before it is."""
    slow = ["SELECT pg_sleep(0.6)", 'DROP ROLE "{{name}}"']
    bao.with_role("slow", revocation_statements=slow)
    bao.write_policy("incidents", 'path "sys/leases/revoke-prefix/*" { capabilities = ["update", "sudo"] }')
    sign_in = token_file(tmp_path, bao.token("broker", "incidents"))
    async with backend_on(bao.url, sign_in, timeout_seconds=2.5) as backend:
        leases = [await taken(backend, order({"path": "database/creds/slow"})) for _ in range(8)]
        with pytest.raises(BackendFailed) as failure:
            await backend.revoke_prefix("database/creds/slow")
        assert (failure.value.code, failure.value.uncertain) == (Code.BACKEND_UNAVAILABLE, True)
        assert "ask again" in failure.value.public
        assert all([await dies(postgres, lease) for lease in leases])
        while bao.leases("database/creds/slow"):  # noqa: ASYNC110 - OpenBao tells nobody
            await asyncio.sleep(0.05)
        await backend.revoke_prefix("database/creds/slow")


@pytest.mark.parametrize("prefix", ["", "/", "database/../auth", "database//creds", "database/creds?x=1", "a/#"])
async def test_a_prefix_that_is_no_path_is_refused(backend: VaultBackend, prefix: str) -> None:
    """Nothing of the kind reaches Vault, where it might mean more than was meant."""
    with pytest.raises(BackendFailed) as failure:
        await backend.revoke_prefix(prefix)
    assert failure.value.code is Code.BACKEND_REFUSED


# --- what cannot be ended -------------------------------------------------------------------------------------------


async def test_a_role_that_the_database_does_not_drop_is_not_called_revoked(
    backend: VaultBackend, bao: OpenBao, postgres: Postgres
) -> None:
    """The stuck case: Vault's reason is passed on, the role still works, and trying again works once it can."""
    bao.with_role("sticky", revocation_statements=['DROP ROLE "{{name}}"; DROP TABLE no_such_table'])
    lease = await taken(backend, order({"path": "database/creds/sticky"}))

    with pytest.raises(BackendFailed) as failure:
        await backend.revoke(lease.handle)
    assert failure.value.code is Code.BACKEND_REFUSED
    assert "does not exist" in failure.value.public
    tells_nothing(failure.value, [opened(lease)["password"]])
    assert works(postgres, lease)
    assert bao.accessor_is_good(lease.handle["accessor"])

    bao.with_role("sticky", revocation_statements=[])
    assert (await backend.revoke(lease.handle)).revoked
    assert not works(postgres, lease)


async def test_a_role_that_somebody_dropped_in_the_database_is_revoked_all_the_same(
    backend: VaultBackend, postgres: Postgres
) -> None:
    """Dead is dead, whoever did it."""
    lease = await taken(backend, order(LEASE))
    postgres.execute(f'DROP ROLE "{opened(lease)["username"]}"')

    assert (await backend.revoke(lease.handle)).revoked


# --- nothing is told ------------------------------------------------------------------------------------------------


async def test_no_secret_is_logged(backend: VaultBackend, own: str, caplog: pytest.LogCaptureFixture) -> None:
    """Not even by the libraries below, at their most talkative."""
    with caplog.at_level(logging.DEBUG):
        lease = await taken(backend, order(LEASE))
        await backend.renew(lease.handle, 60)
        await backend.revoke(lease.handle)

    assert "urllib3" in {record.name.partition(".")[0] for record in caplog.records}
    assert own not in caplog.text
    assert opened(lease)["password"] not in caplog.text
    assert "X-Vault-Token" not in caplog.text
