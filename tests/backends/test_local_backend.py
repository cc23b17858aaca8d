"""The local backend: generated values die when they are revoked, stored ones say that they do not."""

from __future__ import annotations

import asyncio
import base64
import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from broker.backends import local
from broker.backends.local import LocalBackend
from broker.backends.secrets_file import Contents, SecretsFile, Stored
from broker.core.errors import BackendFailed, Code
from broker.core.lease import LeaseOrder
from broker.core.secret import Secret
from broker.signing.sealing import Sealer
from tests.support.fakes import NOW, FakeClock

KEY = bytes(range(32))
SEAL = Sealer(Secret(KEY))
PASSWORD = "correct horse battery staple"
ORDER = LeaseOrder(
    lease="lse_1",
    secret="demo",
    settings={"generate": 32},
    ttl=600,
    ends_by=int(NOW) + 3600,
    agent="agent:alpha",
    role="reader",
    task="task_1",
    task_ends=int(NOW) + 7200,
    on_behalf_of="team:orders",
)
STORED = replace(ORDER, settings={"stored": "orders-db", "on_revoke": "leave"})


@pytest.fixture
def clock() -> FakeClock:
    """A clock that moves when it is told to."""
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is."""
    return tmp_path / "secrets.sealed"


@pytest.fixture
def backend(path: Path, clock: FakeClock) -> Iterator[LocalBackend]:
    """A backend on an empty file."""
    made = LocalBackend("local", path, seal=SEAL, clock=clock, timeout_seconds=3.0)
    yield made
    asyncio.run(made.close())


def _file(path: Path, *, name: str = "local", seal: Sealer = SEAL, patience: float = 30.0) -> SecretsFile:
    return SecretsFile(name, path, seal, patience=patience)


def _store(path: Path, value: str, name: str = "orders-db", at: int = 1) -> None:
    _file(path).change(lambda held: held.stored.__setitem__(name, Stored(value, at)))


def _value(data: Secret) -> str:
    value = json.loads(data.reveal())["value"]
    assert isinstance(value, str)
    return value


async def _taken(backend: LocalBackend, order: LeaseOrder = ORDER) -> tuple[str, dict[str, str]]:
    taken = await backend.take(order, await backend.prepare(order))
    return _value(taken.data), dict(taken.handle)


async def test_a_generated_value_is_good_until_it_is_revoked(backend: LocalBackend) -> None:
    """Fresh for each lease, checked by the service that trusts it, and dead at once."""
    first, handle = await _taken(backend)
    second, _ = await _taken(backend, replace(ORDER, lease="lse_2"))
    assert first != second
    assert len(first) == 43
    assert await backend.is_good(first)
    assert (await backend.revoke(handle)).revoked
    assert not await backend.is_good(first)
    assert await backend.is_good(second)
    assert not await backend.is_good("")


async def test_a_generated_value_ends_by_itself(backend: LocalBackend, clock: FakeClock) -> None:
    """It is good for as long as the answer says, renewal included, and never beyond the end of its lease."""
    taken = await backend.take(ORDER, await backend.prepare(ORDER))
    assert taken.lease_seconds == 600
    clock.time += 500
    assert await backend.renew(taken.handle, 600) == 600
    clock.time += 599
    assert await backend.is_good(_value(taken.data))
    assert await backend.renew(taken.handle, 99_999) == 3600 - 500 - 599
    clock.time = ORDER.ends_by + 0.5
    assert not await backend.is_good(_value(taken.data))
    with pytest.raises(BackendFailed) as ended:
        await backend.renew(taken.handle, 600)
    assert ended.value.code is Code.LEASE_ENDED


async def test_what_was_revoked_before_it_was_made_is_never_made(backend: LocalBackend) -> None:
    """A call that lags behind the revocation of its lease makes nothing, so that nothing is left alive."""
    handle = await backend.prepare(ORDER)
    assert (await backend.revoke(handle)).revoked
    with pytest.raises(BackendFailed) as refused:
        await backend.take(ORDER, handle)
    assert (refused.value.code, refused.value.uncertain) == (Code.LEASE_ENDED, False)


async def test_the_file_holds_neither_value_nor_name_in_the_clear(backend: LocalBackend, path: Path) -> None:
    """Of a generated value not even the key opens more than its digest; the file is its owner's alone."""
    value, _ = await _taken(backend)
    await asyncio.to_thread(_store, path, PASSWORD)
    data = path.read_bytes()
    assert not [word for word in (value, PASSWORD, "orders-db", "lse_1") if word.encode() in data]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert value not in repr(_file(path).read())
    assert PASSWORD not in repr(_file(path).read())
    sealed = json.loads(data)
    context = f"local secrets local {sealed['id']} part 0 of 1"
    opened = SEAL.open(base64.b64decode(sealed["parts"][0]), context)
    assert PASSWORD.encode() in opened
    assert value.encode() not in opened


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (PASSWORD, {"value": PASSWORD}),
        ('{"username": "orders", "password": "x"}', {"username": "orders", "password": "x"}),
        ('["a"]', {"value": '["a"]'}),
        ('{"a": 1, "a": 2}', {"value": '{"a": 1, "a": 2}'}),
        ("-----BEGIN KEY-----\nÄ\n", {"value": "-----BEGIN KEY-----\nÄ\n"}),
    ],
)
async def test_a_stored_value_is_given_as_it_is(
    backend: LocalBackend, path: Path, stored: str, expected: dict[str, str]
) -> None:
    """A JSON object as such, any other text under ``value``; it has no end of its own, and cannot be ended."""
    await asyncio.to_thread(_store, path, stored)
    taken = await backend.take(STORED, await backend.prepare(STORED))
    assert json.loads(taken.data.reveal()) == expected
    assert (taken.lease_seconds, taken.revocable, taken.renewable) == (None, False, True)
    assert await backend.renew(taken.handle, 60) == 60
    ended = await backend.revoke(taken.handle)
    assert (ended.revoked, ended.expires_at) == (False, None)


