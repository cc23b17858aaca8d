"""Task ids."""

from __future__ import annotations

import pytest

from broker.core.errors import Code, Malformed
from broker.core.task import parse_task_id


@pytest.mark.parametrize("text", ["t", "T-8812", "task_01K9", "urn:x:1", "a.b~c", "x" * 128])
def test_good_ids_pass_unchanged(text: str) -> None:
    """An id means what the caller wrote."""
    assert parse_task_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        "a/b",
        "a\n",
        "\na",
        "a\x00",
        "-a",
        "a-",
        "é",
        "\u202ea",
        "x" * 129,
        "a" * 10_000,
        "\ud800",
        "a\u0301",
    ],
)
def test_bad_ids_are_refused(text: str) -> None:
    """Controls, spaces, Unicode tricks and great length are refused without being repeated."""
    with pytest.raises(Malformed) as refused:
        parse_task_id(text)
    assert refused.value.code is Code.TASK_MALFORMED
    assert refused.value.public.isascii()
    assert len(refused.value.public) < 200
