"""``broker policy explain`` and ``broker policy test`` for secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.broker_app import Template, make_template
from tests.support.broker_thread import BrokerThread
from tests.support.leases import BACKENDS, LEASING, POLICY, leasing_token, take
from tests.support.shell import Shell

CASES = """
cases:
  - name: workers have the database
    agent: {id: alpha}
    ask: {secret: db}
    expect: granted
    role: workers
    tier: read
    ttl: 15m
  - name: the deed needs a key
    agent: {id: alpha}
    ask: {secret: deed}
    expect: denied
    code: proof_required
  - name: with one it is had
    agent: {id: alpha}
    ask: {secret: deed, proof: true}
    expect: granted
  - name: letters are sealed
    agent: {id: alpha}
    ask: {secret: letter}
    expect: denied
    code: encryption_required
  - name: to a key of the agent
    agent: {id: alpha}
    ask: {secret: letter, encrypted: true}
    expect: granted
    ttl: 10m
  - name: people decide on the payroll
    agent: {id: alpha}
    ask: {secret: payroll}
    expect: needs_approval
    role: workers
    tier: sensitive
    approvers: deciders
    quorum: 1
  - name: unless it cannot wait
    agent: {id: alpha}
    ask: {secret: payroll, break_glass: true}
    expect: granted
  - name: quiet has the other one
    agent: {id: quiet}
    ask: {secret: other}
    expect: granted
  - name: but not for workers
    agent: {id: quiet}
    ask: {secret: other, delegated_by: workers}
    expect: denied
    code: secret_not_allowed
  - name: deciders take nothing
    agent: {id: carol}
    ask: {secret: db}
    expect: denied
    code: scope_not_allowed
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with secrets to lease."""
    made = make_template(tmp_path_factory.mktemp("explaining") / "broker", POLICY, LEASING)
    with (made.folder / "broker.toml").open("a") as file:
        file.write(BACKENDS)
    return made


def _file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_before_it_happens(shell: Shell, broker: BrokerThread) -> None:
    """An operator learns what an agent would get."""
    done = shell("policy", "explain", "--agent", "alpha", "--secret", "letter")
    assert done.code == 0
    assert done.out.startswith("denied (encryption_required)")
    assert "encrypted to a key of the agent's (none is named)" in done.out
    sealed = shell("policy", "explain", "--agent", "alpha", "--secret", "letter", "--encrypted", "--json")
    assert sealed.json["outcome"] == "granted"
    assert shell("policy", "explain", "--agent", "alpha", "--secret", "db", "--scope", "x").code == 1


def test_after_it_happened(shell: Shell, broker: BrokerThread) -> None:
    """By the reference of the refusal."""
    token = broker.run(leasing_token(broker.app))
    refusal = broker.run(take(broker.app, token, "deed")).json["refusal"]
    done = shell("policy", "explain", "--refusal", refusal)
    assert done.code == 0
    assert "deed" in done.out
    assert "bound to a key (it is not)" in done.out


def test_a_secret_stands_beside_no_refusal(shell: Shell, broker: BrokerThread) -> None:
    """The ledger knows what was asked for."""
    for more in (("--secret", "db"), ("--encrypted",)):
        assert shell("policy", "explain", "--refusal", "ref_1", *more).code == 2


def test_cases_that_hold(shell: Shell, tmp_path: Path, made: Path) -> None:
    """What a policy must give and refuse of secrets can be written down."""
    policy = _file(tmp_path / "policy.yaml", POLICY)
    done = shell("policy", "test", _file(tmp_path / "cases.yaml", CASES), "--policy", policy)
    assert (done.code, done.out.splitlines()[-1]) == (0, "10 passed, 0 failed")
    wrong = _file(tmp_path / "wrong.yaml", CASES.replace("ttl: 10m", "ttl: 9m").replace("quorum: 1", "quorum: 2"))
    failed = shell("policy", "test", wrong, "--policy", policy)
    assert failed.code == 1
    assert "ttl: expected 9m, got 10m" in failed.out
    assert "quorum: expected 2, got 1" in failed.out


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        ("{secret: nope}", "ask.secret: 'nope' is not a secret of this policy"),
        ("{secret: db, audience: broker}", "ask.audience: is for tokens"),
        ("{secret: db, scopes: [a]}", "ask.scopes: is for tokens"),
        ("{audience: broker, encrypted: true}", "ask.encrypted: goes with a secret"),
        ("{secret: db, encrypted: please}", "ask.encrypted: must be true or false"),
    ],
)
def test_bad_cases(shell: Shell, tmp_path: Path, ask: str, told: str) -> None:
    """A mistake is an error of the file, not a pass."""
    policy = _file(tmp_path / "policy.yaml", POLICY)
    text = f"cases:\n  - name: one\n    agent: {{id: alpha}}\n    ask: {ask}\n    expect: denied\n"
    done = shell("policy", "test", _file(tmp_path / "cases.yaml", text), "--policy", policy)
    assert done.code == 2
    assert told in done.err
