"""``broker ledger`` and ``broker keys``: reading the record, verifying it offline, and the broker's own keys."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.signing.checkpoint import verifier_key
from tests.support.broker_app import Template
from tests.support.broker_thread import BrokerThread, broker_thread
from tests.support.shell import Shell


def _copy(made: Path, folder: Path) -> Path:
    copy = folder / "copy.db"
    shutil.copy(made / "ledger.db", copy)
    return copy


def _change(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()


def test_a_sound_ledger(shell: Shell, made: Path) -> None:
    """A ledger that nobody touched is sound, by its file or by the settings."""
    for arguments in (("--file", made / "ledger.db"), ("--config", made / "broker.toml")):
        done = shell("ledger", "verify", *arguments, "--json")
        assert done.code == 0
        assert (done.json["sound"], done.json["entries"], done.json["problems"]) == (True, 2, [])


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("UPDATE entries SET body = replace(CAST(body AS TEXT), 'init', 'tini') WHERE seq = 1", "entry 1"),
        ("DELETE FROM entries WHERE seq = 0", "entry 0 is missing"),
        ("UPDATE entries SET agent = 'mallory' WHERE seq = 1", "entry 1: the columns agent"),
        ("UPDATE head SET size = 7", "the head counts 7 entries"),
    ],
)
def test_what_was_changed_is_named(shell: Shell, made: Path, tmp_path: Path, sql: str, told: str) -> None:
    """A changed ledger ends with 4, and the entries that are wrong are named."""
    copy = _copy(made, tmp_path)
    _change(copy, sql)
    done = shell("ledger", "verify", "--file", copy)
    assert done.code == 4
    assert done.out.startswith("The ledger is NOT sound")
    assert told in done.out
    answer = shell("ledger", "verify", "--file", copy, "--json").json
    assert answer["sound"] is False
    assert answer["problem_count"] == len(answer["problems"]) > 0


def test_what_is_no_ledger(shell: Shell, tmp_path: Path) -> None:
    """A missing file cannot be read; some other file is not a sound ledger. One line each."""
    missing = shell("ledger", "verify", "--file", tmp_path / "nowhere.db")
    assert (missing.code, missing.err.count("\n")) == (3, 1)
    other = tmp_path / "other.db"
    other.write_bytes(b"not a database" * 1000)
    done = shell("ledger", "verify", "--file", other)
    assert done.code in {3, 4}
    assert (done.out, done.err.count("\n")) == ("", 1)


@pytest.fixture
def fresh(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokerThread]:
    """A broker all of whose checkpoints were signed under one name: it has never had another port."""
    with broker_thread(Template(made, {}), tmp_path / "home") as running:
        monkeypatch.setenv("BROKER_CONFIG", str(running.config))
        monkeypatch.setenv("BROKER_PORT", str(running.port))
        yield running


def test_signatures_of_checkpoints(shell: Shell, fresh: BrokerThread) -> None:
    """With the verifier key that ``keys list`` tells, the signatures of all checkpoints are verified."""
    shell("ledger", "tail")
    listed = shell("keys", "list", "--json").json
    vkey = listed["vkeys"][0]
    assert vkey in shell("keys", "list").out
    file = fresh.folder / "ledger.db"
    done = shell("ledger", "verify", "--file", file, "--vkey", vkey, "--json")
    assert done.code == 0
    assert done.json["signatures"] == done.json["checkpoints"] > 0
    name, key_id, _ = vkey.split("+", 2)
    assert shell("ledger", "verify", "--file", file, "--vkey", f"{name}+{key_id}+AAAA").code == 2


def test_the_wrong_verifier_key(shell: Shell, broker: BrokerThread) -> None:
    """A checkpoint that another key signed is a problem of the ledger."""
    shell("ledger", "tail")
    name = shell("keys", "list", "--json").json["vkeys"][0].partition("+")[0]
    other = verifier_key(name, Ed25519PrivateKey.generate().public_key())
    done = shell("ledger", "verify", "--file", broker.folder / "ledger.db", "--vkey", other)
    assert done.code == 4
    assert "no good signature" in done.out


def test_the_latest_entries(shell: Shell, broker: BrokerThread) -> None:
    """The last entries come in order, as many as asked for; the newest is at least this command's own token."""
    entries = shell("ledger", "tail", "-n", "3", "--json").json["entries"]
    places = [entry["seq"] for entry in entries]
    assert places == sorted(places)
    assert len(places) >= 3
    assert entries[-1]["entry"]["kind"] == "token.issued"
    lines = shell("ledger", "tail", "-n", "100").out.splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(len(lines)))
    assert "agent.registered" in lines[1] or "agent.registered" in lines[2]