async def test_the_end_of_a_stored_value_is_told_honestly(backend: LocalBackend, path: Path) -> None:
    """That nothing was rotated is said where it was wanted; and that there is another value by now."""
    await asyncio.to_thread(_store, path, PASSWORD)
    wanted = replace(STORED, settings={"stored": "orders-db", "on_revoke": "rotate"})
    taken = await backend.take(wanted, await backend.prepare(wanted))
    note = (await backend.revoke(taken.handle)).note or ""
    assert "rotation is asked for" in note
    assert "another value" not in note
    await asyncio.to_thread(_store, path, "new one", at=2)
    ended = await backend.revoke(taken.handle)
    assert not ended.revoked
    assert "another value was stored since" in (ended.note or "")


async def test_a_stored_value_that_is_not_there(backend: LocalBackend, path: Path) -> None:
    """Before anything is recorded it is refused; later there is nothing to renew."""
    with pytest.raises(BackendFailed) as refused:
        await backend.prepare(STORED)
    assert refused.value.code is Code.BACKEND_REFUSED
    await asyncio.to_thread(_store, path, PASSWORD)
    taken = await backend.take(STORED, await backend.prepare(STORED))
    await asyncio.to_thread(_file(path).change, lambda held: held.stored.clear())
    with pytest.raises(BackendFailed) as ended:
        await backend.renew(taken.handle, 60)
    assert ended.value.code is Code.LEASE_ENDED
    assert not (await backend.revoke(taken.handle)).revoked


@pytest.mark.parametrize("settings", [{}, {"generate": 0}, {"generate": 15}, {"generate": "32"}, {"stored": 7}])
async def test_settings_that_make_no_sense(backend: LocalBackend, settings: dict[str, object]) -> None:
    """They are refused, not guessed at."""
    with pytest.raises(BackendFailed) as refused:
        await backend.prepare(replace(ORDER, settings=settings))
    assert refused.value.code is Code.BACKEND_REFUSED


@pytest.mark.parametrize(
    "handle",
    [
        {},
        {"kind": "kv"},
        {"kind": "generated"},
        {"kind": "generated", "lease": "a", "ends_by": "x"},
        {"kind": "stored"},
    ],
)
async def test_handles_of_others_are_refused(backend: LocalBackend, handle: dict[str, str]) -> None:
    """A handle that this backend did not make ends nothing and says so."""
    for call in (backend.revoke(handle), backend.renew(handle, 1), backend.take(ORDER, handle)):
        with pytest.raises(BackendFailed) as refused:
            await call
        assert refused.value.code is Code.BACKEND_REFUSED


