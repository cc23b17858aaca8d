"""A hundred corruptions of a ledger's file: each is found by ``broker ledger verify`` and by the broker itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sqlite3
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from broker.clock import SystemClock
from broker.core.entry import decode
from broker.core.errors import Unavailable
from broker.core.jwk import parse_jwk
from broker.core.tree_head import KnownHead
from broker.ledger import SqlLedger
from broker.ledger.databases.sqlite import offline_engine
from broker.ledger.verify import Kept, OpenNote, verify_file
from broker.ledger.verifying.derived import Derived
from broker.ledger.verifying.derived_personal import opened
from broker.ledger.verifying.growing import told_since
from broker.ports import Revocations
from broker.self_check import SelfCheck
from broker.signing.checkpoint import open_note, verifier_key
from tests.support.broker_app import BrokerApp, KeptEvents, Template, make_template, running_app
from tests.support.corruptions import Corruption, Files, catalogue
from tests.support.leases import BACKENDS, LEASING, POLICY, leasing_token, revoke, take
from tests.support.ledgers import noted
from tests.support.virtual_time import VirtualTime

SEED = 20261130
KEPT = "the checkpoint at the anchor offsite"
RECORD = (
    "SELECT * FROM entries ORDER BY seq",
    "SELECT * FROM head",
    "SELECT * FROM nodes",
    "SELECT * FROM accepted_heads",
    "SELECT * FROM checkpoints",
    "SELECT number, id, selector, CAST(at AS INTEGER), by, reason, incident FROM rules",
    "SELECT id, selector, rule, until, lifted_at IS NULL FROM blocks",
    "SELECT name, jwk, key FROM agents",
    "SELECT kid, use, alg, public_jwk, revoked FROM keys",
    "SELECT id, owner, deadline, path, closed_at IS NULL FROM tasks WHERE NOT implicit",
    "SELECT id, agent, secret, backend, ends_by, status, expires_at, held, handle, rule FROM leases",
    "SELECT id, digest, quorum, state FROM approvals",
    "SELECT type, name, sql FROM sqlite_master",
)
"""The record, and what follows from it; other values can be of any kind as far as the entries say."""


@dataclass(frozen=True)
class Ground:
    """Files to corrupt, the checkpoint that an anchor keeps, and the key that it is signed with."""

    files: Files
    kept: Mapping[str, KnownHead]
    open_note: OpenNote


@dataclass(frozen=True)
class Findings:
    """What was found of one corruption, by whom.

    ``changed`` is whether the record, or what follows from it, is otherwise than before; ``same`` whether nothing is.
    """

    verify: tuple[str, ...]
    start: tuple[str, ...]
    passed: tuple[str, ...]
    changed: bool
    same: bool

    @property
    def by(self) -> str:
        """Who of the broker's own found it."""
        return "start" if self.start else "pass" if self.passed else "nobody"


async def busy(app: BrokerApp, count: int) -> None:
    """Let a broker do something of everything."""
    operator = await app.operator("revocations:write")
    token = await leasing_token(app)
    for _ in range(count):
        await app.token("beta", "broker", "leases:take")
    leases = [(await take(app, token)).json["lease_id"] for _ in range(2)]
    await app.call("DELETE", f"/v1/leases/{leases[0]}", token=token)
    tasking = await app.token("alpha", "broker", "tasks:open tasks:close tasks:read")
    for close in (True, False):
        opened = await app.call("POST", "/v1/tasks", token=tasking, json={"purpose": "sort"})
        assert opened.status == 201, opened.body
        if close:
            await app.call("DELETE", f"/v1/tasks/{opened.json['id']}", token=tasking)
    await take(app, token, secret="payroll")
    await app.services.records.checkpoint()
    await revoke(app, agent="quiet")
    block = [await blocked(app, operator, until) for until in ("1h", "2h")][1]
    lifting = await app.operator("revocations:write")
    assert (await app.call("DELETE", f"/v1/blocks/{block}", token=lifting, params={"reason": "x"})).status < 300
    await app.services.records.checkpoint()


