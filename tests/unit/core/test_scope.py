"""Scopes are read strictly and compared as sets."""

import pytest

from broker.core.claims import MAX_SCOPE_TEXT
from broker.core.errors import Code, Malformed
from broker.core.scope import MAX_SCOPE, MAX_SCOPES, covers, join_scopes, parse_scopes


def test_scopes_are_sorted_and_duplicates_collapse() -> None:
    """What was asked twice counts once, and the order of asking does not matter."""
    assert parse_scopes("b:write a:read b:write") == ("a:read", "b:write")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        " a",
        "a ",
        "a  b",
        "a\tb",
        "a\nb",
        'a"b',
        "a\\b",
        "a\x00",
        "a\x7f",
        "ä",
        "a\u200bb",
        "\uff41",
        "a" * (MAX_SCOPE + 1),
        " ".join(f"s{n}" for n in range(MAX_SCOPES + 1)),
        " ".join(["a"] * 10_000),
        "a" * 1_000_000,
    ],
)
def test_malformed_scopes_are_refused(text: str) -> None:
    """Anything but tokens of the allowed characters, single spaces between them, is refused with its own code."""
    with pytest.raises(Malformed) as caught:
        parse_scopes(text)
    assert caught.value.code is Code.SCOPE_MALFORMED
    assert len(caught.value.public) < 200


def test_the_largest_request_is_read() -> None:
    """The bounds themselves are allowed: as many scopes as there may be, and as long ones as a token can hold."""
    for length, count in ((80, MAX_SCOPES), (MAX_SCOPE, MAX_SCOPE_TEXT // (MAX_SCOPE + 1))):
        scopes = sorted(f"{n:03}".ljust(length, "x") for n in range(count))
        assert parse_scopes(" ".join(scopes)) == tuple(scopes)


def test_more_than_a_token_can_hold_is_refused() -> None:
    """A request that could only be granted by a token that nobody takes is malformed, not an internal failure."""
    with pytest.raises(Malformed):
        parse_scopes(" ".join(f"{n:03}".ljust(MAX_SCOPE, "x") for n in range(MAX_SCOPES)))


def test_every_allowed_character_is_read() -> None:
    """All of %x21 / %x23-5B / %x5D-7E (RFC 6749, appendix A.4) may stand in a scope."""
    allowed = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"\\')
    assert parse_scopes(allowed) == (allowed,)


def test_join_reverses_parse() -> None:
    """The wire form is sorted and reads back the same."""
    assert join_scopes(["b", "a", "b"]) == "a b"
    assert parse_scopes(join_scopes({"b", "a"})) == ("a", "b")


def test_covering() -> None:
    """A ceiling covers its subsets, and nothing covers an empty request."""
    assert covers({"a", "b"}, ["a"])
    assert covers({"a"}, ["a"])
    assert not covers({"a"}, ["a", "b"])
    assert not covers({"a"}, [])
    assert not covers([], ["a"])
