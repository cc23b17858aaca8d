"""JSON from strangers has one reading, or is refused."""

from __future__ import annotations

import json

import pytest

from broker.core.strict_json import MAX_DEPTH, JSONError, read_json, read_json_object


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, -2.5, true, null, "x"]}', {"a": [1, -2.5, True, None, "x"]}),
        ('{"a": {"b": {"c": {}}}, "b": {"a": 1}}', {"a": {"b": {"c": {}}}, "b": {"a": 1}}),
        ('"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
        (str(2**63 - 1), 2**63 - 1),
        (str(-(2**63)), -(2**63)),
        (b' {"\xc3\xa9": 1} ', {"\u00e9": 1}),
    ],
)
def test_ordinary_json_is_read(text: str | bytes, value: object) -> None:
    """What has one reading is read as every parser reads it."""
    assert read_json(text) == value


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        '{"a": 1, "\\u0061": 2}',
        '{"a": {"b": [{"c": 1, "c": 2}]}}',
        '{"exp": NaN}',
        '{"exp": Infinity}',
        '{"exp": -Infinity}',
        '{"exp": 1e999}',
        '{"exp": -1e999}',
        '{"exp": 9223372036854775808}',
        '{"exp": ' + "9" * 5000 + "}",
        '{"sub": "\\ud800"}',
        '{"sub": "\\udfff\\ud800"}',
        '{"\\udc00": 1}',
        "",
        "{",
        '{"a": 1} {"b": 2}',
        "{'a': 1}",
        '{"a": 01}',
        '{"a": "\x00"}',
        b'{"a": "\xff"}',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
    ],
)
def test_json_that_can_be_read_in_two_ways_is_refused(text: str | bytes) -> None:
    """Duplicates at any depth, values outside of JSON or of 64 bits, lone surrogates, and what is not JSON at all."""
    with pytest.raises(JSONError) as refused:
        read_json(text)
    assert "9999" not in str(refused.value)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_bounded(opening: str, closing: str) -> None:
    """The bound is exact, and far beyond it nothing but the same error happens."""

    def nested(depth: int) -> str:
        return opening * depth + "1" + closing * depth

    assert read_json(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 900, 8_000, 1_000_000):
        with pytest.raises(JSONError):
            read_json(nested(depth))


def test_a_wide_value_is_no_deep_one() -> None:
    """Many small members side by side are fine."""
    assert len(read_json(json.dumps([{"n": [n]} for n in range(1000)]))) == 1000


@pytest.mark.parametrize("text", ["[]", "1", '"x"', "null", "true"])
def test_an_object_is_asked_for(text: str) -> None:
    """Where an object must stand, nothing else passes."""
    with pytest.raises(JSONError, match="object"):
        read_json_object(text)