def test_no_entries(shell: Shell, broker: BrokerThread) -> None:
    """None asked for, none of the past shown."""
    assert len(shell("ledger", "tail", "-n", "0", "--json").json["entries"]) <= 1


def test_one_entry(shell: Shell, broker: BrokerThread) -> None:
    """An entry is shown with all that it says; one that does not exist is not found."""
    answer = shell("ledger", "show", "1", "--json").json
    assert answer["entry"]["kind"] == "agent.registered"
    out = shell("ledger", "show", "1").out
    assert out.startswith("Entry 1: agent.registered\n")
    assert answer["entry"]["key"] in out
    done = shell("ledger", "show", "99999")
    assert (done.code, done.err.startswith("broker: not_found: ")) == (1, True)
    assert shell("ledger", "show", "-1").code == 2


def test_keys_rotate_in_good_time(shell: Shell, broker: BrokerThread) -> None:
    """New keys are published and sign later; no token dies."""
    before = {key["kid"] for key in shell("keys", "list", "--json").json["keys"]}
    answer = shell("keys", "rotate", "--json").json
    assert answer["revocations"] == []
    made = [key for key in answer["keys"] if key["kid"] not in before]
    assert {key["alg"] for key in made} == {"ES256", "RS256"}
    assert all(key["active_at"] > key["created_at"] for key in made)
    assert not any(key["revoked"] for key in shell("keys", "list", "--json").json["keys"])


def test_keys_replaced_in_an_emergency(shell: Shell, broker: BrokerThread) -> None:
    """All keys are new at once, what the old ones signed is dead, and the summary says how much."""
    token = broker.run(broker.app.token("alpha"))
    done = shell("keys", "rotate", "--emergency", "--reason", "stolen laptop")
    assert done.code == 0
    assert "tokens ended" in done.out
    operator = broker.run(broker.app.operator("operator:read"))
    asked = broker.app.call("POST", "/oauth2/introspect", token=operator, data={"token": token})
    assert broker.run(asked).json == {"active": False}
    assert broker.entries("keys.rotated")[-1]["reason"] == "stolen laptop"


@pytest.mark.parametrize("arguments", [("--emergency",), ("--reason", "tidy"), ("--emergency", "--reason", "")])
def test_emergencies_have_a_reason(shell: Shell, broker: BrokerThread, arguments: tuple[str, ...]) -> None:
    """An emergency without a reason, or a reason without one, changes nothing."""
    assert shell("keys", "rotate", *arguments).code in {1, 2}
    assert len(broker.entries("keys.rotated")) == 1


def test_checkpoints_that_were_kept(shell: Shell, fresh: BrokerThread, tmp_path: Path) -> None:
    """A note that was kept vouches for what it covers; one of another key, or no note at all, is refused."""
    shell("ledger", "tail")
    vkey = shell("keys", "list", "--json").json["vkeys"][0]
    file, note = fresh.folder / "ledger.db", tmp_path / "kept.txt"
    with closing(sqlite3.connect(file)) as database:
        query = "SELECT note FROM checkpoints WHERE note IS NOT NULL ORDER BY size DESC"
        note.write_text(database.execute(query).fetchone()[0])
    told = shell("ledger", "verify", "--file", file, "--note", note, "--json").json
    size = int(note.read_text().split("\n")[1])
    assert told["voucher"].endswith("in kept.txt")
    assert told["trust"][0] == {"first": 0, "end": size, "trust": "vouched"}
    lines = shell("ledger", "verify", "--file", file, "--note", note).out
    assert f"entries 0 to {size - 1}: sound, and covered by the checkpoint of {size} entries in kept.txt" in lines
    other = verifier_key(vkey.partition("+")[0], Ed25519PrivateKey.generate().public_key())
    assert shell("ledger", "verify", "--file", file, "--note", note, "--vkey", other).code == 2
    assert shell("ledger", "verify", "--file", file, "--note", note, "--vkey", other, "--vkey", vkey).code == 0
    note.write_text("hello")
    assert shell("ledger", "verify", "--file", file, "--note", note).code == 2
    assert shell("ledger", "verify", "--file", file, "--note", tmp_path / "none").code == 2
    assert shell("ledger", "verify", "--file", file, "--archive", tmp_path).code == 2