async def blocked(app: BrokerApp, token: str, until: str) -> str:
    """Make a block; return its id."""
    body = {"selector": {"agent": "quiet"}, "reason": "test", "block": {"for": until}}
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    reply = await app.call("POST", "/v1/revocations", token=token, json=body, headers=headers)
    assert reply.status == 201, reply.body
    return str(reply.json["block"]["id"])


async def made(folder: Path) -> Ground:
    """Make the ledger, an older copy, that copy gone on with, and another broker's ledger."""
    template = await asyncio.to_thread(make_template, folder / "template", POLICY, LEASING)
    stranger = await asyncio.to_thread(make_template, folder / "stranger", POLICY, LEASING)
    for each in (template, stranger):
        with (each.folder / "broker.toml").open("a") as file:
            file.write(BACKENDS)
    async with running_app(template, folder / "older") as app:
        await busy(app, 210)  # more than a tile
    grown = Template(folder / "older", template.keys)
    async with running_app(grown, folder / "ledger") as app:
        await busy(app, 20)
    async with running_app(grown, folder / "branch") as app:
        await busy(app, 10)
    async with running_app(stranger, folder / "other") as app:
        await busy(app, 5)
    files = Files(*(folder / name / "ledger.db" for name in ("ledger", "older", "branch", "other")))
    size, root = _youngest(files.ledger)
    return Ground(files, {KEPT: KnownHead(size, root)}, _opener(files.ledger))


def _youngest(ledger: Path) -> tuple[int, bytes]:
    with contextlib.closing(sqlite3.connect(ledger)) as database:
        query = "SELECT size, root FROM checkpoints WHERE note IS NOT NULL ORDER BY size DESC"
        found: tuple[int, bytes] = database.execute(query).fetchone()
        return found


def _opener(ledger: Path) -> OpenNote:
    """Return what verifies notes with the ledger's own key, whatever the port was that named the broker then."""
    with contextlib.closing(sqlite3.connect(ledger)) as database:
        [(jwk,)] = database.execute("SELECT public_jwk FROM keys WHERE use = 'checkpoint'").fetchall()
    key = parse_jwk(json.loads(jwk)).key
    assert isinstance(key, Ed25519PublicKey)

    def opened(note: str) -> tuple[int, bytes]:
        checkpoint = open_note(note, verifier_key(note.partition("\n")[0], key))
        return checkpoint.size, checkpoint.root

    return opened


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """What to corrupt, made once."""
    return asyncio.run(made(tmp_path_factory.mktemp("corruptions")))


def content(path: Path) -> tuple[object, object]:
    """Return what a ledger records and what follows from it, and all that it holds; or the error that SQLite meets."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as database:
            if database.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                return "damaged", "damaged"
            record = [database.execute(query).fetchall() for query in RECORD]
            ends = database.execute("SELECT ends_at FROM rules").fetchall()
            return (record, [end for (end,) in ends if end < time.time()]), list(database.iterdump())
    except (sqlite3.DatabaseError, OverflowError, UnicodeDecodeError) as error:
        return type(error), type(error)


def verified(path: Path, ground: Ground) -> tuple[str, ...]:
    """Return what ``broker ledger verify`` finds, with the key and the checkpoint that was kept elsewhere."""
    kept = [Kept(head.size, head.root, name) for name, head in ground.kept.items()]
    try:
        return verify_file(path, kept=kept, open_note=ground.open_note).problems
    except Unavailable as error:
        return (error.public,)


async def noticed(path: Path, ground: Ground) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what the broker itself finds: when it starts, with what an anchor knows; or else in one pass."""
    clock, events, timing = SystemClock(), KeptEvents(), VirtualTime().timing()

    async def outside() -> Mapping[str, KnownHead]:
        return ground.kept

    try:
        ledger = await SqlLedger.open(path, Revocations(), clock=clock, open_note=ground.open_note)
    except Unavailable as error:
        return (error.public,), ()
    try:
        check = SelfCheck(
            ledger=ledger.integrity,
            outside=outside,
            size=lambda: ledger.size,
            timing=timing,
            events=events,
            entries_per_second=1e6,
        )
        if ledger.integrity.unsound is None:
            await check.look_outside()
        if (unsound := ledger.integrity.unsound) is not None:
            with pytest.raises(Unavailable):
                await ledger.commit(noted())
            return unsound.problems, ()
        await check.go_through()
        unsound = ledger.integrity.unsound
        return (), () if unsound is None else unsound.problems
    finally:
        await ledger.close()


