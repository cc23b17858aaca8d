"""The closed set of errors."""

from __future__ import annotations

import re

import pytest

from broker.core.errors import BrokerError, Code, EpochMoved, GuardFailed, Malformed, Refused, Unavailable


def test_codes_are_stable_words() -> None:
    """A code is lower-case words that a caller can compare, and no two members share one."""
    values = [code.value for code in Code]
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", value) for value in values)
    assert len(set(values)) == len(values)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BLOCKED", "blocked"),
        ("RATE_LIMITED", "rate_limited"),
        ("ASSERTION_REPLAYED", "assertion_replayed"),
        ("LEDGER_UNAVAILABLE", "ledger_unavailable"),
        ("TOKEN_REVOKED", "token_revoked"),
        ("INSUFFICIENT_SCOPE", "insufficient_scope"),
    ],
)
def test_codes_that_callers_depend_on_keep_their_text(name: str, text: str) -> None:
    """These texts are in callers' programs and in ledgers: changing one breaks both."""
    assert Code[name] == text


@pytest.mark.parametrize("kind", [BrokerError, Unavailable, GuardFailed, Refused])
def test_an_error_prints_its_code_only(kind: type[BrokerError]) -> None:
    """Whatever formats an error (a log, a traceback) shows the stable code, not the text for the caller."""
    error = kind(Code.BLOCKED, "block blk_1 is in force", retry_after=7)
    assert str(error) == "blocked"
    assert "blk_1" not in repr(error)
    assert (error.code, error.public, error.retry_after) == (Code.BLOCKED, "block blk_1 is in force", 7)


def test_a_refusal_names_its_record() -> None:
    """A recorded refusal carries the reference that an operator can look up; others carry none."""
    assert Refused(Code.NO_ROLE, "no role", refusal="ref_1").refusal == "ref_1"
    assert Refused(Code.NO_ROLE, "no role").refusal is None


def test_malformed_input_is_a_malformed_request_unless_said_otherwise() -> None:
    """``Malformed`` has a default code, and can be more precise."""
    assert Malformed("x: bad").code is Code.MALFORMED_REQUEST
    assert Malformed("x: bad", Code.SCOPE_MALFORMED).code is Code.SCOPE_MALFORMED


def test_a_moved_epoch_is_no_answer_to_a_caller() -> None:
    """``EpochMoved`` is handled inside; it must not pass for a refusal with a code."""
    assert not issubclass(EpochMoved, BrokerError)
