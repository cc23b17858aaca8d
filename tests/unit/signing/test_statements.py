"""What the broker signs of its rules, and what a verifier reads of it."""

from __future__ import annotations

import jwt
import msgspec
import pytest

from broker.core.errors import Code, Unavailable
from broker.core.feed import MAX_STATEMENT, verify_heartbeat, verify_rule
from broker.core.jwk import parse_jwks
from broker.core.jwt import InvalidToken
from broker.core.marks import is_mark
from broker.core.rules import Rule, RuleIndex
from broker.core.secret import Secret
from broker.core.selector import Selector
from broker.core.snapshot import MAX_SNAPSHOT, snapshot_payload, verify_snapshot
from broker.core.statement import LIFETIME, StatementError
from broker.ports import Revocations
from broker.signing.keyring import KeyRing
from broker.signing.sealing import Sealer
from broker.signing.statements import StatementSigner

NOW = 1_800_000_000.5
ISSUER = "https://broker.example"
MARKS_KEY = b"marks" * 8
SEALER = Sealer(Secret(bytes(range(32))))


@pytest.fixture
def ring() -> KeyRing:
    """A ring with one ES256 key."""
    empty = KeyRing((), SEALER, longest_token=900)
    return KeyRing([empty.generate("ES256", "token", NOW, NOW)], SEALER, longest_token=900)


def _signed(ring: KeyRing, rules: RuleIndex, issuer: str = ISSUER) -> str:
    return StatementSigner(ring, Revocations(rules=rules), marks_key=MARKS_KEY, issuer=issuer).snapshot(NOW)


def _index(count: int = 3) -> RuleIndex:
    rules = [
        Rule(f"rul_{n}", Selector(token=f"tok_{n:040}"), n, NOW, "x", "y", None, NOW + 900) for n in range(1, count)
    ]
    return RuleIndex([*rules, Rule("rul_new", Selector(agent="prod/a"), None, NOW, "x", "y")])


def test_a_verifier_reads_what_the_broker_signed(ring: KeyRing) -> None:
    """With nothing but the published keys; rules that are not durable yet kill too."""
    token = _signed(ring, _index())
    keys = parse_jwks(ring.jwks(NOW))
    snapshot = verify_snapshot(token, keys, issuer=ISSUER, now=NOW + 10)
    assert snapshot.epoch == 2
    assert is_mark(MARKS_KEY, 2, snapshot.mark)
    assert snapshot.rules.killer({("token", f"tok_{1:040}")}, 0) is not None
    assert snapshot.rules.killer({("token", f"tok_{1:040}")}, 1) is None
    assert snapshot.rules.killer({("agent", "prod/a")}, 10**6) is not None
    header = jwt.get_unverified_header(token)
    assert header == {"typ": "broker-rules+jwt", "alg": "ES256", "kid": ring.signing_kid(NOW)}


def test_a_rule_added_later_is_in_the_next_snapshot(ring: KeyRing) -> None:
    """Each snapshot is of the rules at that moment, durable or not."""
    revocations = Revocations()
    signer, keys = StatementSigner(ring, revocations, marks_key=MARKS_KEY, issuer=ISSUER), ring.verification_keys(NOW)
    assert len(verify_snapshot(signer.snapshot(NOW), keys, issuer=ISSUER, now=NOW).rules) == 0
    revocations.rules.add(Rule("rul_1", Selector(everything=True), None, NOW, "x", "y"))
    assert len(verify_snapshot(signer.snapshot(NOW), keys, issuer=ISSUER, now=NOW).rules) == 1


def test_a_snapshot_of_many_rules_is_read(ring: KeyRing) -> None:
    """It is not held to the size of an ordinary token."""
    token = _signed(ring, _index(20_000))
    assert len(token) > 1024 * 1024
    assert len(verify_snapshot(token, ring.verification_keys(NOW), issuer=ISSUER, now=NOW).rules) == 20_000


