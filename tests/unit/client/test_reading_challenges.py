"""``WWW-Authenticate`` is read as RFC 9110 writes it, and as nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.client.challenge import challenges, demanded_scopes, demands_nonce
from broker.core.errors import BrokerError, Code
from broker.verifier import answer

TOKENS = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=8)
NAMES = TOKENS.map(str.lower)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


def written(scheme: str, parameters: dict[str, str]) -> str:
    """Return a challenge with every value quoted."""
    escaped = {name: value.replace("\\", "\\\\").replace('"', '\\"') for name, value in parameters.items()}
    return f"{scheme} " + ", ".join(f'{name}="{value}"' for name, value in escaped.items())


@given(st.lists(st.tuples(TOKENS, st.dictionaries(NAMES, VALUES, min_size=1, max_size=4)), min_size=1, max_size=4))
def test_what_is_written_is_read(wanted: list[tuple[str, dict[str, str]]]) -> None:
    """Several challenges in one header or in many, whatever the quoted values hold."""
    expected = [(scheme.lower(), parameters) for scheme, parameters in wanted]
    texts = [written(scheme, parameters) for scheme, parameters in wanted]
    for values in (texts, [", ".join(texts)], [" ,, ".join(texts) + ","]):
        assert [(one.scheme, dict(one.parameters)) for one in challenges(values)] == expected


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    """A header comes from outside."""
    demanded_scopes([text])
    demanded_scopes([f'Bearer error="insufficient_scope", scope="a", {text}'])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer error="insufficient_scope", scope="a b"', {"a", "b"}),
        ("bearer ERROR=insufficient_scope , Scope = a", {"a"}),
        ('Basic realm="x", Bearer error="insufficient_scope", scope="a"', {"a"}),
        ('Negotiate YWJj==, Bearer error="insufficient_scope", scope="a"', {"a"}),
        ('DPoP algs="ES256", error="insufficient_scope", scope="a", Bearer realm="r"', {"a"}),
        ('Bearer error="insufficient_scope", scope="a", Broken "', {"a"}),
        ('Bearer error="insufficient_scope", scope="a\\"b"', {'a"b'}),
        ('Digest error="insufficient_scope", scope="a"', set()),
        ('Bearer error="insufficient_scope", scope="a', set()),
        ('Bearer error="insufficient_scope" scope="a"', set()),
        ('Bearer error="invalid_token", error="insufficient_scope", scope="a"', set()),
        ('Bearer realm="error=insufficient_scope, scope=a"', set()),
        ("", set()),
    ],
)
def test_only_what_is_said_is_demanded(header: str, expected: set[str]) -> None:
    """Never what merely looks like it, in another scheme, another parameter or another's text."""
    assert demanded_scopes([header]) == expected


def test_a_long_header_takes_no_long_time() -> None:
    """Reading takes time in proportion to the header: anything steeper would run into the time-out of this test."""
    for text in ("a=" * 50_000, 'a="\\' * 50_000, "a " * 50_000, "a,=" * 50_000, 'Bearer a="' + "\\a" * 50_000):
        assert demanded_scopes([text]) == set()


def test_the_brokers_own_verifier_is_understood() -> None:
    """What the one side of this package says, the other follows."""
    told = answer(BrokerError(Code.INSUFFICIENT_SCOPE, 'this needs "refund"'), ("read", "refund"))
    headers = [value for name, value in told.headers if name == "WWW-Authenticate"]
    assert demanded_scopes(headers) == {"read", "refund"}
    assert not demands_nonce(headers)
    assert demands_nonce(['Bearer realm="x"', 'DPoP error="use_dpop_nonce"'])
    assert not demands_nonce(['Bearer error="use_dpop_nonce"'])
