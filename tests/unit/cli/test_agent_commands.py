"""``broker agent``: registering, enrolling, listing and removing agents."""

from __future__ import annotations

import io
import json
import stat
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.core.jwk import public_jwk, thumbprint
from tests.support.broker_thread import BrokerThread
from tests.support.shell import Shell, write_private_key

KEY = ec.generate_private_key(ec.SECP256R1())


def _public(path: Path) -> Path:
    path.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def test_register_list_and_remove(shell: Shell, broker: BrokerThread, tmp_path: Path) -> None:
    """An agent is registered with its key, is in the list, and is gone once removed; the ledger knows who did it."""
    answer = shell("agent", "add", "zeta", "--public-key", _public(tmp_path / "zeta.pub"), "--json").json
    assert answer["key"] == thumbprint(public_jwk(KEY.public_key()))
    names = [agent["name"] for agent in shell("agent", "list", "--json").json["agents"]]
    assert names == ["alpha", "beta", "gateway", "operator", "zeta"]
    listed = shell("agent", "list")
    assert listed.out.splitlines()[0].split() == ["name", "key", "registered", "by"]
    assert shell("agent", "remove", "zeta").code == 0
    assert "zeta" not in shell("agent", "list").out
    assert broker.entries("agent.removed")[-1]["by"] == "operator"


def test_a_name_that_is_taken(shell: Shell, broker: BrokerThread, tmp_path: Path) -> None:
    """Registering a name again is refused: a key is not replaced by mistake."""
    done = shell("agent", "add", "alpha", "--public-key", _public(tmp_path / "a.pub"))
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("broker: conflict: ")


@pytest.mark.parametrize("name", ["a/b", "UPPER", "..", "a\x1b[2J", "a?reason=x"])
def test_impossible_names(shell: Shell, broker: BrokerThread, tmp_path: Path, name: str) -> None:
    """What cannot be a name is refused, and never becomes another path of the API."""
    assert shell("agent", "add", name, "--public-key", _public(tmp_path / "a.pub")).code == 1
    removed = shell("agent", "remove", name)
    assert removed.code in {1, 2}
    assert "\x1b" not in removed.err
    assert len(shell("agent", "list", "--json").json["agents"]) == 4


def test_enrolment(shell: Shell, broker: BrokerThread, tmp_path: Path) -> None:
    """With a code, an agent makes its own key, which never leaves its file, and registers it; once."""
    enrolled = shell("agent", "enroll", "zeta", "--json").json
    key = tmp_path / "zeta.pem"
    redeemed = shell("agent", "redeem", enrolled["code"], "--key", key, "--json").json
    assert redeemed["name"] == "zeta"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    again = shell("agent", "redeem", enrolled["code"], "--key", key)
    assert again.code == 1
    assert again.err.startswith("broker: enrollment_invalid: ")
    agents = {agent["name"]: agent["key"] for agent in shell("agent", "list", "--json").json["agents"]}
    assert agents["zeta"] == redeemed["key"]


def test_enrolment_is_told_to_people(shell: Shell, broker: BrokerThread) -> None:
    """The operator is shown the code, and what the agent has to do with it."""
    done = shell("agent", "enroll", "zeta")
    assert "broker agent redeem CODE --key FILE" in done.out
    assert "code:" in done.out


def test_an_agent_needs_no_settings(
    shell: Shell, broker: BrokerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent redeems a code with the broker's address alone, and can read the code from a pipe."""
    code = shell("agent", "enroll", "zeta", "--json").json["code"]
    monkeypatch.delenv("BROKER_CONFIG")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{code}\n".encode())))
    key = write_private_key(tmp_path / "own.pem", KEY)
    done = shell("agent", "redeem", "-", "--key", key, "--issuer-url", broker.issuer, "--json")
    assert done.json["key"] == thumbprint(public_jwk(KEY.public_key()))
    assert json.dumps(code) not in done.out


@pytest.mark.parametrize("url", ["http://broker.example", "https://broker.example/", "ftp://x", "broker.example"])
def test_impossible_addresses(shell: Shell, tmp_path: Path, url: str) -> None:
    """A code is a secret: it is not sent without TLS to anywhere but this machine."""
    done = shell("agent", "redeem", "code", "--key", tmp_path / "k.pem", "--issuer-url", url)
    assert done.code == 2
    assert "--issuer-url" in done.err
    assert not (tmp_path / "k.pem").exists()


def test_an_empty_pipe(shell: Shell, broker: BrokerThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on standard input is a usage error, and makes no key."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert shell("agent", "redeem", "-", "--key", tmp_path / "k.pem").code == 2
    assert not (tmp_path / "k.pem").exists()
