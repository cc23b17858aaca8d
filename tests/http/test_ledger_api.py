from __future__ import annotations

import base64
import contextlib
import sqlite3

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from broker.core.merkle import leaf_hash, verify_consistency, verify_inclusion
from broker.signing.checkpoint import open_note, verifier_key
from tests.support.broker_app import BrokerApp

PATH = "/v1/ledger"


async def test_entries_come_in_pages(app: BrokerApp) -> None:
    """Every entry once, oldest first, by a cursor that callers only hand back."""
    for _ in range(3):
        await app.token("alpha")
    token = await app.operator()
    expected = [record.seq for record in await app.services.records.records()]
    seen: list[int] = []
    path = f"{PATH}/entries?limit=2"
    while True:
        reply = await app.call("GET", path, token=token)
        assert reply.status == 200
        seen += [entry["seq"] for entry in reply.json["entries"]]
        if reply.json["next"] is None:
            break
        assert reply.headers["Link"].endswith('rel="next"')
        path = f"{PATH}/entries?limit=2&cursor={reply.json['next']}"
    assert seen == expected


async def test_an_entry_stands_there_byte_for_byte(app: BrokerApp) -> None:
    """The body of an entry in an answer is the very text that was hashed."""
    await app.token("alpha")
    token = await app.operator()
    record = (await app.services.records.records())[-1]
    reply = await app.call("GET", f"{PATH}/entries/{record.seq}", token=token)
    assert record.body in reply.body
    assert reply.json["entry"]["kind"] == "token.issued"


async def test_entries_are_found_by_reference(app: BrokerApp) -> None:
    """A token id, a refusal id or a rule id leads to its entry."""
    refused = await app.ask(app.form("alpha", audience="https://tickets.internal", scope="no:such"))
    ref = refused.json["refusal"]
    reply = await app.call("GET", f"{PATH}/entries?ref={ref}", token=await app.operator())
    (found,) = reply.json["entries"]
    assert (found["entry"]["ref"], found["entry"]["code"]) == (ref, "scope_not_allowed")
    missing = await app.call("GET", f"{PATH}/entries?ref=nothing", token=await app.operator())
    assert (missing.status, missing.json["code"]) == (404, "not_found")


async def test_entries_that_were_archived(app: BrokerApp) -> None:
    """One that is gone is not found, in other words than one that never was; lists begin with what is left."""
    token = await app.operator()
    with contextlib.closing(sqlite3.connect(app.file)) as database:
        database.execute("DELETE FROM entries WHERE seq = 0")
        database.commit()
    gone = await app.call("GET", f"{PATH}/entries/0", token=token)
    assert (gone.status, "was archived and removed" in gone.json["detail"]) == (404, True)
    never = await app.call("GET", f"{PATH}/entries/99999", token=token)
    assert (never.status, "archived" in never.json["detail"]) == (404, False)
    listed = await app.call("GET", f"{PATH}/entries?limit=1", token=token)
    assert listed.json["entries"][0]["seq"] == 1


async def test_the_ledger_proves_itself(app: BrokerApp) -> None:
    """With the checkpoint and two proofs anyone can check that an entry is there and that nothing was taken back."""
    await app.token("alpha")
    token = await app.operator()
    reply = await app.call("GET", f"{PATH}/checkpoint", token=token)
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    lines = reply.body.decode().split("\n")
    size, root = int(lines[1]), base64.b64decode(lines[2])
    record = await app.services.records.record(1)
    assert record is not None
    proof = (await app.call("GET", f"{PATH}/proof/1?size={size}", token=token)).json
    hashes = [base64.b64decode(text) for text in proof["hashes"]]
    assert verify_inclusion(leaf_hash(record.body), 1, size, hashes, root)

    await app.token("alpha")
    later = (await app.call("GET", f"{PATH}/checkpoint", token=token)).body.decode().split("\n")
    new, new_root = int(later[1]), base64.b64decode(later[2])
    answer = (await app.call("GET", f"{PATH}/consistency?old={size}&new={new}", token=token)).json
    hashes = [base64.b64decode(text) for text in answer["hashes"]]
    assert verify_consistency(size, root, new, new_root, hashes)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/entries/99999", 404),
        ("/entries/-1", 400),
        ("/entries/x", 400),
        ("/entries/" + "9" * 40, 400),
        ("/entries?after=x", 400),
        ("/entries?limit=0", 400),
        ("/entries?wanted=all", 400),
        ("/proof/0?size=99999", 400),
        ("/proof/99999", 404),
        ("/proof/0?size=0", 404),
        ("/consistency?old=0", 400),
        ("/consistency", 400),
        ("/consistency?old=2&new=1", 400),
        ("/consistency?old=1&new=99999", 400),
    ],
)
async def test_what_the_ledger_does_not_have(app: BrokerApp, path: str, status: int) -> None:
    """Places and sizes that do not exist are refused, and numbers that are none."""
    reply = await app.call("GET", PATH + path, token=await app.operator())
    assert reply.status == status, reply.body


async def test_a_checkpoint_is_signed(app: BrokerApp) -> None:
    """The checkpoint verifies with the broker's checkpoint key, and names the broker's host as its origin."""
    token = await app.operator()
    note = (await app.call("GET", f"{PATH}/checkpoint", token=token)).body.decode()
    keys = (await app.call("GET", "/v1/keys", token=token)).json["keys"]
    (key,) = [key["public_jwk"] for key in keys if key["use"] == "checkpoint"]
    vkey = verifier_key(note.split("\n", 1)[0], _public(key["x"]))
    assert open_note(note, vkey).size > 0


def _public(x: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(x + "=" * (-len(x) % 4)))
