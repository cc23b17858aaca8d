from __future__ import annotations

import contextlib
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import Code, Malformed
from broker.http.forms import MAX_PARAMETERS, parse_form

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs", "Cn", "Co", "Cf"]), min_size=1)


@given(st.dictionaries(TEXT, TEXT, max_size=20))
def test_what_a_client_encodes_is_what_we_read(values: dict[str, str]) -> None:
    """Every parameter that a standard encoder writes is read back as it was, whatever characters it has."""
    form = parse_form(urlencode(values).encode())
    assert {name: form.get(name) for name in values} == values


@given(st.binary(max_size=300))
def test_no_bytes_do_harm(body: bytes) -> None:
    """Any bytes are a form, or are refused as malformed; nothing else ever happens."""
    with contextlib.suppress(Malformed):
        parse_form(body)


def test_an_empty_value_is_as_good_as_absent() -> None:
    """A parameter without a value is not there (RFC 6749, 3.1), with or without its equals sign."""
    form = parse_form(b"scope=&task&grant_type=x&&")
    assert "scope" not in form
    assert "task" not in form
    assert form.get("scope") is None
    assert form.get("grant_type") == "x"


@pytest.mark.parametrize("name", ["scope", "client_assertion", "grant_type", "something_unknown"])
def test_a_parameter_given_twice_is_refused(name: str) -> None:
    """No parameter may be given twice, equal or not, known or not (RFC 6749, 3.1)."""
    with pytest.raises(Malformed) as refused:
        parse_form(f"{name}=a&{name}=a".encode())
    assert refused.value.code is Code.DUPLICATE_PARAMETER


def test_a_parameter_cannot_be_doubled_by_spelling_it_differently() -> None:
    """Escapes in a name do not make it another name."""
    with pytest.raises(Malformed) as refused:
        parse_form(b"scope=a&%73cope=b")
    assert refused.value.code is Code.DUPLICATE_PARAMETER


def test_targets_may_be_repeated() -> None:
    """``resource`` and ``audience`` may be given several times; all of them are seen."""
    form = parse_form(b"resource=a&resource=b&audience=c")
    assert form.all("resource") == ("a", "b")
    assert form.all("audience") == ("c",)
    assert form.all("scope") == ()


@pytest.mark.parametrize(
    "body",
    [
        b"scope=%",
        b"scope=%4",
        b"scope=%zz",
        b"scope=%+1",
        b"scope=%ff",
        b"scope=%ed%a0%80",
        b"scope=%c0%af",
        "scope=ö".encode(),
        b"scope=\xff",
    ],
)
def test_broken_escapes_are_refused(body: bytes) -> None:
    """A percent sign without two hex digits, escapes that are not UTF-8, and bytes beyond ASCII are refused."""
    with pytest.raises(Malformed):
        parse_form(body)


@pytest.mark.parametrize("value", ["a%0ab", "a%0d%0ab", "a%00b", "a%1bb", "a\nb", "a%7fb", "a%e2%80%a8b"])
def test_control_characters_are_refused_where_they_are_read(value: str) -> None:
    """No value with a control character or a line separator gets any further."""
    form = parse_form(f"task={value}".encode())
    with pytest.raises(Malformed, match="malformed_request"):
        form.get("task")


def test_ten_thousand_parameters_are_refused_at_once() -> None:
    """More parameters than any request has are refused before they are read."""
    with pytest.raises(Malformed, match="malformed_request"):
        parse_form(b"&".join(b"a%d=1" % number for number in range(10_000)))
    assert MAX_PARAMETERS < 10_000


def test_a_missing_parameter_is_named() -> None:
    """The refusal says which parameter is missing."""
    with pytest.raises(Malformed) as refused:
        parse_form(b"a=b").require("token")
    assert refused.value.public == "token: missing"
