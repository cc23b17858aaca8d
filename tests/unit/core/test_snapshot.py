"""The payload of the revocation snapshot, written and read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker.core.rules import Rule, RuleIndex
from broker.core.selector import Selector
from broker.core.snapshot import Snapshot, read_snapshot, snapshot_payload
from broker.core.statement import LIFETIME, StatementError

NOW = 1_800_000_000.7
ISSUER = "https://broker.example"


def _rule(number: int | None, selector: Selector, ends_at: float | None = None) -> Rule:
    return Rule(f"rul_{number}", selector, number, NOW, "alice", "canary reason", "canary incident", ends_at)


def _index() -> RuleIndex:
    return RuleIndex(
        [
            _rule(3, Selector(agent="prod/a/b", scope="refunds:create"), NOW + 100.2),
            _rule(7, Selector(everything=True), NOW + 500),
            _rule(None, Selector(token="tok_1")),
        ],
        epoch=9,
    )


def _wire(payload: dict[str, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(payload))
    return decoded


def test_a_snapshot_says_what_kills_and_nothing_of_why() -> None:
    """The wire form is fixed; who revoked, why and in which incident is not in it."""
    assert _wire(snapshot_payload(_index(), mark="m9", issuer=ISSUER, now=NOW)) == {
        "iss": ISSUER,
        "iat": 1_800_000_000,
        "exp": 1_800_000_000 + LIFETIME,
        "epoch": 9,
        "mark": "m9",
        "rules": [
            {
                "id": "rul_3",
                "n": 3,
                "selector": {"agent": "prod/a/b", "scope": "refunds:create"},
                "ends": 1_800_000_101,
            },
            {"id": "rul_7", "n": 7, "selector": {"everything": True}, "ends": 1_800_000_501},
            {"id": "rul_None", "n": None, "selector": {"token": "tok_1"}, "ends": None},
        ],
    }


def test_a_reader_kills_exactly_what_the_broker_kills() -> None:
    """Rules, epoch and pending rules arrive whole."""
    broker = _index()
    snapshot = read_snapshot(_wire(snapshot_payload(broker, mark="m9", issuer=ISSUER, now=NOW)))
    assert (snapshot.epoch, snapshot.rules.epoch, snapshot.mark) == (9, 9, "m9")
    assert [rule.id for rule in snapshot.rules.live()] == [rule.id for rule in broker.live()]
    assert (snapshot.issued_at, snapshot.expires_at) == (1_800_000_000, 1_800_000_300)
    cases = (
        (frozenset({("agent", "prod/a/b"), ("scope", "refunds:create")}), 2),
        (frozenset({("agent", "prod/a/b"), ("scope", "tickets:read")}), 7),
        (frozenset({("agent", "other")}), 6),
        (frozenset({("agent", "other")}), 7),
        (frozenset({("token", "tok_1")}), 9),
        (frozenset({("token", "tok_1")}), 10**9),
    )
    for facts, epoch in cases:
        assert (snapshot.rules.killer(facts, epoch) is None) == (broker.killer(facts, epoch) is None)
    assert snapshot.rules.killer(frozenset({("token", "tok_1")}), 10**9) is not None


def test_no_rules_is_a_snapshot_too() -> None:
    """A broker on which nothing was ever revoked says so."""
    snapshot = read_snapshot(_wire(snapshot_payload(RuleIndex(), mark="m9", issuer=ISSUER, now=NOW)))
    assert (len(snapshot.rules), snapshot.epoch) == (0, 0)


def test_several_pending_rules_are_all_kept() -> None:
    """Rules without a number are told apart by their ids."""
    index = RuleIndex([_rule(None, Selector(token="a")), Rule("other", Selector(token="b"), None, NOW, "x", "y")])
    snapshot = read_snapshot(_wire(snapshot_payload(index, mark="m9", issuer=ISSUER, now=NOW)))
    assert all(snapshot.rules.killer(frozenset({("token", name)}), 5) for name in ("a", "b"))


def test_a_view_never_goes_back() -> None:
    """An earlier epoch, or the same epoch at an earlier time, does not replace a later one."""

    def made(epoch: int, now: float) -> Snapshot:
        return read_snapshot(_wire(snapshot_payload(RuleIndex(epoch=epoch), mark="m9", issuer=ISSUER, now=now)))

    assert made(5, NOW).follows(made(5, NOW))
    assert made(5, NOW + 1).follows(made(5, NOW))
    assert made(6, NOW - 1).follows(made(5, NOW))
    assert not made(5, NOW - 1).follows(made(5, NOW))
    assert not made(4, NOW + 1).follows(made(5, NOW))


def _with(rule: dict[str, Any]) -> dict[str, Any]:
    return {"rules": [{"id": "rul_3", "n": 3, "selector": {"agent": "a"}, "ends": None} | rule]}


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": None},
        {"epoch": -1},
        {"epoch": True},
        {"epoch": "9"},
        {"iat": "1"},
        {"exp": None},
        {"rules": None},
        {"rules": {}},
        {"rules": [None]},
        {"rules": [{"n": 3, "selector": {"agent": "a"}, "ends": None}]},
        {"rules": [{"id": "a", "selector": {"agent": "a"}, "ends": None}]},
        {"rules": [{"id": "a", "n": 3, "ends": None}]},
        {"rules": [{"id": "a", "n": 3, "selector": {"agent": "a"}}]},
        {"rules": [{"id": "a", "n": n, "selector": {"agent": "a"}, "ends": None} for n in (3, 4)]},
        {"rules": [{"id": f"a{n}", "n": 3, "selector": {"agent": "a"}, "ends": None} for n in (3, 4)]},
        {"mark": None},
        {"mark": ""},
        {"mark": "m" * 65},
        {"epoch": 2**53},
        {"version": 2},
        _with({"id": ""}),
        _with({"id": "a\nb"}),
        _with({"id": "a" * 129}),
        _with({"n": 0}),
        _with({"n": -1}),
        _with({"n": 10}),
        _with({"n": True}),
        _with({"n": "3"}),
        _with({"n": 2.5}),
        _with({"ends": "soon"}),
        _with({"selector": {}}),
        _with({"selector": {"everything": False}}),
        _with({"selector": {"everything": True, "agent": "a"}}),
        _with({"selector": {"agent": ""}}),
        _with({"selector": {"agent": True}}),
        _with({"selector": {"agent": ["a"]}}),
        _with({"selector": {"planet": "mars"}}),
        _with({"selector": "everything"}),
        _with({"unless": {"agent": "b"}}),
    ],
)
def test_what_cannot_be_understood_completely_is_refused(change: dict[str, Any]) -> None:
    """A rule that a verifier leaves out would let revoked tokens pass, so it takes all of them or none."""
    payload = _wire(snapshot_payload(_index(), mark="m9", issuer=ISSUER, now=NOW)) | change
    with pytest.raises(StatementError):
        read_snapshot(payload)
