"""What a report says: counts with their places, people's decisions, revocations with their outcomes, requirements."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.core.entry import Kind, decode, entry
from broker.core.personal import merged
from broker.core.reporting import Evidence, Integrity, report
from broker.core.reporting.controls import FRAMEWORKS, Control
from broker.core.reporting.counted import MAX_KEYS, OTHERS

AT = 1_795_300_000.0
ROOT = Path(__file__).parents[4]
SOUND = Integrity(
    sound=True,
    entries=9,
    root="ab" * 32,
    checkpoints=1,
    signatures=1,
    voucher="the checkpoint of 9 entries in kept.txt",
    trust=["entries 0 to 8: sound"],
    problems=[],
    problem_count=0,
)


def told(*entries: tuple[Kind, float, dict[str, Any]], integrity: Integrity = SOUND) -> str:
    """Return the report on entries that came at so many seconds."""
    evidence = Evidence()
    for seq, (kind, seconds, members) in enumerate(entries):
        made = entry(kind, AT + seconds, **members)
        evidence.take(seq, merged(decode(made.body), msgspec.json.decode(made.personal or b"{}")))
    return report(evidence, integrity, since=AT, until=AT + 3600, made_at=AT + 3600)


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table under a heading."""
    part = re.split(r"^#+ ", text.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", line.strip("|")) for line in lines[2:]]


def cells(text: str, heading: str) -> list[list[str]]:
    """Return the rows as cells, trimmed."""
    return [[each.strip() for each in row] for row in rows(text, heading)]


def test_nothing_happened() -> None:
    """An empty time makes a report that says so."""
    text = told()
    assert text.count("None in this time.") > 10
    assert "| the whole ledger | sound |" in text
    assert "2026" in text


def test_what_was_issued_and_refused() -> None:
    """Credentials by role, agent, audience and tier; refusals by code; strangers by how many they were."""
    token = {"agent": "alpha", "role": "triage", "tier": "read", "audience": "https://t.example"}
    text = told(
        *((Kind.TOKEN_ISSUED, number, token) for number in range(5)),
        (Kind.LEASE_SEALED, 6, {"agent": "beta", "role": "db", "secret": "reports-db"}),
        (Kind.TOKEN_REFUSED, 7, {"agent": "alpha", "code": "scope_not_allowed"}),
        (Kind.STRANGERS_REFUSED, 8, {"counts": {"assertion_invalid": 40}}),
    )
    assert cells(text, "By agent") == [["alpha", "5", "0, 1, 2 … 4"], ["beta", "1", "5"]]
    assert cells(text, "By secret") == [["reports-db", "1", "5"]]
    assert cells(text, "Refusals") == [[r"scope\_not\_allowed \(token\.refused\)", "1", "6"]]
    assert cells(text, "Strangers") == [[r"assertion\_invalid", "40", "7"]]


def test_decisions_of_people() -> None:
    """Who decided, and how long it took; a denial ends a request, a quorum that is not reached does not."""
    asked = {"agent": "alpha", "approval_kind": "token", "quorum": 2}
    text = told(
        (Kind.APPROVAL_REQUESTED, 0, {**asked, "ref": "one"}),
        (Kind.APPROVAL_REQUESTED, 1, {**asked, "ref": "two"}),
        (Kind.APPROVAL_VOTED, 10, {"ref": "one", "by": "ann", "approve": True}),
        (Kind.APPROVAL_VOTED, 30, {"ref": "one", "by": "bob", "approve": True}),
        (Kind.APPROVAL_VOTED, 31, {"ref": "two", "by": "bob", "approve": False}),
        (Kind.APPROVAL_REQUESTED, 40, {**asked, "ref": "three"}),
        (Kind.APPROVAL_VOTED, 41, {"ref": "from before", "by": "ann", "approve": True}),
        (Kind.TOKEN_ISSUED, 50, {"agent": "alpha", "role": "r", "break_glass": "the pager", "approval": "x"}),
    )
    assert "3 requests, 3 votes for and 1 against." in text
    assert cells(text, "Decisions of people") == [
        ["0", "alpha", "token", "approved", "ann (entry 2), bob (entry 3)", "30"],
        ["1", "alpha", "token", "denied", "bob (entry 4)", "30"],
        ["5", "alpha", "token", "not decided", "-", "-"],
    ]
    assert cells(text, "Break-glass uses")[0][2:] == ["alpha", "r", "the pager", "x"]


def test_revocations_and_how_long_backends_took() -> None:
    """A rule has the outcomes of the leases that it ended, and the time until the last; none while one is open."""
    rule = {"selector": {"agent": "alpha"}, "by": "ann", "reason": "stolen | laptop", "incident": "INC-1"}
    text = told(
        (Kind.RULE_ADDED, 0, {**rule, "ref": "r1", "number": 1}),
        *((Kind.LEASE_ENDED, 1, {"ref": ref, "rule": 1}) for ref in ("a", "b")),
        (Kind.LEASE_SETTLED, 2, {"ref": "a", "status": "revoked"}),
        (Kind.LEASE_MISSED, 3, {"ref": "b", "stuck": True, "error": "backend_refused", "attempts": 10}),
        (Kind.LEASE_SETTLED, 4.5, {"ref": "b", "status": "revoked"}),
        (Kind.RULE_ADDED, 5, {**rule, "ref": "r2", "number": 2}),
        (Kind.LEASE_ENDED, 6, {"ref": "c", "rule": 2}),
    )
    first, second = cells(text, "Revocations")
    assert first[2:] == ["agent=alpha", "ann", r"stolen \| laptop", "INC-1", "-", "2", "2 revoked", "4.5 s", "-"]
    assert second[7:] == ["1", "-", "-", "-"]
    assert cells(text, "Leases that got stuck")[0][2] == "b"


def test_who_applied_a_rule() -> None:
    """As it was recorded, with who had not; an entry that is of no rule here is left aside."""
    spread = {"replicas": 3, "replicas_applied": 3, "verifiers": 40, "verifiers_applied": 38, "slowest_ms": 84}
    late = {"waiting_for": ["payments#gw-7"], "refusing": ["payments#gw-8"]}
    text = told(
        (Kind.RULE_ADDED, 0, {"selector": {"agent": "alpha"}, "by": "ann", "reason": "x", "ref": "r1", "number": 1}),
        (Kind.RULE_PROPAGATED, 1, {"ref": "r1", "number": 1, "applied": False, **spread, **late}),
        (Kind.RULE_PROPAGATED, 2, {"ref": "r9", "number": 9, "applied": True, **spread}),
        (Kind.RULE_PROPAGATED, 3, {"ref": "r9", "number": ["no", "number"], "applied": True, **spread}),
    )
    (row,) = cells(text, "Revocations")
    applied = "3 of 3 replicas, 38 of 40 verifiers, 84 ms, not by: payments#gw-7, refused everything: payments#gw-8"
    assert row[-1].replace("\\", "") == applied


def test_what_happened_in_operation() -> None:
    """Rotations, policies, steps of the clock: each is told with its entry."""
    text = told(
        (Kind.KEYS_ROTATED, 0, {"by": "ann", "reason": "leak", "keys": [{"kid": "a"}, {"kid": "b"}]}),
        (Kind.CLOCK_STEPPED, 1, {"milliseconds": -4000}),
    )
    assert cells(text, "Entries `keys.rotated`")[0][2:] == ["ann", "leak", "2 items"]
    assert cells(text, "Entries `clock.stepped`")[0][2:] == ["-4000"]


def test_anchors_that_failed() -> None:
    """Each time that an anchor began to fail, and why, and that it recovered."""
    text = told(
        (Kind.ANCHOR_FAILED, 0, {"anchor": "mount", "code": "anchor_lost", "reason": "it is gone"}),
        (Kind.ANCHOR_RECOVERED, 1, {"anchor": "mount"}),
    )
    assert r"| mount | anchor\_lost | it is gone |" in text
    assert "| mount | - | - |" in text


def test_memory_is_bounded() -> None:
    """Beyond a bound, values are counted together, and events are counted and not told; nothing is lost of the sum."""
    evidence = Evidence()
    for number in range(MAX_KEYS + 50):
        members = {"kind": Kind.TOKEN_ISSUED.value, "at": 0, "agent": f"agent-{number}", "break_glass": "x"}
        evidence.take(number, members)
    agents = dict(evidence.issued["agent"].most())
    assert len(agents) == MAX_KEYS + 1
    assert agents[OTHERS].count == 50
    text = report(evidence, SOUND, since=0, until=1, made_at=1)
    assert f"And {MAX_KEYS - 50:,} others." not in text
    assert re.search(r"And 1,550 more, the last of which is entry 2049\.", text)


def test_a_damaged_ledger() -> None:
    """The verdict and the problems stand at the top."""
    text = told(
        integrity=Integrity(
            sound=False,
            entries=9,
            root=None,
            checkpoints=0,
            signatures=0,
            voucher=None,
            trust=["entry 3: changed"],
            problems=["entry 3: its bytes differ"],
            problem_count=1,
        )
    )
    assert "| the whole ledger | NOT sound: 1 problems |" in text
    assert r"* entry 3\: its bytes differ" in text


CONTROLS = [control for framework in FRAMEWORKS for control in framework.controls]


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.requirement)
def test_each_claim_of_a_mapping_can_be_followed(control: Control) -> None:
    """It names kinds that exist and files that are there, and what it leaves; without files, it claims nothing."""
    assert control.leaves
    assert set(control.kinds) <= set(Kind)
    assert all((ROOT / path).is_file() for path in control.shown_by)
    assert bool(control.does) == bool(control.shown_by)


def test_the_lists_are_whole() -> None:
    """Of the two top tens, each item is there, what the broker does nothing about included."""
    by_name = {framework.name: [control.requirement for control in framework.controls] for framework in FRAMEWORKS}
    assert by_name["OWASP Non-Human Identities Top 10 (2025)"] == [f"NHI{number}:2025" for number in range(1, 11)]
    assert by_name["OWASP Top 10 for Agentic Applications (2026)"] == [f"ASI{number:02}" for number in range(1, 11)]
