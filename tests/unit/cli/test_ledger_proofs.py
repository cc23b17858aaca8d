"""``broker ledger receipt``, ``verify-receipt``, ``key``, ``checkpoint``, ``compare``: proofs at the command line."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.core.merkle import EMPTY_ROOT, leaf_hash
from broker.signing.checkpoint import Checkpoint, claimed, open_note, sign_checkpoint, verifier_key
from tests.support.broker_thread import BrokerThread
from tests.support.shell import Shell


@pytest.fixture
def vkey(shell: Shell, broker: BrokerThread) -> str:
    """The verifier key, as the command prints it."""
    return shell("ledger", "key").out.strip()


def kept(shell: Shell, folder: Path, name: str) -> Path:
    """Keep a checkpoint."""
    path = folder / name
    assert shell("ledger", "checkpoint", "--output", path).code == 0
    return path


def test_the_verifier_key(shell: Shell, broker: BrokerThread, vkey: str) -> None:
    """From the broker, and from a ledger file without it and without settings, it is the one that signs."""
    note = shell("ledger", "checkpoint").out
    assert open_note(note, vkey).size > 0
    assert shell("keys", "list", "--json").json["vkeys"] == [vkey]
    copy = broker.folder / "copy.db"
    with contextlib.closing(sqlite3.connect(broker.folder / "ledger.db")) as database:
        database.execute("VACUUM INTO ?", (str(copy),))
    offline = shell("ledger", "key", "--file", copy, "--config", "/nowhere", "--json")
    assert offline.json == {"vkeys": [vkey]}


def test_no_key_without_a_checkpoint(shell: Shell, made: Path, tmp_path: Path) -> None:
    """A ledger that has signed nothing yet has no name for its keys; it has no tiles either."""
    for command in (("key",), ("tiles", tmp_path / "tiles")):
        done = shell("ledger", *command, "--file", made / "ledger.db")
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "no checkpoint" in done.err


def test_a_receipt_is_verified_without_the_broker(
    shell: Shell, broker: BrokerThread, vkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By place or by id; with the entry from a file or from standard input; settings are not looked for."""
    broker.run(broker.app.token("alpha"))
    ref = broker.entries("token.issued")[-1]["ref"]
    file, entry = tmp_path / "receipt.tlog-proof", tmp_path / "entry.json"
    assert shell("ledger", "receipt", ref, "--output", file, "--entry", entry).code == 0
    monkeypatch.delenv("BROKER_CONFIG")
    monkeypatch.delenv("BROKER_PORT")
    done = shell("ledger", "verify-receipt", file, "--entry", entry, "--vkey", vkey)
    assert done.code == 0
    assert done.out.startswith("The entry is in the ledger\n")
    assert "token.issued" in done.out
    assert ref in done.out
    body = entry.read_bytes()
    for given in (body, body + b"\n"):
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(given)))
        answer = shell("ledger", "verify-receipt", file, "--entry", "-", "--vkey", vkey, "--json").json
        assert answer["verified"] is True
        assert answer["entries"] > answer["seq"]


def test_the_receipt_of_a_place(shell: Shell, broker: BrokerThread) -> None:
    """On standard output it is the receipt and nothing else; as JSON, the entry is with it."""
    assert shell("ledger", "receipt", "1").out.startswith("c2sp.org/tlog-proof@v1\nindex 1\n")
    answer = shell("ledger", "receipt", "1", "--json").json
    assert (answer["seq"], answer["entry"]["kind"]) == (1, "agent.registered")
    for absent in ("99999", "tok_nothing"):
        assert shell("ledger", "receipt", absent).code == 1
    for bad in ("../keys", "a b", ""):
        assert shell("ledger", "receipt", bad).code == 2


def test_files_are_not_overwritten(shell: Shell, broker: BrokerThread, tmp_path: Path) -> None:
    """A receipt or a checkpoint that was kept is not lost to a slip."""
    there = tmp_path / "precious"
    there.write_text("precious")
    for command in (("receipt", "1", "--output", there), ("receipt", "1", "--entry", there)):
        assert shell("ledger", *command).code == 2
    assert shell("ledger", "checkpoint", "--output", there).code == 2
    assert there.read_text() == "precious"


