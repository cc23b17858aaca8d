"""Law 5: before a backend is asked for a secret, the intent is durable; whatever dies then leaves no unknown secret."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from broker.core.lease import LeaseStatus
from broker.ledger.verify import verify_file
from tests.support.broker_app import BrokerApp, Template, make_template, running_app
from tests.support.leases import LEASING, POLICY, eventually, leasing_token, reaping, settled, take
from tests.support.scripted_backend import ScriptedBackend, nothing, waiting


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with secrets to lease."""
    return make_template(tmp_path_factory.mktemp("law-5") / "broker", POLICY, LEASING)


@pytest.fixture
def backend() -> ScriptedBackend:
    """A backend that does as it is told."""
    return ScriptedBackend()


@pytest.fixture
async def app(template: Template, tmp_path: Path, backend: ScriptedBackend) -> AsyncIterator[BrokerApp]:
    """Run the broker on it."""
    async with running_app(template, tmp_path / "broker", own_backends={"local": backend}) as running:
        yield running


def in_the_file(app: BrokerApp, kind: str) -> list[str]:
    """Return the leases that another process finds entries of a kind about."""
    with closing(sqlite3.connect(f"file:{app.file}?mode=ro", uri=True)) as other:
        query = "SELECT ref FROM entries WHERE kind = ? ORDER BY seq"
        return [ref for (ref,) in other.execute(query, (kind,))]


async def test_the_intent_is_in_the_file_when_the_backend_is_asked(app: BrokerApp, backend: ScriptedBackend) -> None:
    """With the handle by which whatever comes of it can be ended; and so for each of many at once."""
    found: dict[str, bool] = {}

    async def look() -> None:
        asked = [lease for what, lease in backend.asked if what == "take"]
        intended, sealed = in_the_file(app, "lease.intended"), in_the_file(app, "lease.sealed")
        found.update({lease: lease in intended for lease in asked if lease not in sealed})

    backend.before["take"] = look
    token = await leasing_token(app)
    replies = await asyncio.gather(*(take(app, token) for _ in range(5)))
    assert {reply.status for reply in replies} == {201}
    assert found == {reply.json["lease_id"]: True for reply in replies}
    with closing(sqlite3.connect(app.file)) as other:
        assert other.execute("SELECT count(*) FROM leases WHERE handle = '{}'").fetchone() == (0,)


async def test_the_secret_is_handed_out_after_the_seal(app: BrokerApp) -> None:
    """Law 1 for leases: whoever has the secret can be shown its record."""
    lease = (await take(app, await leasing_token(app))).json
    assert lease["data"]
    assert in_the_file(app, "lease.sealed") == [lease["lease_id"]]


async def test_without_an_intent_the_backend_is_not_asked(app: BrokerApp, backend: ScriptedBackend) -> None:
    """The ledger cannot be written: 503, and nothing was made that would have to be ended."""
    token = await leasing_token(app)
    with closing(sqlite3.connect(app.file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        reply = await take(app, token)
        other.execute("ROLLBACK")
    assert (reply.status, reply.json["code"]) == (503, "ledger_unavailable")
    assert "take" not in {what for what, _ in backend.asked}
    assert backend.alive == {}
    assert (await take(app, token)).status == 201


@pytest.mark.parametrize(("step", "made"), [("prepare", 0), ("take", 0), ("after take", 1)])
async def test_what_a_dead_broker_began_the_next_one_ends(
    app: BrokerApp, template: Template, tmp_path: Path, backend: ScriptedBackend, step: str, made: int
) -> None:
    """The next broker has nothing but the file as it was at that moment, and knows every secret that is alive."""
    gate = asyncio.Event()
    when, name = (backend.after, "take") if step.startswith("after") else (backend.before, step)
    when[name] = waiting(gate)
    first = asyncio.ensure_future(take(app, await leasing_token(app)))
    try:
        await eventually(lambda: bool(backend.asked) and backend.asked[-1][0] == name and len(backend.alive) == made)
        lease = backend.asked[-1][1]
        crashed = tmp_path / "crashed"
        shutil.copytree(template.folder, crashed)
        with (
            closing(sqlite3.connect(app.file)) as source,
            closing(sqlite3.connect(crashed / "ledger.db")) as copy,
        ):
            source.backup(copy)
        when[name] = nothing
        async with (
            running_app(replace(template, folder=crashed), tmp_path / "next", own_backends={"local": backend}) as after,
            reaping(after),
        ):
            if step == "prepare":
                assert in_the_file(after, "lease.intended") == []
            else:
                state = await settled(after, lease)
                assert (state.status, state.because) == (LeaseStatus.REVOKED, "unsealed")
            assert backend.alive == {}
    finally:
        gate.set()
        await asyncio.gather(first, return_exceptions=True)
    assert verify_file(tmp_path / "next" / "ledger.db").problems == ()