async def examined(corruption: Corruption, ground: Ground, folder: Path) -> Findings:
    """Corrupt a copy, and let everybody look at it."""
    folder.mkdir()
    path, beside = folder / "ledger.db", "ledger.db.checkpoint"
    shutil.copy(ground.files.ledger, path)
    shutil.copy(ground.files.ledger.with_name(beside), folder / beside)
    corruption.apply(path)
    (record, everything), before = content(path), content(ground.files.ledger)
    found = verified(path, ground)
    start, passed = await noticed(path, ground)
    return Findings(found, start, passed, record != before[0], everything == before[1])


async def test_every_corruption_is_found(ground: Ground, tmp_path: Path) -> None:
    """By both; what is found names an entry, a table, or who knows better. Nothing is found of what is as it was."""
    corruptions = catalogue(ground.files, SEED)
    assert len(corruptions) >= 100
    missed: list[str] = []
    table: dict[str, list[Findings]] = defaultdict(list)
    for number, corruption in enumerate(corruptions):
        findings = await examined(corruption, ground, tmp_path / str(number))
        table[corruption.kind].append(findings)
        found = (bool(findings.verify), bool(findings.start or findings.passed))
        sys.stdout.write(f"{corruption.kind}: {corruption.what}: {_told(findings)}\n")
        # What is left of the checkpoints is true; but the one that is kept beside the ledger is missing from it.
        by_verify = findings.changed and corruption.kind != "checkpoints removed"
        expected = (by_verify, findings.changed)
        if found != expected and (findings.changed or findings.same):
            missed.append(f"{corruption.kind}: {corruption.what}: {findings}")
    sys.stdout.write(f"{grouped(table)}\n")
    assert missed == []


async def test_nothing_is_found_of_a_ledger_that_is_as_it_was(ground: Ground, tmp_path: Path) -> None:
    """Neither by verifying, nor by the broker, with all that others know."""
    findings = await examined(Corruption("none", "nothing", lambda _: None), ground, tmp_path / "copy")
    assert findings == Findings((), (), (), changed=False, same=True)


@pytest.mark.parametrize("copy", ["ledger", "branch"])
def test_what_is_left_after_archiving_contradicts_nothing(ground: Ground, copy: str) -> None:
    """However many of the first entries are gone, the tables have nothing that the rest tells otherwise."""
    path: Path = getattr(ground.files, copy)
    engine = offline_engine(path, immutable=True)
    with engine.connect() as connection:
        told = connection.execute(told_since(0))
        entries = [(seq, opened(decode(body), personal)) for seq, body, personal in told]
        assert len(entries) > 30
        for first in range(len(entries) + 1):
            derived = Derived()
            for seq, members in entries[first:]:
                derived.take(seq, members)
            assert list(derived.compare(connection, whole=first == 0)) == [], first
    engine.dispose()


def _told(findings: Findings) -> str:
    told = (*findings.verify, *findings.start, *findings.passed)
    return f"{findings.by}: {told[0]}" if told else "nothing that is recorded was changed"


def grouped(table: Mapping[str, list[Findings]]) -> str:
    """Return what was found of each kind, as a table."""
    lines = ["| what was done | times | changed a record | found by verify | at the broker's start | in one pass |"]
    lines.append("|---|---|---|---|---|---|")
    for kind, all_of in table.items():
        counts = (
            len(all_of),
            sum(findings.changed for findings in all_of),
            sum(bool(findings.verify) for findings in all_of),
            sum(bool(findings.start) for findings in all_of),
            sum(bool(findings.passed) for findings in all_of),
        )
        lines.append(f"| {kind} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)