def test_more_rules_than_fit_are_an_error_and_not_left_out(ring: KeyRing) -> None:
    """Verifiers then refuse by themselves once their view is too old."""
    rules = [Rule(f"{n}", Selector(token=f"{n:0500}"), n, NOW, "x", "y") for n in range(1, MAX_SNAPSHOT // 650)]
    with pytest.raises(Unavailable) as caught:
        _signed(ring, RuleIndex(rules))
    assert caught.value.code is Code.OVERLOADED


def test_what_is_not_the_brokers_own_current_snapshot_is_refused(ring: KeyRing) -> None:
    """Expired, from the future, of another issuer, by another key, of another type, changed."""
    token = _signed(ring, _index())
    keys = ring.verification_keys(NOW)
    stranger = KeyRing((), SEALER, longest_token=900)
    stranger.replace([stranger.generate("ES256", "token", NOW, NOW)])
    payload = msgspec.json.encode(snapshot_payload(_index(), mark="m", issuer=ISSUER, now=NOW))
    fewer = msgspec.json.encode(snapshot_payload(RuleIndex(), mark="m", issuer=ISSUER, now=NOW))
    head, _, signature = token.split(".")
    body = ring.signer(NOW).jwt("broker-rules+jwt", fewer).split(".")[1]
    cases: tuple[tuple[str, str, dict[str, float]], ...] = (
        (token, "expired", {"now": NOW + LIFETIME + 31}),
        (token, "not_yet_valid", {"now": NOW - 60}),
        (_signed(ring, _index(), "https://other.example"), "issuer", {}),
        (_signed(stranger, _index()), "kid", {}),
        (ring.signer(NOW).jwt("at+jwt", payload), "typ", {}),
        (ring.signer(NOW).jwt("JWT", payload), "typ", {}),
        (f"{head}.{body}.{signature}", "signature", {}),
    )
    for bad, why, changes in cases:
        with pytest.raises(InvalidToken) as caught:
            verify_snapshot(bad, keys, issuer=ISSUER, **{"now": NOW} | changes)
        assert caught.value.why == why


def test_a_well_signed_snapshot_of_a_later_version_is_refused(ring: KeyRing) -> None:
    """A verifier that does not understand a rule does not pass over it."""
    payload = snapshot_payload(_index(), mark="m", issuer=ISSUER, now=NOW)
    payload["rules"][0]["selector"] = {"planet": "mars"}
    token = ring.signer(NOW).jwt("broker-rules+jwt", msgspec.json.encode(payload))
    with pytest.raises(StatementError, match="planet"):
        verify_snapshot(token, ring.verification_keys(NOW), issuer=ISSUER, now=NOW)


def test_without_a_key_there_is_no_snapshot() -> None:
    """An unsigned list of rules is none."""
    with pytest.raises(Unavailable):
        _signed(KeyRing((), SEALER, longest_token=900), _index())


def test_a_statement_is_signed_once_in_a_second_for_the_same_rules(ring: KeyRing) -> None:
    """Whoever asks gets the same bytes; a new rule, a withdrawn one, the next second or another key makes others."""
    revocations = Revocations()
    signer = StatementSigner(ring, revocations, marks_key=MARKS_KEY, issuer=ISSUER)
    for make in (signer.snapshot, signer.heartbeat):
        first = make(NOW)
        assert make(NOW + 0.3) is first
        revocations.rules.add(Rule("rule_1", Selector(everything=True), None, NOW, "x", "y"))
        second = make(NOW + 0.3)
        revocations.rules.remove(["rule_1"])
        third = make(NOW + 0.3)
        fourth = make(NOW + 0.6)
        ring.replace([*ring.replaced(NOW).rows])
        fifth = make(NOW + 0.6)
        assert len({first, second, third, fourth, fifth}) == 5


def test_rules_and_heartbeats_carry_the_mark_of_the_epoch_after_them(ring: KeyRing) -> None:
    """A verifier that has applied them can say so, and no other."""
    rules = _index()
    signer = StatementSigner(ring, Revocations(rules=rules), marks_key=MARKS_KEY, issuer=ISSUER)
    keys = ring.verification_keys(NOW)
    numbered, pending = rules.live()[0], rules.live()[-1]
    first = verify_rule(signer.rule(numbered, 0, NOW), keys, issuer=ISSUER, now=NOW)
    second = verify_rule(signer.rule(pending, 2, NOW), keys, issuer=ISSUER, now=NOW)
    beat = verify_heartbeat(signer.heartbeat(NOW), keys, issuer=ISSUER, now=NOW)
    assert (first.rule.number, first.previous) == (1, 0)
    assert (second.rule.number, second.previous) == (None, 2)
    assert (beat.epoch, beat.pending) == (2, frozenset({"rul_new"}))
    for epoch, mark in ((1, first.mark), (2, second.mark), (2, beat.mark)):
        assert is_mark(MARKS_KEY, epoch, mark)


def test_more_pending_rules_than_a_heartbeat_can_name_are_an_error(ring: KeyRing) -> None:
    """A heartbeat that left one out would say that it was withdrawn."""
    rules = RuleIndex([Rule(f"rule_{n:030}", Selector(agent="a"), None, NOW, "x", "y") for n in range(2000)])
    signer = StatementSigner(ring, Revocations(rules=rules), marks_key=MARKS_KEY, issuer=ISSUER)
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            signer.heartbeat(NOW)
        assert caught.value.code is Code.OVERLOADED
    assert MAX_STATEMENT * 0.75 < 2000 * 30
