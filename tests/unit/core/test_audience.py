"""Audiences have one form in which they are compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.audience import MAX_AUDIENCE, canonical_audience
from broker.core.errors import Malformed


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("https://a.example", "https://a.example"),
        ("https://a.example/", "https://a.example"),
        ("HTTPS://A.Example:443/", "https://a.example"),
        ("http://127.0.0.1:80/Api", "http://127.0.0.1/Api"),
        ("https://a.example:8443/x/", "https://a.example:8443/x/"),
        ("https://a.example/?x=1", "https://a.example/?x=1"),
        ("https://[2001:DB8::1]:443/x", "https://[2001:db8::1]/x"),
        ("urn:example:Tickets", "urn:example:Tickets"),
        ("spiffe://corp.example/Tickets", "spiffe://corp.example/Tickets"),
    ],
)
def test_canonical_form(text: str, canonical: str) -> None:
    """Scheme, host, default port and a bare slash do not tell resources apart; everything else does."""
    assert canonical_audience(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tickets",
        "//a.example",
        "/v1",
        "https:",
        "https://",
        "https:///x",
        "https:a.example",
        "https://user@a.example",
        "https://a.example#part",
        "https://a.example#",
        "https://a.example/ x",
        "https://a.example\r\nX: y",
        "https://ä.example",
        "https://a.example/\u202e",
        "https://a.example:99999",
        "https://a.example:x",
        "https://[::1",
        "https://a.example/" + "x" * MAX_AUDIENCE,
        "https://a.example\\@evil.example",
    ],
)
def test_what_is_no_audience(text: str) -> None:
    """Relative, fragmented, user-info carrying, non-ASCII and over-long ones are refused, by the name of the field."""
    with pytest.raises(Malformed) as caught:
        canonical_audience(text, "resource")
    assert caught.value.public.startswith("resource: ")


@given(st.text(max_size=40).map(lambda rest: f"https://{rest}"))
def test_the_canonical_form_is_final(text: str) -> None:
    """Bringing the canonical form into canonical form changes nothing."""
    try:
        canonical = canonical_audience(text)
    except Malformed:
        return
    assert canonical_audience(canonical) == canonical
