"""Receipts and tiles over HTTP: what they prove, to whom they are given, and what does not exist."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from broker.cli.keys import ledger_name, vkeys_of
from broker.client import ApiRefused, Client, KeyIdentity
from broker.core.errors import Code
from broker.core.merkle import inclusion_proof, leaf_hash, verify_inclusion
from broker.core.tiles import Tile, cut_bundle, cut_hashes, subtree_root, tiles_of
from broker.ledger import SqlLedger
from broker.signing.checkpoint import open_note
from broker.signing.tlog_proof import parse_tlog_proof, verify_receipt
from tests.support.broker_app import TICKETS, BrokerApp, Template, make_template, running_app
from tests.support.ledgers import noted
from tests.support.team import TEAM, TEAM_POLICY, claims_of, exchange, open_task

POLICY = TEAM_POLICY.replace('scopes: ["operator:read", ', 'scopes: ["operator:read", "ledger:read", ')
PATH = "/v1/ledger"


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with a team of agents, some of whom have scopes of its API."""
    return make_template(tmp_path_factory.mktemp("team") / "broker", POLICY, TEAM)


@pytest.fixture
async def app(team: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run it."""
    async with running_app(team, tmp_path / "broker") as running:
        yield running


async def vkey_of(app: BrokerApp) -> str:
    """Return the verifier key of the ledger."""
    keys = (await app.call("GET", "/v1/keys", token=await app.operator("operator:read"))).json["keys"]
    return vkeys_of(keys, ledger_name(app.issuer))[0]


async def grow(app: BrokerApp, size: int) -> None:
    """Fill the ledger until it has so many entries."""
    ledger = app.services.records
    assert isinstance(ledger, SqlLedger)
    while (missing := size - ledger.size) > 0:
        await asyncio.gather(*(ledger.commit(noted()) for _ in range(min(missing, 500))))


async def test_a_receipt_of_any_entry(app: BrokerApp) -> None:
    """An auditor gets it as a text that verifies by itself."""
    await grow(app, 600)
    token = await app.operator("ledger:read")
    vkey = await vkey_of(app)
    for seq in (0, 299, 599):
        reply = await app.call("GET", f"{PATH}/receipt/{seq}", token=token)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
        assert reply.headers["Cache-Control"] == "no-store"
        record = await app.services.records.record(seq)
        assert record is not None
        assert verify_receipt(reply.body.decode(), record.body, vkey).size >= 600
        assert parse_tlog_proof(reply.body.decode()).index == seq


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("receipt/999999", 404),
        ("receipt/-1", 400),
        ("receipt/x", 400),
        ("receipt/" + "9" * 40, 400),
        ("receipt/1?size=2", 400),
        ("receipt/", 404),
        ("tile/0/001", 404),
        ("tile/0/000", 404),
        ("tile/0/000.p/255", 404),
        ("tile/0/000.p/0", 404),
        ("tile/0/000.p/1?x=1", 400),
        ("tile/1/000.p/1", 404),
        ("tile/63/000", 404),
        ("tile/99/000", 404),
        ("tile/0/0", 404),
        ("tile/0", 404),
        ("tile/", 404),
        ("tile", 404),
        ("tile/entries/000", 404),
        ("tile/0/x999/x999/x999/x999/x999/999", 404),
        ("tile/0/" + "x999/" * 500 + "999", 404),
        ("tile/0/..%2f..%2fkeys", 404),
        ("tile/0/000%00", 404),
    ],
)
async def test_what_does_not_exist(app: BrokerApp, path: str, status: int) -> None:
    """Beyond the tree there is nothing, and a tile has one name."""
    reply = await app.call("GET", f"{PATH}/{path}", token=await app.operator("ledger:read"))
    assert reply.status == status, reply.body
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.headers["Cache-Control"] == "no-store"


async def test_checkpoint_and_tiles_are_enough(app: BrokerApp) -> None:
    """Whoever fetches only these computes the signed root, finds every entry under it, and makes any proof."""
    await grow(app, 700)
    token = await app.operator("ledger:read")
    head = open_note((await app.call("GET", f"{PATH}/checkpoint", token=token)).body.decode(), await vkey_of(app))

    async def fetch(tile: Tile) -> bytes:
        reply = await app.call("GET", f"{PATH}/tile/{tile.path}", token=token)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/octet-stream")
        assert reply.headers["Cache-Control"] == "private, max-age=31536000, immutable"
        return reply.body

    await grow(app, head.size + 3)  # what the checkpoint needs is still there when the tree has grown
    levels: list[list[bytes]] = []
    while tiles := list(tiles_of(len(levels), head.size)):
        contents = [await fetch(tile) for tile in tiles]
        assert all(len(content) == 32 * tile.width for tile, content in zip(tiles, contents, strict=True))
        levels.append([digest for content in contents for digest in cut_hashes(content)])
    subtree = partial(subtree_root, lambda level, start, end: levels[level][start:end])
    assert subtree(0, head.size) == head.root
    bundles = [await fetch(tile) for tile in tiles_of(None, head.size)]
    entries = [entry for content in bundles for entry in cut_bundle(content)]
    assert [leaf_hash(entry) for entry in entries] == levels[0]
    for seq in (0, 300, head.size - 1):
        proof = inclusion_proof(subtree, seq, head.size)
        assert verify_inclusion(leaf_hash(entries[seq]), seq, head.size, proof, head.root)


async def test_an_agent_gets_the_receipt_of_what_was_issued_to_it(app: BrokerApp) -> None:
    """With any token for the broker's API, and no scope of the ledger's: its tokens, tasks and refusals."""
    ticket = claims_of(await app.token("planner", scope="tickets:read"))["jti"]
    task = (await open_task(app))["id"]
    refusal = (await app.ask(app.form("planner", audience=TICKETS, scope="no:such"))).json["refusal"]
    token, vkey = await app.token("planner", "broker", "tasks:read"), await vkey_of(app)
    for ref, kind in ((ticket, "token.issued"), (task, "task.opened"), (refusal, "token.refused")):
        reply = await app.call("GET", f"/v1/receipts/{ref}", token=token)
        assert reply.status == 200, reply.body
        assert set(reply.json) == {"seq", "entry", "receipt"}
        assert (reply.json["entry"]["kind"], reply.json["entry"]["agent"]) == (kind, "planner")
        record = await app.services.records.record(reply.json["seq"])
        assert record is not None
        assert record.body in reply.body
        verify_receipt(reply.json["receipt"], record.body, vkey)


async def test_nobody_gets_what_is_about_others(app: BrokerApp) -> None:
    """The answer is that of an id that does not exist, to the letter; also for who acts on somebody's behalf."""
    ticket = claims_of(await app.token("planner", scope="tickets:read"))["jti"]
    for name, scope in (("gateway", "actions:reserve"), ("operator", "ledger:read"), ("carol", "approvals:read")):
        token = await app.token(name, "broker", scope)
        theirs = await app.call("GET", f"/v1/receipts/{ticket}", token=token)
        absent = await app.call("GET", f"/v1/receipts/{ticket[:-1]}~", token=token)
        assert theirs.status == absent.status == 404
        told = [{**reply.json, "instance": ""} for reply in (theirs, absent)]
        assert told[0] == told[1]
        own = await app.call("GET", f"/v1/receipts/{claims_of(token)['jti']}", token=token)
        assert own.status == 200


async def test_receipts_need_a_token_for_this_api(app: BrokerApp) -> None:
    """None, a bad one, and one for somewhere else are refused."""
    ticket = await app.token("planner", scope="tickets:read")
    path = f"/v1/receipts/{claims_of(ticket)['jti']}"
    for token, code in ((None, "token_missing"), ("eyJ.bad.token", "token_invalid"), (ticket, "token_audience")):
        reply = await app.call("GET", path, token=token)
        assert (reply.status, reply.json["code"]) == (401, code)
        assert reply.challenges[0].startswith("Bearer ")
    assert (
        await app.call("GET", path + "?x=1", token=await app.token("planner", "broker", "tasks:read"))
    ).status == 400


async def test_a_receipt_of_something_old_writes_nothing(app: BrokerApp) -> None:
    """The last checkpoint serves, so that asking again and again costs no disk."""
    ledger = app.services.records
    assert isinstance(ledger, SqlLedger)
    token = await app.token("planner", "broker", "tasks:read")
    path = f"/v1/receipts/{claims_of(token)['jti']}"
    first = (await app.call("GET", path, token=token)).json["receipt"]
    await app.token("planner", scope="tickets:read")
    again = (await app.call("GET", path, token=token)).json["receipt"]
    covered = int(first.split("\n\n")[1].split("\n")[1])
    assert covered <= int(again.split("\n\n")[1].split("\n")[1])
    assert ledger.size > covered


async def test_the_place_in_the_ledger_is_told_if_the_settings_say_so(team: Template, tmp_path: Path) -> None:
    """Of tokens, exchanged ones and identity tokens; the client has it."""
    async with running_app(team, tmp_path / "broker", site={"index_in_answers": True}) as app:
        direct = (await app.ask(app.form("planner", audience=TICKETS, scope="tickets:read"))).json
        entry = await app.services.records.record(direct["ledger_index"])
        assert entry is not None
        assert entry.members["ref"] == claims_of(direct["access_token"])["jti"]
        exchanged = (await exchange(app, "worker", direct["access_token"])).json
        assert exchanged["ledger_index"] > direct["ledger_index"]
        async with Client(app.issuer, identity=KeyIdentity("planner", app.keys["planner"])) as client:
            token = await client.token(TICKETS, "tickets:read")
            receipt = await client.receipt(token, scope="tasks:read")
        assert token.ledger_index == receipt.seq


async def test_the_place_in_the_ledger_is_not_told_otherwise(app: BrokerApp) -> None:
    """It would tell an agent how busy the broker is."""
    direct = (await app.ask(app.form("planner", audience=TICKETS, scope="tickets:read"))).json
    assert "ledger_index" not in direct
    assert "ledger_index" not in (await exchange(app, "worker", direct["access_token"])).json


async def test_the_client_gets_receipts(app: BrokerApp) -> None:
    """Of a token of its own, or by an id; what it gets verifies; of others' it gets none."""
    vkey = await vkey_of(app)
    async with Client(app.issuer, identity=KeyIdentity("planner", app.keys["planner"]), dpop=True) as client:
        token = await client.token(TICKETS, "tickets:read")
        assert token.ledger_index is None
        receipt = await client.receipt(token, scope="tasks:read")
        assert verify_receipt(receipt.text, receipt.entry, vkey).size > receipt.seq
        again = await client.receipt(claims_of(token.access_token)["jti"], scope="tasks:read")
        assert (again.seq, again.entry) == (receipt.seq, receipt.entry)
        other = claims_of(await app.token("carol", "broker", "approvals:read"))["jti"]
        for ref in (other, "../keys", "a/b?c#d", ""):
            with pytest.raises(ApiRefused) as refused:
                await client.receipt(ref, scope="tasks:read")
            assert refused.value.code is Code.NOT_FOUND
