"""The rules by which keys are published, sign and retire."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from broker.core.change import StoredKey
from broker.core.errors import Malformed
from broker.core.key_schedule import (
    CHECKPOINT,
    DEFAULT_LEAD,
    JWKS_MAX_AGE,
    RETIRE_MARGIN,
    SHORTEST_LEAD,
    TOKEN,
    algorithms,
    birth,
    checked_lead,
    is_published,
    next_change,
    revoked,
    signing_key,
    superseded,
)

NOW = 1_800_000_000.0


def _row(kid: str, created: float = 0, active: float = 0, *, use: str = TOKEN, alg: str = "ES256") -> StoredKey:
    return StoredKey(kid, use, alg, {}, b"sealed", NOW + created, NOW + active)


def _signs(keys: list[StoredKey], at: float = 0) -> str | None:
    key = signing_key(keys, TOKEN, "ES256", NOW + at)
    return None if key is None else key.kid


def test_a_new_key_takes_over_when_it_is_active_and_not_before() -> None:
    """Until then the old one signs."""
    keys = [_row("old", -1000, -1000), _row("new", 0, 600)]
    assert [_signs(keys, at) for at in (0, 599.9, 600, 10_000)] == ["old", "old", "new", "new"]


def test_the_youngest_active_key_signs_whatever_the_order_of_rows() -> None:
    """Two processes with the same rows choose the same key, even when a later rotation was the more hurried."""
    slow, quick = _row("slow", 0, 600), _row("quick", 10, 370)
    for keys in ([slow, quick], [quick, slow]):
        assert [_signs(keys, at) for at in (400, 600, 700)] == ["quick"] * 3
    twins = [_row("a"), _row("b")]
    assert _signs(twins) == _signs(twins[::-1])


def test_only_keys_of_the_use_and_algorithm_sign() -> None:
    """A checkpoint key never signs a token; no key is better than the wrong one."""
    assert _signs([_row("checkpoint", use=CHECKPOINT), _row("rsa", alg="RS256")]) is None
    assert _signs([]) is None


def test_revoked_and_retired_keys_neither_sign_nor_are_published() -> None:
    """Even if no other key is left."""
    for key in (replace(_row("a"), revoked=True), replace(_row("a"), retires_at=NOW)):
        assert not is_published(key, NOW)
        assert _signs([key]) is None
    assert is_published(replace(_row("a"), retires_at=NOW + 0.1), NOW)


def test_a_clock_that_was_set_back_does_not_leave_the_broker_without_a_key() -> None:
    """The only keys are from the future, as it seems: the one that was to sign first does."""
    assert _signs([_row("first", 5000, 5000), _row("second", 6000, 6600)]) == "first"


def test_a_key_made_after_the_clock_was_set_back_still_takes_over() -> None:
    """It counts as the youngest, and its lead is counted from now."""
    old = [_row("old", 5000, 5000)]
    new = _row("new", birth(old, NOW) - NOW, 600)
    assert new.created_at > old[0].created_at
    assert _signs([*old, new], 600) == "new"
    assert birth([], NOW) == NOW


@pytest.mark.parametrize("lead", [0, -1, JWKS_MAX_AGE, SHORTEST_LEAD - 1, math.nan, math.inf])
def test_a_lead_shorter_than_consumer_caches_is_refused(lead: float) -> None:
    """Pitfall 28: rotation faster than caches. The error says what the bound is."""
    with pytest.raises(Malformed) as caught:
        checked_lead(lead)
    assert str(SHORTEST_LEAD) in caught.value.public
    assert checked_lead(SHORTEST_LEAD) == SHORTEST_LEAD
    assert DEFAULT_LEAD >= SHORTEST_LEAD > JWKS_MAX_AGE


def test_superseded_keys_stay_until_their_last_token_has_expired() -> None:
    """A token signed just before the new key is active can live its full life."""
    old, other = _row("old", -100), _row("rsa", -100, alg="RS256")
    checkpoint = _row("checkpoint", -100, use=CHECKPOINT)
    gone = replace(_row("gone", -200), revoked=True)
    early = replace(_row("early", -300), retires_at=NOW + 60)
    late = replace(_row("late", -300), retires_at=NOW + 1e6)
    new = _row("new", 0, 600)
    rows = superseded([old, other, checkpoint, gone, early, late, new], new, 900)
    assert {row.kid: row.retires_at for row in rows} == dict.fromkeys(("old", "late"), NOW + 600 + 900 + RETIRE_MARGIN)


def test_an_emergency_revokes_every_published_token_key_and_nothing_else() -> None:
    """Pending keys and those that only wait for their tokens to expire are suspect too; the ledger's key stays."""
    keys = [
        _row("active", -100),
        _row("pending", 0, 600),
        replace(_row("waiting", -900), retires_at=NOW + 10),
        _row("rsa", alg="RS256"),
        replace(_row("retired"), retires_at=NOW - 10),
        replace(_row("revoked"), revoked=True),
        _row("checkpoint", use=CHECKPOINT),
    ]
    rows = revoked(keys, NOW)
    assert [row.kid for row in rows] == ["active", "pending", "waiting", "rsa"]
    assert all(row.revoked for row in rows)


def test_algorithms_are_those_of_published_token_keys() -> None:
    """A rotation does not bring back an algorithm that was given up."""
    given_up = replace(_row("x", alg="EdDSA"), retires_at=NOW)
    keys = [_row("b", alg="RS256"), _row("a"), _row("c"), given_up, _row("d", use=CHECKPOINT, alg="EdDSA")]
    assert algorithms(keys, NOW) == ["ES256", "RS256"]


def test_next_change_brackets_the_present() -> None:
    """Between the two times nothing begins or ends."""
    keys = [_row("a", -100, -100), replace(_row("b", 0, 600), retires_at=NOW + 900)]
    assert next_change(keys, NOW) == (NOW - 100, NOW + 600)
    assert next_change(keys, NOW + 600) == (NOW + 600, NOW + 900)
    assert next_change(keys, NOW + 900) == (NOW + 900, math.inf)
    assert next_change([], NOW) == (-math.inf, math.inf)
