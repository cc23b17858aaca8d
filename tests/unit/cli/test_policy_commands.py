"""``broker policy``: checking, trying out, explaining and loading."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.broker_app import POLICY, TICKETS
from tests.support.broker_thread import BrokerThread
from tests.support.shell import Shell

CASES = """
cases:
  - name: triage reads tickets
    agent: {id: alpha}
    ask: {audience: https://tickets.internal, scopes: ["tickets:read"]}
    expect: granted
    tier: read
  - name: nobody deletes
    agent: {id: alpha}
    ask: {audience: https://tickets.internal, scopes: ["tickets:delete"]}
    expect: EXPECTED
"""


def _file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_sound_policy(shell: Shell, made: Path) -> None:
    """The policy of the settings is checked without a broker; its digest is what the ledger will hold."""
    done = shell("policy", "check", "--config", made / "broker.toml", "--json")
    assert done.code == 0
    assert done.json["valid"] is True
    assert done.json["roles"] == 1
    assert done.json["policy"].startswith("sha256:")


def test_every_problem_is_named_with_its_line(shell: Shell, tmp_path: Path) -> None:
    """A bad policy ends with 1, and every problem is told with file, line and key, not only the first."""
    text = POLICY.replace("tier: read", "tier: raed").replace("max_ttl: 10m", "max_ttl: ten")
    file = _file(tmp_path / "policy.yaml", text)
    done = shell("policy", "check", file)
    assert (done.code, done.err) == (1, "")
    problems = done.out.splitlines()
    assert len(problems) > 1
    assert all(problem.startswith(f"{file}:") for problem in problems)
    listed = shell("policy", "check", file, "--json").json
    assert listed["valid"] is False
    assert {problem["line"] for problem in listed["problems"]} >= {
        number for number, line in enumerate(text.splitlines(), 1) if "raed" in line or "ten}" in line or "ten," in line
    }


def test_a_file_needs_no_settings(shell: Shell, tmp_path: Path) -> None:
    """A policy kept in a repository is checked where no broker and no settings are."""
    assert shell("policy", "check", _file(tmp_path / "p.yaml", POLICY)).code == 0
    assert shell("policy", "check").code == 2


def test_what_a_file_says_is_harmless(shell: Shell, tmp_path: Path) -> None:
    """A policy with control characters in its keys cannot speak to the terminal."""
    done = shell("policy", "check", _file(tmp_path / "p.yaml", '"a\\e[2Jb": 1\nversion: 1\n'))
    assert done.code == 1
    assert "\x1b" not in done.out + done.err


def test_a_missing_file(shell: Shell, tmp_path: Path) -> None:
    """A file that is not there is a problem like any other."""
    assert shell("policy", "check", tmp_path / "nowhere.yaml").code == 1


def test_cases(shell: Shell, tmp_path: Path) -> None:
    """Cases that hold end with 0; one that does not ends with 1 and says what came instead."""
    policy = _file(tmp_path / "policy.yaml", POLICY)
    good = _file(tmp_path / "good.yaml", CASES.replace("EXPECTED", "denied"))
    bad = _file(tmp_path / "bad.yaml", CASES.replace("EXPECTED", "granted"))
    passed = shell("policy", "test", good, "--policy", policy)
    assert passed.code == 0
    assert passed.out.endswith("2 passed, 0 failed\n")
    failed = shell("policy", "test", good, bad, "--policy", policy, "--json")
    assert failed.code == 1
    assert (failed.json["passed"], failed.json["failed"]) == (3, 1)
    wrong = [case for case in failed.json["cases"] if not case["passed"]]
    assert [(case["file"], case["case"]) for case in wrong] == [(str(bad), "nobody deletes")]
    assert "granted" in wrong[0]["differences"][0]


def test_cases_that_cannot_be_read(shell: Shell, tmp_path: Path) -> None:
    """A mistake in the cases is not a failed case: it ends with 2, and names file and line."""
    policy = _file(tmp_path / "policy.yaml", POLICY)
    cases = _file(tmp_path / "cases.yaml", CASES)
    done = shell("policy", "test", cases, "--policy", policy)
    assert (done.code, done.out) == (2, "")
    assert f"{cases}:" in done.err


def test_explaining_before_it_happens(shell: Shell, broker: BrokerThread) -> None:
    """An operator learns what an agent would get, and why, role by role."""
    granted = shell("policy", "explain", "--agent", "alpha", "--audience", TICKETS, "--scope", "tickets:read")
    assert granted.code == 0
    assert granted.out.startswith("granted: tickets:read for 15m in role support")
    asked = ("--agent", "alpha", "--audience", TICKETS, "--scope", "tickets:comment")
    assert shell("policy", "explain", *asked, "--json").json["outcome"] == "denied"
    assert shell("policy", "explain", *asked, "--proof", "--json").json["outcome"] == "granted"
    refund = ("--agent", "alpha", "--audience", "https://payments.internal", "--scope", "refunds:create", "--json")
    assert shell("policy", "explain", *refund).json["outcome"] == "needs_approval"
    assert shell("policy", "explain", *refund, "--break-glass").json["decision"]["code"] == "break_glass_not_allowed"
    handed = shell("policy", "explain", *refund, "--delegated-by", "watchers").json
    assert handed["decision"]["code"] == "delegation_not_allowed"
    details = shell("policy", "explain", *refund, "--details", '[{"type": "agent_task"}]').json
    assert details["decision"]["code"] == "details_not_allowed"
    assert shell("policy", "explain", *refund, "--delegated-by", "nobody").code == 1


def test_explaining_what_happened(shell: Shell, broker: BrokerThread) -> None:
    """A past refusal is explained by its reference: who asked for what, and what the policy says to it."""
    broker.run(broker.app.ask(broker.app.form("alpha", audience=TICKETS, scope="tickets:delete")))
    refusal = broker.entries("token.refused")[-1]["ref"]
    done = shell("policy", "explain", "--refusal", refusal)
    assert done.code == 0
    assert refusal in done.out
    assert "scope_not_allowed" in done.out
    unknown = shell("policy", "explain", "--refusal", "ref_nothing")
    assert (unknown.code, unknown.err.startswith("broker: not_found: ")) == (1, True)


def test_agents_of_a_platform(shell: Shell, broker: BrokerThread) -> None:
    """Claims are text, or JSON after ``:=``; they are matched as the platform would have vouched for them."""
    policy = broker.folder / "policy.yaml"
    member = "{issuer: ci, claims: {repository_id: '12345', protected: true, groups: dev}}"
    issuer = 'issuers: {ci: {preset: oidc, issuer: "https://ci.example"}}\n'
    policy.write_text("version: 1\n" + issuer + POLICY.partition("version: 1\n")[2].replace("{agent: beta}", member))
    reloaded = shell("policy", "reload")
    assert reloaded.code == 0, reloaded.err
    asked = ("--issuer", "ci", "--subject", "x", "--audience", TICKETS, "--scope", "tickets:read", "--json")
    claims = ("--claim", "repository_id=12345", "--claim", "protected:=true", "--claim", 'groups:=["dev","ops"]')
    assert shell("policy", "explain", *asked, *claims).json["outcome"] == "granted"
    assert shell("policy", "explain", *asked, *claims[:2]).json["outcome"] == "denied"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--issuer", "ci"),
        ("--agent", "alpha", "--claim", "novalue"),
        ("--agent", "alpha", "--claim", ":=1"),
        ("--agent", "alpha", "--claim", "a:={"),
        ("--agent", "alpha", "--claim", "a:={}"),
        ("--agent", "alpha", "--claim", "a:=1.5"),
        ("--agent", "alpha", "--claim", "a:=null"),
        ("--refusal", "ref_1", "--agent", "alpha"),
        ("--agent", "alpha", "--details", "{"),
        ("--refusal", "ref_1", "--audience", "x"),
        ("--refusal", "ref_1", "--delegated-by", "x"),
        ("--refusal", "ref_1", "--break-glass"),
    ],
)
def test_questions_that_make_no_sense(shell: Shell, made: Path, arguments: tuple[str, ...]) -> None:
    """Too little, too much, or claims that no platform can vouch for: refused without asking the broker."""
    done = shell("policy", "explain", *arguments, "--config", made / "broker.toml")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)


def test_loading(shell: Shell, broker: BrokerThread) -> None:
    """A good policy is in force at once; a bad one changes nothing, and all its problems are told."""
    policy = broker.folder / "policy.yaml"
    good = policy.read_text()
    policy.write_text(good.replace('"tickets:comment"]', '"tickets:comments"]').replace("15m", "15x"))
    done = shell("policy", "reload")
    assert done.code == 1
    assert done.err.startswith("broker: policy_invalid: ")
    assert len(done.err.splitlines()) == 2
    asked = ("--agent", "alpha", "--audience", TICKETS, "--scope", "tickets:read", "--json")
    before = shell("policy", "explain", *asked).json
    assert before["decision"]["ttl"] == 900
    policy.write_text(good.replace("15m", "5m"))
    digest = shell("policy", "reload", "--json").json["policy"]
    after = shell("policy", "explain", *asked).json
    assert (after["decision"]["ttl"], after["policy"]) == (300, digest)
    assert broker.entries("policy.loaded")[-1]["by"] == "operator"