def test_what_does_not_prove_it(shell: Shell, broker: BrokerThread, vkey: str, tmp_path: Path) -> None:
    """Another entry, key or receipt ends with 4; what cannot be read or is no key, with 2. One line each."""
    file, entry, other = tmp_path / "receipt", tmp_path / "entry", tmp_path / "other"
    shell("ledger", "receipt", "1", "--output", file, "--entry", entry)
    shell("ledger", "receipt", "0", "--entry", other)
    name = vkey.partition("+")[0]
    stranger = verifier_key(name, Ed25519PrivateKey.generate().public_key())
    damaged = tmp_path / "damaged"
    damaged.write_text(file.read_text().replace("index 1", "index 0"))
    binary, long = tmp_path / "binary", tmp_path / "long"
    binary.write_bytes(b"\xff\xfe")
    long.write_bytes(b"x" * 200_000)
    for arguments, code in (
        ((file, "--entry", other, "--vkey", vkey), 4),
        ((damaged, "--entry", entry, "--vkey", vkey), 4),
        ((file, "--entry", entry, "--vkey", stranger), 4),
        ((entry, "--entry", entry, "--vkey", vkey), 4),
        ((file, "--entry", entry, "--vkey", "nonsense"), 2),
        ((binary, "--entry", entry, "--vkey", vkey), 2),
        ((long, "--entry", entry, "--vkey", vkey), 2),
        ((file, "--entry", long, "--vkey", vkey), 2),
        ((tmp_path / "nowhere", "--entry", entry, "--vkey", vkey), 2),
        ((tmp_path, "--entry", entry, "--vkey", vkey), 2),
    ):
        done = shell("ledger", "verify-receipt", *arguments)
        assert (done.code, done.out, done.err.count("\n")) == (code, "", 1), arguments


def test_an_entry_of_another_ledger(shell: Shell, tmp_path: Path) -> None:
    """Any log's receipt is verified, whatever its entries look like."""
    key = Ed25519PrivateKey.generate()
    root = leaf_hash(b"not JSON")
    note = sign_checkpoint(Checkpoint("log.example", 1, root), "log.example", key)
    (tmp_path / "r").write_text(f"c2sp.org/tlog-proof@v1\nindex 0\n\n{note}")
    (tmp_path / "e").write_bytes(b"not JSON")
    vkey = verifier_key("log.example", key.public_key())
    assert shell("ledger", "verify-receipt", tmp_path / "r", "--entry", tmp_path / "e", "--vkey", vkey).code == 0


def test_two_checkpoints_that_agree(shell: Shell, broker: BrokerThread, vkey: str, tmp_path: Path) -> None:
    """An older and a younger one; the same one twice; each with the key that signed it among several."""
    old = kept(shell, tmp_path, "old.note")
    broker.run(broker.app.token("alpha"))
    new = kept(shell, tmp_path, "new.note")
    done = shell("ledger", "compare", old, new, "--vkey", vkey)
    assert done.code == 0
    assert done.out.startswith("NEW has all that OLD has, unchanged\n")
    stranger = verifier_key("other", Ed25519PrivateKey.generate().public_key())
    answer = shell("ledger", "compare", old, new, "--vkey", stranger, "--vkey", vkey, "--json").json
    assert answer["consistent"] is True
    assert answer["old"] < answer["new"]
    assert shell("ledger", "compare", new, new, "--vkey", vkey).code == 0
    assert shell("ledger", "compare", new, old, "--vkey", vkey).code == 2


def forged(folder: Path, name: str, checkpoint: Checkpoint) -> tuple[Path, str]:
    """Sign a checkpoint that says something else; return it, and the key that signed it."""
    key = Ed25519PrivateKey.generate()
    (folder / name).write_text(sign_checkpoint(checkpoint, checkpoint.origin, key))
    return folder / name, verifier_key(checkpoint.origin, key.public_key())


def test_checkpoints_that_do_not_agree(shell: Shell, broker: BrokerThread, vkey: str, tmp_path: Path) -> None:
    """Another past, another ledger, more entries than there are, no signature: each is said, with 4."""
    old = kept(shell, tmp_path, "old.note")
    broker.run(broker.app.token("alpha"))
    new = kept(shell, tmp_path, "new.note")
    true = claimed(new.read_text())
    cases = (
        ("fork", old, Checkpoint(true.origin, true.size, bytes(32)), "does not continue"),
        ("same", new, Checkpoint(true.origin, true.size, bytes(32)), "does not continue"),
        ("more", old, Checkpoint(true.origin, 99_999, bytes(32)), "of the 99999 entries"),
        ("else", old, Checkpoint("log.example", true.size, true.root), "two ledgers"),
    )
    for name, older, checkpoint, told in cases:
        path, key = forged(tmp_path, name, checkpoint)
        done = shell("ledger", "compare", older, path, "--vkey", vkey, "--vkey", key)
        assert (done.code, told in done.err) == (4, True), done.err
        assert shell("ledger", "compare", older, path, "--vkey", vkey).code == 4
    empty, key = forged(tmp_path, "empty", Checkpoint(true.origin, 0, EMPTY_ROOT))
    assert shell("ledger", "compare", empty, new, "--vkey", vkey, "--vkey", key).code == 0
    assert shell("ledger", "compare", old, tmp_path / "nowhere", "--vkey", vkey).code == 2
    assert shell("ledger", "compare", old, new, "--vkey", "nonsense").code == 2
