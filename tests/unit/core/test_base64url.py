"""Base64url has one spelling for each value."""

from __future__ import annotations

import base64

import pytest

from broker.core import base64url


@pytest.mark.parametrize("data", [b"", b"f", b"fo", b"foo", b"foob", bytes(range(256)), b"\xff\xfe\xfd"])
def test_what_is_encoded_is_decoded(data: bytes) -> None:
    """The alphabet is the URL-safe one, and there is no padding."""
    text = base64url.encode(data)
    assert text == base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    assert base64url.decode(text) == data


@pytest.mark.parametrize(
    "text", ["Zg==", "Zg=", "Zh", "Zm9", "A", "AAAAA", "+/", "Z g", "Zg\n", "\nZg", "Z\u00e9", "Zg.", "\uff21\uff21"]
)
def test_no_second_spelling_is_accepted(text: str) -> None:
    """Padding, other alphabets, white space, unused bits that are set, and impossible lengths are refused."""
    with pytest.raises(ValueError, match="base64url"):
        base64url.decode(text)
