"""What the port ``Backend`` promises, of every implementation against the real thing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from broker.core.errors import BackendFailed, Code
from broker.core.lease import LeaseOrder, Taken
from broker.ports import Backend
from tests.support.backend_cases import CASES, BackendCase

SOON_SECONDS = 20.0


@pytest.fixture(params=CASES)
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BackendCase]:
    """Each implementation in turn."""
    async with CASES[request.param](request, tmp_path) as made:
        yield made


@pytest.fixture
async def backend(case: BackendCase) -> AsyncIterator[Backend]:
    """An instance of it."""
    made = case.make()
    yield made
    await made.close()


async def _take(backend: Backend, order: LeaseOrder) -> tuple[Taken, Mapping[str, str]]:
    """Take a secret; return it with the handle of before."""
    handle = await backend.prepare(order)
    return await backend.take(order, handle), handle


def _data(taken: Taken) -> dict[str, Any]:
    data = json.loads(taken.data.reveal().decode())
    assert isinstance(data, dict)
    assert data
    return data


async def _is_dead(case: BackendCase, taken: Taken) -> None:
    """Assert what the end of a secret means: it works no more, if the backend can bring that about."""
    if case.works is not None:
        assert await case.works(_data(taken)) is not case.revocable


async def _dies_soon(case: BackendCase, taken: Taken) -> None:
    """Assert that a secret which nobody was given works no more within seconds."""
    if case.works is None or not case.lost_dies:
        return
    end = time.monotonic() + SOON_SECONDS
    while await case.works(_data(taken)):
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


async def _failure(call: Coroutine[Any, Any, object]) -> BackendFailed:
    with pytest.raises(BackendFailed) as failed:
        await call
    return failed.value


def _told(error: BaseException | None) -> str:
    """Return all that an error and its causes could ever show."""
    told = ""
    while error is not None:
        told += f"{error!r} {error} {error.args} {getattr(error, 'public', '')} {getattr(error, '__notes__', '')} "
        error = error.__cause__ or error.__context__
    return told


async def test_a_secret_works_until_it_is_revoked(case: BackendCase, backend: Backend) -> None:
    """What it says of itself is so: that it works, for how long, and what its end is worth."""
    taken, _ = await _take(backend, case.order())
    data = _data(taken)
    assert case.works is None or await case.works(data)
    assert taken.revocable is case.revocable
    assert taken.renewable is case.renewable
    assert taken.lease_seconds is None or taken.lease_seconds > 0
    assert case.revocable or not case.fresh or taken.lease_seconds is not None
    ended = await backend.revoke(taken.handle)
    assert ended.revoked is case.revocable
    assert ended.revoked or ended.note
    await _is_dead(case, taken)


async def test_handles_are_text_and_hold_no_secret(case: BackendCase, backend: Backend) -> None:
    """They go into the ledger as they are, and everybody who may read it may see them."""
    taken, before = await _take(backend, case.order())
    for handle in (before, taken.handle):
        assert handle
        assert all(isinstance(word, str) for pair in handle.items() for word in pair)
        assert dict(handle) == json.loads(json.dumps(dict(handle)))
    shown = json.dumps([dict(before), dict(taken.handle)]) + repr(taken)
    assert [secret for secret in case.secrets_in(_data(taken)) if secret in shown] == []
    await backend.revoke(taken.handle)


async def test_revoking_again_succeeds(case: BackendCase, backend: Backend) -> None:
    """Twice, and many times at once, says the same, and does no harm to others."""
    taken, before = await _take(backend, case.order())
    other, _ = await _take(backend, case.order())
    ends = await asyncio.gather(*(backend.revoke(taken.handle) for _ in range(5)))
    ends.append(await backend.revoke(taken.handle))
    await backend.revoke(before)
    assert {end.revoked for end in ends} == {case.revocable}
    await _is_dead(case, taken)
    assert case.works is None or await case.works(_data(other))
    await backend.revoke(other.handle)


async def test_another_process_can_revoke(case: BackendCase, backend: Backend) -> None:
    """The handle is all that is needed, as it was written down and read again."""
    taken, _ = await _take(backend, case.order())
    later = case.make()
    ended = await later.revoke(json.loads(json.dumps(dict(taken.handle))))
    assert ended.revoked is case.revocable
    await _is_dead(case, taken)
    await later.close()


async def test_a_secret_whose_answer_was_lost_can_be_revoked(case: BackendCase, backend: Backend) -> None:
    """With the handle from before it was made, by another process: so the reaper finds it."""
    taken, before = await _take(backend, case.order())
    later = case.make()
    await later.revoke(before)
    await _dies_soon(case, taken)
    await later.close()


async def test_what_was_never_made_can_be_revoked(case: BackendCase, backend: Backend) -> None:
    """The intent was recorded and the process died: ending it succeeds, here and after a restart."""
    handles = [await backend.prepare(case.order()) for _ in range(2)]
    await backend.revoke(handles[0])
    await backend.revoke(handles[0])
    later = case.make()
    await later.revoke(handles[1])
    await later.close()


async def test_what_was_revoked_before_it_was_made_is_dead(case: BackendCase, backend: Backend) -> None:
    """If the revocation overtakes the call that makes the secret, nothing is alive afterwards."""
    order = case.order()
    handle = await backend.prepare(order)
    ended = await backend.revoke(handle)
    if not (ended.revoked and case.late_dies):
        return
    failed = await _failure(backend.take(order, handle))
    assert not failed.uncertain


async def test_renewing_is_honest(case: BackendCase, backend: Backend) -> None:
    """It says for how long the secret lives, no longer than asked; or that it cannot be renewed."""
    taken, _ = await _take(backend, case.order())
    if not case.renewable:
        assert (await _failure(backend.renew(taken.handle, 60))).code is Code.LEASE_NOT_RENEWABLE
        await backend.revoke(taken.handle)
        return
    assert 0 < await backend.renew(taken.handle, case.ttl) <= case.ttl
    later = case.make()
    assert 0 < await later.renew(taken.handle, case.ttl) <= case.ttl
    await later.close()
    assert case.works is None or await case.works(_data(taken))
    await backend.revoke(taken.handle)
    if case.revocable:
        assert (await _failure(backend.renew(taken.handle, 60))).code is Code.LEASE_ENDED


async def test_errors_hold_no_secret(case: BackendCase, backend: Backend) -> None:
    """Nothing that is raised about a secret shows it, nor do the causes behind it."""
    taken, _ = await _take(backend, case.order())
    secrets = case.secrets_in(_data(taken))
    await backend.revoke(taken.handle)
    ended: list[Coroutine[Any, Any, object]] = [backend.renew(taken.handle, 60)] if case.revocable else []
    broken = dict.fromkeys(taken.handle, "nonsense")
    for call in (*ended, backend.renew(broken, 60), backend.revoke(broken), backend.take(case.order(), broken)):
        try:
            told = str(await call)
        except BackendFailed as error:
            told = _told(error)
        assert [secret for secret in secrets if secret in told] == []


async def test_handles_that_are_none(case: BackendCase, backend: Backend) -> None:
    """What this backend did not make is refused, and was certainly not done."""
    for handle in ({}, {"kind": "of another backend"}):
        for call in (backend.revoke(handle), backend.take(case.order(), handle)):
            failed = await _failure(call)
            assert (failed.code, failed.uncertain) == (Code.BACKEND_REFUSED, False)
        failed = await _failure(backend.renew(handle, 60))
        assert failed.code in {Code.BACKEND_REFUSED, Code.LEASE_NOT_RENEWABLE}


async def test_many_at_once(case: BackendCase, backend: Backend) -> None:
    """Twenty leases of one task at the same time: each has its own secret, and each ends by itself."""
    made = [taken for taken, _ in await asyncio.gather(*(_take(backend, case.order()) for _ in range(20)))]
    secrets = {json.dumps(_data(taken), sort_keys=True) for taken in made}
    assert len(secrets) == (20 if case.fresh else 1)
    handles = {json.dumps(dict(taken.handle), sort_keys=True) for taken in made}
    assert len(handles) == 20 or not case.fresh
    half = made[::2]
    ends = await asyncio.gather(*(backend.revoke(taken.handle) for taken in half))
    assert {end.revoked for end in ends} == {case.revocable}
    for taken in half[:3]:
        await _is_dead(case, taken)
    if case.works is not None and case.fresh:
        assert all([await case.works(_data(taken)) for taken in made[1:6:2]])
    await asyncio.gather(*(backend.revoke(taken.handle) for taken in made))


async def test_closing(case: BackendCase) -> None:
    """Twice is harmless, and whoever still asks is told so with the one error that there is."""
    made = case.make()
    taken, _ = await _take(made, case.order())
    await made.revoke(taken.handle)
    await made.close()
    await made.close()
    failed = await _failure(made.take(case.order(), taken.handle))
    assert failed.code in {Code.BACKEND_UNAVAILABLE, Code.BACKEND_REFUSED}
