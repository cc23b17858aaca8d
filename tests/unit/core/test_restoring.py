"""Going on with an older ledger: a number above everything that was lost, and what is recorded."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.change import AcceptRestore, EpochIs
from broker.core.entry import MAX_INT, decode
from broker.core.errors import Code, Refused
from broker.core.policy import LONGEST_TTL
from broker.core.restoring import LEAST_JUMP, NUMBERS_PER_SECOND, accepting, number_above
from broker.core.selector import Selector
from broker.core.tree_head import KnownHead

NOW = 1_795_300_000.0
YEARS_2200 = 7_258_118_400
FOUND = KnownHead(790, b"f" * 32)
LOST = {"the checkpoint beside the ledger": KnownHead(812, b"l" * 32), "another": KnownHead(812, b"l" * 32)}


@given(
    epoch=st.integers(0, 2**40),
    first=st.integers(1_600_000_000, YEARS_2200 - 10),
    later=st.floats(0.1, 10**7),
    rate=st.floats(0, 20_000),
)
def test_the_number_is_above_all_that_was_lost(epoch: int, first: int, later: float, rate: float) -> None:
    """Also above the number of an earlier restore of the same backup, and of all rules that were made after that."""
    before = number_above(epoch, first)
    assert before >= epoch + LEAST_JUMP
    reached = before + int(rate * later)
    assert number_above(epoch, first + later) > reached
    assert number_above(epoch, first + later) <= MAX_INT


def test_a_clock_that_is_behind() -> None:
    """It jumps all the same."""
    assert number_above(7, 0.0) == 7 + LEAST_JUMP
    epoch = int(NOW) * NUMBERS_PER_SECOND
    assert number_above(epoch, NOW - 3600) == epoch + LEAST_JUMP


def test_a_clock_that_is_centuries_ahead() -> None:
    """No number is given that other JSON readers would round."""
    with pytest.raises(Refused) as caught:
        number_above(7, 9e9)
    assert caught.value.code is Code.INTERNAL


def test_what_is_recorded() -> None:
    """Who, why, what was found, and what others know of the lost part; and one rule for everything, at this epoch."""
    change = accepting(FOUND, 41, LOST, rule_id="rule_1", now=NOW, by="local/root", reason="disk lost")
    [write] = change.writes
    assert isinstance(write, AcceptRestore)
    assert change.guards == (EpochIs(41),)
    assert write.rule.selector == Selector(everything=True)
    assert write.rule.number == number_above(41, NOW)
    assert write.rule.ends_at == NOW + LONGEST_TTL
    assert write.heads == (KnownHead(812, b"l" * 32),)
    members = decode(change.entry.body)
    root = base64.b64encode(b"l" * 32).decode()
    assert members["lost"] == [{"known_to": name, "size": 812, "root": root} for name in LOST]
    assert (members["size"], members["root"]) == (790, base64.b64encode(b"f" * 32).decode())
    assert (members["by"], members["number"]) == ("local/root", write.rule.number)
    assert write.rule.reason == "disk lost"


@pytest.mark.parametrize("reason", ["", " ", "two\nlines", "x" * 1001])
def test_a_reason_that_cannot_be_recorded(reason: str) -> None:
    """It is refused before anything is changed."""
    with pytest.raises(Refused):
        accepting(FOUND, 0, {}, rule_id="rule_1", now=NOW, by="local/root", reason=reason)
