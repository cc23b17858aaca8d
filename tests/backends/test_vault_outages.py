"""A real OpenBao, or the database behind it, that goes away and comes back: nothing is lost, and nothing claimed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from broker.backends.vault import VaultBackend
from broker.core.errors import BackendFailed, Code
from broker.core.lease import Ended, Taken
from tests.support.openbao import OpenBao
from tests.support.postgres import Postgres
from tests.support.vault_backends import LEASE, backend_on, broker_token, opened, order, taken, token_file

LEASES = 120
SOME = 24
"""More than are revoked at once: so the first of them have been answered."""


@pytest.fixture(scope="module")
def mine(postgres: Postgres) -> Iterator[OpenBao]:
    """A server that may be killed."""
    with OpenBao() as server:
        server.with_broker_policy()
        server.with_database(postgres)
        yield server


@pytest.fixture
async def backend(mine: OpenBao, tmp_path: Path) -> AsyncIterator[VaultBackend]:
    """A backend on it."""
    async with backend_on(mine.url, token_file(tmp_path, broker_token(mine)), timeout_seconds=5.0) as made:
        yield made


def works(postgres: Postgres, lease: Taken) -> bool:
    """Whether the database lets in who holds a lease."""
    data = opened(lease)
    return postgres.lets_in(data["username"], data["password"])


async def test_a_sealed_server_is_unavailable_and_all_is_there_when_it_is_unsealed(
    backend: VaultBackend, mine: OpenBao, postgres: Postgres
) -> None:
    """Nothing is claimed meanwhile; afterwards the same backend goes on."""
    lease, wanted = await taken(backend, order(LEASE)), order(LEASE)
    handle = await backend.prepare(wanted)
    mine.seal()
    try:
        for call in (backend.prepare(order(LEASE)), backend.take(wanted, handle), backend.renew(lease.handle, 60)):
            with pytest.raises(BackendFailed) as failure:
                await call
            assert (failure.value.code, failure.value.uncertain) == (Code.BACKEND_UNAVAILABLE, False)
            assert failure.value.retry_after
        for each in (lease.handle, handle):
            with pytest.raises(BackendFailed) as failure:
                await backend.revoke(each)
            assert failure.value.code is Code.BACKEND_UNAVAILABLE
            assert "sealed" in failure.value.public
        assert works(postgres, lease)
    finally:
        mine.unseal()

    assert (await backend.revoke(lease.handle)).revoked
    assert not works(postgres, lease)


def _kill_when_some_are_dead(bao: OpenBao, postgres: Postgres) -> None:
    """Kill the server soon after it has begun to revoke, and answered; in a thread, which no busy loop holds up."""
    count = "SELECT count(*) FROM pg_roles"
    ((before,),) = postgres.execute(count)
    while postgres.execute(count)[0][0] > before - SOME:
        time.sleep(0.002)
    bao.kill()


async def test_a_server_that_is_killed_while_it_revokes_is_asked_again_when_it_is_back(
    backend: VaultBackend, mine: OpenBao, postgres: Postgres
) -> None:
    """Each lease was revoked when the backend said so; the others are when they are asked for again; none is left."""
    leases = await asyncio.gather(*(taken(backend, order(LEASE, task=f"task_{n % 7}")) for n in range(LEASES)))
    revoking = [asyncio.ensure_future(backend.revoke(lease.handle)) for lease in leases]
    await asyncio.to_thread(_kill_when_some_are_dead, mine, postgres)
    first = await asyncio.gather(*revoking, return_exceptions=True)

    said = [isinstance(word, Ended) and word.revoked for word in first]
    assert all(said[n] or isinstance(first[n], BackendFailed) for n in range(LEASES))
    assert 0 < sum(said) < LEASES
    assert not any(works(postgres, lease) for lease, dead in zip(leases, said, strict=True) if dead)

    mine.start()
    again = await asyncio.gather(*(backend.revoke(lease.handle) for lease in leases))

    assert all(ended.revoked for ended in again)
    assert not any(works(postgres, lease) for lease in leases)
    assert mine.leases(LEASE["path"]) == []


async def test_a_database_that_is_away_is_not_called_revoked(
    backend: VaultBackend, mine: OpenBao, postgres: Postgres
) -> None:
    """While PostgreSQL does not answer, its roles live; when it answers again, revoking them works."""
    lease = await taken(backend, order(LEASE))
    wanted = order(LEASE)
    handle = await backend.prepare(wanted)
    pid = postgres.pid
    os.kill(pid, signal.SIGSTOP)
    stopped = [pid, *children(pid)]
    try:
        for each in stopped[1:]:
            os.kill(each, signal.SIGSTOP)
        for call in (backend.revoke(lease.handle), backend.take(wanted, handle)):
            with pytest.raises(BackendFailed) as failure:
                await call
            assert (failure.value.code, failure.value.uncertain) == (Code.BACKEND_UNAVAILABLE, True)
    finally:
        for each in reversed(stopped):
            os.kill(each, signal.SIGCONT)

    assert (await backend.revoke(lease.handle)).revoked
    assert not works(postgres, lease)
    assert (await backend.revoke(handle)).revoked


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
