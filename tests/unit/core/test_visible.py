"""Text that people judge by: what is refused because they would not see it."""

from __future__ import annotations

import pytest

from broker.core.visible import is_visible


@pytest.mark.parametrize(
    "text", ["refund order 4711", "Grüße, 日本語, עברית", "e\u0301", "\u26a0\ufe0f careful", "<b>", ""]
)
def test_what_can_be_read_is_visible(text: str) -> None:
    """In any script, with accents, signs and markup."""
    assert is_visible(text)


@pytest.mark.parametrize(
    "text",
    [
        "a\nb",
        "a\x1b[31m",
        "a\u202eb",
        "a\u2066b",
        "a\u200bb",
        "a\u00adb",
        "a\ud800",
        "a\ue000",
        "a\U000e0041",
        "\u3164",
        "\u2800\u2800",
        "\u115f",
        "\uffa0",
        "a\u034fb",
        "a\u180e",
        "a\ufe00",
        "a\ufe0e\ufe0f\ufe0f\ufe0e",
        "ok" + "".join(chr(0xE0100 + byte) for byte in b"approve this"),
    ],
)
def test_what_cannot_be_seen_is_not(text: str) -> None:
    """Controls, direction, fillers that look like nothing, and whole texts hidden behind one letter."""
    assert not is_visible(text)
