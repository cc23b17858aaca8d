"""Rules and heartbeats as single statements, written and read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jwt
import msgspec
import pytest

from broker.core.feed import (
    HEARTBEAT_TYP,
    MAX_STATEMENT,
    RULE_TYP,
    heartbeat_payload,
    read_heartbeat,
    read_rule,
    rule_payload,
    verify_heartbeat,
    verify_rule,
)
from broker.core.jwk import parse_jwks
from broker.core.jwt import InvalidToken
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.core.statement import LIFETIME, StatementError
from tests.support.fake_broker import SigningKey

NOW = 1_800_000_000.7
ISSUER = "https://broker.example"
RULE = Rule("rule_1", Selector(agent="prod/a/b"), 42, NOW, "alice", "canary reason", "canary incident", NOW + 100.1)
PENDING = Rule("rule_2", Selector(token="tok_1"), None, NOW, "alice", "canary reason")


def _wire(payload: dict[str, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(payload))
    return decoded


def _rule(rule: Rule = RULE, previous: int = 41) -> dict[str, Any]:
    return _wire(rule_payload(rule, previous=previous, mark="m42", issuer=ISSUER, now=NOW))


def _heartbeat(*pending: str) -> dict[str, Any]:
    return _wire(heartbeat_payload(42, pending, mark="m42", issuer=ISSUER, now=NOW))


def test_a_rule_says_what_it_kills_and_nothing_of_why() -> None:
    """The wire form is fixed; who revoked, why and in which incident is not in it."""
    assert _rule() == {
        "iss": ISSUER,
        "iat": 1_800_000_000,
        "exp": 1_800_000_000 + LIFETIME,
        "id": "rule_1",
        "n": 42,
        "previous": 41,
        "selector": {"agent": "prod/a/b"},
        "ends": 1_800_000_101,
        "mark": "m42",
    }


def test_a_heartbeat_says_where_the_rules_stand() -> None:
    """The wire form is fixed, and the order of the ids, too."""
    assert _heartbeat("rule_b", "rule_a") == {
        "iss": ISSUER,
        "iat": 1_800_000_000,
        "exp": 1_800_000_000 + LIFETIME,
        "epoch": 42,
        "mark": "m42",
        "pending": ["rule_a", "rule_b"],
    }


def test_a_reader_has_what_the_broker_stated() -> None:
    """A rule with its number, one without, and the epoch of whoever has applied them."""
    read, pending = read_rule(_rule()), read_rule(_rule(PENDING, 42))
    assert (read.rule.id, read.rule.number, read.rule.selector) == ("rule_1", 42, RULE.selector)
    assert (read.rule.ends_at, read.previous, read.mark, read.epoch) == (1_800_000_101, 41, "m42", 42)
    assert (read.issued_at, read.expires_at) == (1_800_000_000, 1_800_000_300)
    assert (pending.rule.number, pending.rule.ends_at, pending.previous, pending.epoch) == (None, None, 42, 42)
    beat = read_heartbeat(_heartbeat("rule_a"))
    assert (beat.epoch, beat.mark, beat.pending, beat.issued_at) == (42, "m42", frozenset({"rule_a"}), 1_800_000_000)


def test_the_numbers_of_an_accepted_restore_are_read() -> None:
    """The epoch jumps past all that the lost part can have had: previous is far below."""
    restored = Rule("rule_9", RULE.selector, 1_800_000_000 << 20, NOW, "x", "y")
    assert read_rule(_rule(restored)).previous == 41


@pytest.mark.parametrize(
    "change",
    [
        {"id": ""},
        {"id": "a" * 129},
        {"id": 1},
        {"n": 0},
        {"n": 41},
        {"n": 2**53},
        {"n": True},
        {"previous": -1},
        {"previous": 42},
        {"previous": None},
        {"previous": 2**53},
        {"n": None},  # but its end is stated
        {"selector": {}},
        {"selector": {"planet": "mars"}},
        {"selector": {"agent": "a", "planet": "mars"}},
        {"ends": "soon"},
        {"mark": ""},
        {"mark": "m" * 65},
        {"iat": 1.5},
        {"exp": None},
        {"unless": {"agent": "b"}},
    ],
)
def test_a_rule_that_cannot_be_understood_completely_is_refused(change: dict[str, Any]) -> None:
    """What a verifier would pass over could be what lets revoked tokens pass."""
    with pytest.raises(StatementError, match="rule"):
        read_rule(_rule() | change)


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": -1},
        {"epoch": 2**53},
        {"epoch": None},
        {"mark": ""},
        {"pending": None},
        {"pending": [""]},
        {"pending": ["a" * 129]},
        {"pending": [1]},
        {"pending": ["a", "a"]},
        {"iat": "1"},
        {"rules": 4},
    ],
)
def test_a_heartbeat_that_cannot_be_understood_completely_is_refused(change: dict[str, Any]) -> None:
    """It may mean something that a view does not have."""
    with pytest.raises(StatementError, match="heartbeat"):
        read_heartbeat(_heartbeat() | change)


@pytest.mark.parametrize("missing", ["id", "n", "previous", "selector", "ends", "mark", "iat", "exp"])
def test_a_rule_has_all_its_members(missing: str) -> None:
    """Null is said, not left out."""
    payload = _rule()
    del payload[missing]
    with pytest.raises(StatementError, match=missing):
        read_rule(payload)


def test_what_jwt_defines_may_come_along() -> None:
    """A later broker may name its statements."""
    assert read_rule(_rule() | {"jti": "x", "nbf": 1, "aud": "y"}).epoch == 42
    assert read_heartbeat(_heartbeat() | {"jti": "x", "sub": "z"}).epoch == 42


def test_only_the_brokers_own_statements_of_the_right_kind_are_taken() -> None:
    """Signed by a stranger, for another issuer, too old, too long, or one kind in the place of another."""
    key = SigningKey()
    keys = parse_jwks(msgspec.json.encode({"keys": [key.published()]}))
    rule, beat = key.sign(_rule(), RULE_TYP), key.sign(_heartbeat(), HEARTBEAT_TYP)
    assert verify_rule(rule, keys, issuer=ISSUER, now=NOW).rule.number == 42
    assert verify_heartbeat(beat, keys, issuer=ISSUER, now=NOW).epoch == 42
    long = heartbeat_payload(42, [f"rule_{n:0120}" for n in range(500)], mark="m", issuer=ISSUER, now=NOW)
    header, payload, _ = rule.split(".")
    cases: tuple[tuple[Callable[..., object], str, str, dict[str, Any]], ...] = (
        (verify_rule, beat, "typ", {}),
        (verify_heartbeat, rule, "typ", {}),
        (verify_rule, key.sign(_rule(), "broker-rules+jwt"), "typ", {}),
        (verify_rule, SigningKey().sign(_rule(), RULE_TYP), "kid", {}),
        (verify_rule, f"{header}.{payload}.{beat.split('.')[2]}", "signature", {}),
        (verify_rule, jwt.encode(_rule(), "k" * 32, algorithm="HS256", headers={"typ": RULE_TYP}), "alg", {}),
        (verify_rule, rule, "issuer", {"issuer": "https://other.example"}),
        (verify_heartbeat, beat, "expired", {"now": NOW + LIFETIME + 31}),
        (verify_heartbeat, beat, "not_yet_valid", {"now": NOW - 40}),
        (verify_heartbeat, key.sign(long, HEARTBEAT_TYP), "malformed", {}),
    )
    for verify, token, why, changes in cases:
        with pytest.raises(InvalidToken) as caught:
            verify(token, keys, **({"issuer": ISSUER, "now": NOW} | changes))
        assert caught.value.why == why, why
    assert len(key.sign(long, HEARTBEAT_TYP)) > MAX_STATEMENT