async def test_generated_values_are_bounded(
    backend: LocalBackend, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a most, which expired ones make room in; revoking works all the same."""
    monkeypatch.setattr(local, "MAX_GENERATED", 2)
    handles = [(await _taken(backend, replace(ORDER, lease=f"lse_{n}")))[1] for n in range(2)]
    with pytest.raises(BackendFailed) as refused:
        await _taken(backend, replace(ORDER, lease="lse_2"))
    assert (refused.value.code, refused.value.uncertain) == (Code.BACKEND_UNAVAILABLE, False)
    await backend.revoke(handles[0])
    await _taken(backend, replace(ORDER, lease="lse_2"))
    clock.time += 601
    await _taken(backend, replace(ORDER, lease="lse_3"))


# --- the file ---


async def test_contents_of_any_size(path: Path) -> None:
    """More than one sealed part holds the same."""
    values = {f"name-{n}": Stored("x" * 30_000, n) for n in range(9)}
    await asyncio.to_thread(_file(path).change, lambda held: held.stored.update(values))
    assert len(json.loads(path.read_bytes())["parts"]) > 4
    assert _file(path).read().stored == values


def _flip(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + (b"A" if data[at : at + 1] != b"A" else b"B") + data[at + 1 :]


def _without_a_part(data: bytes) -> bytes:
    sealed = json.loads(data)
    return json.dumps({**sealed, "parts": sealed["parts"][:-1]}).encode()


def _swapped(data: bytes) -> bytes:
    sealed = json.loads(data)
    return json.dumps({**sealed, "parts": sealed["parts"][::-1]}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"{}",
        lambda _: b"\xff\xfe",
        lambda data: data[:-9],
        _flip,
        _without_a_part,
        _swapped,
        lambda data: data.replace(b'"v":1', b'"v":2'),
    ],
)
async def test_a_damaged_file_is_left_as_it_is(backend: LocalBackend, path: Path, damage: object) -> None:
    """Nothing is given, nothing is written over it, and an operator is told."""
    _store(path, PASSWORD + "x" * 100_000)
    damaged = damage(path.read_bytes())  # type: ignore[operator]
    path.write_bytes(damaged)
    for call in (_taken(backend), _taken(backend, STORED), backend.revoke(await backend.prepare(ORDER))):
        with pytest.raises(BackendFailed) as refused:
            await call
        assert (refused.value.code, refused.value.uncertain) == (Code.BACKEND_REFUSED, False)
        assert PASSWORD not in f"{refused.value.public}{refused.value!r}{refused.value.__cause__!r}"
    assert path.read_bytes() == damaged


def test_a_file_belongs_to_one_backend_and_one_key(path: Path) -> None:
    """The file of another backend, and one under another key, is not opened."""
    _store(path, PASSWORD)
    for stranger in (_file(path, name="local/other"), _file(path, seal=Sealer(Secret(KEY[::-1])))):
        with pytest.raises(BackendFailed) as refused:
            stranger.read()
        assert refused.value.code is Code.BACKEND_REFUSED


def test_parts_of_an_older_file_do_not_fit(path: Path) -> None:
    """What was revoked does not come back by putting a part of an older version in its place."""
    _store(path, "a" * 70_000)
    older = json.loads(path.read_bytes())
    _store(path, "b" * 70_000)
    newer = json.loads(path.read_bytes())
    path.write_text(json.dumps({**newer, "parts": [older["parts"][0], *newer["parts"][1:]]}))
    with pytest.raises(BackendFailed):
        _file(path).read()


@contextmanager
def _full_disk(monkeypatch: pytest.MonkeyPatch, call: str, number: int, *, skip: int = 0) -> Iterator[None]:
    real, seen = getattr(os, call), []

    def fail(*arguments: object, **options: object) -> object:
        seen.append(arguments)
        if len(seen) > skip:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        yield
    assert len(seen) > skip


async def test_a_full_disk_makes_nothing(backend: LocalBackend, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written was not made, and nothing is lost or left lying about."""
    value, handle = await _taken(backend)
    with _full_disk(monkeypatch, "fsync", errno.ENOSPC):
        with pytest.raises(BackendFailed) as failed:
            await _taken(backend, replace(ORDER, lease="lse_2"))
        assert (failed.value.code, failed.value.uncertain) == (Code.BACKEND_UNAVAILABLE, False)
        with pytest.raises(BackendFailed):
            await backend.revoke(handle)
    assert await backend.is_good(value)
    assert sorted(file.name for file in path.parent.iterdir()) == ["secrets.sealed", "secrets.sealed.lock"]
    await backend.revoke(handle)
    assert not await backend.is_good(value)


async def test_a_disk_that_fails_at_the_end_is_uncertain(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If only the folder could not be made durable, the value may be there: its revocation is called for."""
    handle = await backend.prepare(ORDER)
    with _full_disk(monkeypatch, "fsync", errno.EIO, skip=1), pytest.raises(BackendFailed) as failed:
        await backend.take(ORDER, handle)
    assert (failed.value.code, failed.value.uncertain) == (Code.BACKEND_UNAVAILABLE, True)
    assert (await backend.revoke(handle)).revoked


async def test_what_was_left_by_a_crash_is_in_nobodys_way(backend: LocalBackend, path: Path, tmp_path: Path) -> None:
    """A half-written file of a process that died is dropped, and a link in its place is not followed."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    path.with_name("secrets.sealed.new").symlink_to(elsewhere)
    value, _ = await _taken(backend)
    assert await backend.is_good(value)
    assert elsewhere.read_text() == "precious"


@pytest.mark.parametrize("kind", ["folder missing", "a folder", "a named pipe"])
async def test_a_place_that_cannot_be_used(tmp_path: Path, clock: FakeClock, kind: str) -> None:
    """Somebody must change something: it is refused, without hanging."""
    path = tmp_path / "missing" / "secrets" if kind == "folder missing" else tmp_path / "secrets"
    if kind == "a folder":
        path.mkdir()
    if kind == "a named pipe":
        os.mkfifo(path)
    backend = LocalBackend("local", path, seal=SEAL, clock=clock)
    with pytest.raises(BackendFailed) as refused:
        await _taken(backend)
    assert (refused.value.code, refused.value.uncertain) == (Code.BACKEND_REFUSED, False)
    await backend.close()


async def test_a_lock_that_is_held_for_too_long(backend: LocalBackend, path: Path) -> None:
    """A change waits its turn for a while, then says that it did not happen; reading never waits."""
    value, _ = await _taken(backend)
    with path.with_name("secrets.sealed.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BackendFailed) as failed:
            await _taken(backend, replace(ORDER, lease="lse_2"))
        assert (failed.value.code, failed.value.uncertain) == (Code.BACKEND_UNAVAILABLE, False)
        assert await backend.is_good(value)
    await _taken(backend, replace(ORDER, lease="lse_3"))


def test_no_change_is_lost_between_threads(path: Path) -> None:
    """Threads that share one object, and threads that each have their own, all find room."""
    shared = _file(path, patience=30.0)

    def work(file: SecretsFile, who: str) -> None:
        for n in range(10):
            file.change(lambda held, n=n: held.stored.__setitem__(f"{who}-{n}", Stored("v", 1)))  # type: ignore[misc]

    files = [shared, shared, _file(path, patience=30.0)]
    threads = [threading.Thread(target=work, args=(file, f"t{place}")) for place, file in enumerate(files)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(_file(path).read().stored) == 30


_PROCESS = """
import sys
from pathlib import Path
from broker.backends.secrets_file import SecretsFile, Stored
from broker.core.secret import Secret
from broker.signing.sealing import Sealer
file = SecretsFile("local", Path(sys.argv[1]), Sealer(Secret(bytes(range(32)))), patience=30.0)
for n in range(int(sys.argv[3])):
    file.change(lambda held: held.stored.__setitem__(f"{sys.argv[2]}-{n}", Stored("v", 1)))
"""


def test_no_change_is_lost_between_processes(path: Path) -> None:
    """Two processes that change the file at the same time both find their changes in it."""
    run = [sys.executable, "-c", _PROCESS, str(path)]
    processes = [subprocess.Popen([*run, who, "25"]) for who in ("a", "b")]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(_file(path).read().stored) == 50


def test_a_process_that_is_killed_leaves_a_whole_file(path: Path) -> None:
    """Whenever it dies, what it had written before is there, and nobody waits for its lock."""
    for turn in range(5):
        process = subprocess.Popen([sys.executable, "-c", _PROCESS, str(path), f"t{turn}", "100000"])
        deadline = time.monotonic() + 60
        while f"t{turn}-3" not in _file(path).read().stored and time.monotonic() < deadline:
            time.sleep(0.001 * turn)
        process.kill()
        process.wait()
        stored = _file(path).read().stored
        assert {f"t{turn}-{n}" for n in range(4)} <= stored.keys()
        _file(path).change(lambda held, turn=turn: held.stored.__setitem__(f"after-{turn}", Stored("v", 1)))  # type: ignore[misc]


def test_an_edit_that_raises_changes_nothing(path: Path) -> None:
    """Neither the file nor the lock is left in between."""
    _store(path, PASSWORD)
    before = path.read_bytes()

    def spoil(held: Contents) -> None:
        held.stored.clear()
        raise KeyError("no")

    with pytest.raises(KeyError):
        _file(path).change(spoil)
    assert path.read_bytes() == before
    _store(path, "next")


def test_nothing_is_written_if_nothing_changed(path: Path) -> None:
    """A change that changes nothing leaves the very same file."""
    _store(path, PASSWORD)
    before = path.read_bytes()
    _file(path).change(lambda held: None)
    assert path.read_bytes() == before
