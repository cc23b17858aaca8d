"""The signed revocation snapshot, from the broker's rules to a verifier's."""

from __future__ import annotations

import jwt
import msgspec
import pytest

from broker.core.errors import Code, Unavailable
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
from broker.signing.snapshot import SnapshotSigner

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
    return SnapshotSigner(ring, Revocations(rules=rules), marks_key=MARKS_KEY, issuer=issuer).at(NOW)


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
    signer, keys = SnapshotSigner(ring, revocations, marks_key=MARKS_KEY, issuer=ISSUER), ring.verification_keys(NOW)
    assert len(verify_snapshot(signer.at(NOW), keys, issuer=ISSUER, now=NOW).rules) == 0
    revocations.rules.add(Rule("rul_1", Selector(everything=True), None, NOW, "x", "y"))
    assert len(verify_snapshot(signer.at(NOW), keys, issuer=ISSUER, now=NOW).rules) == 1


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
