"""Whatever a stranger sends as a token is refused, or read in the one way that it can be read."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from broker.core import base64url
from broker.core.dpop import normal_url
from broker.core.jwk import JWKError, parse_jwks
from broker.core.jwt import PLATFORM_TOKEN, InvalidToken, parse, verify
from broker.core.strict_json import JSONError, read_json
from tests.support.identity_provider import SigningKey, forge

NOW = 1_795_300_000.0
KEY = SigningKey(kid="k")
KEYS = parse_jwks({"keys": [KEY.published()]})
CLAIMS = {"iss": "https://i.example", "aud": "https://b.example", "sub": "s", "iat": int(NOW), "exp": int(NOW) + 60}
GOOD = KEY.sign(CLAIMS)

scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
objects = st.dictionaries(texts, values, max_size=6)


def _verify(token: str) -> dict[str, Any]:
    claims = verify(
        parse(token), PLATFORM_TOKEN, KEYS, issuer="https://i.example", audiences=["https://b.example"], now=NOW
    )
    return dict(claims)


@given(st.text() | st.from_regex(r"[A-Za-z0-9_.-]{0,200}", fullmatch=True))
@example("..")
@example("a.b.c")
def test_any_text_is_a_token_or_is_refused(text: str) -> None:
    """No other error comes out, whatever goes in."""
    try:
        parse(text)
    except InvalidToken as error:
        assert error.why == "malformed"  # noqa: PT017 - most texts are refused, some are not


@given(header=objects, payload=objects, signature=st.binary(min_size=1, max_size=80))
def test_parts_that_are_sound_are_read_as_they_are(
    header: dict[str, Any], payload: dict[str, Any], signature: bytes
) -> None:
    """Another JSON parser reads the same; and nothing that is not signed by the key passes."""
    token = forge(header, payload, signature)
    try:
        read = parse(token)
    except InvalidToken:
        assert {"crit", "b64", "zip"} & header.keys()
        return
    assert dict(read.header) == json.loads(json.dumps(header))
    assert dict(read.payload) == json.loads(json.dumps(payload))
    assert read.signature == signature
    try:
        _verify(token)
    except InvalidToken:
        return
    raise AssertionError("a forged token passed")


@given(st.integers(0, len(GOOD) - 1), st.sampled_from("ABCXYZabcxyz0189-_=.+/ \n\u00e9"))
def test_no_single_character_can_be_changed(place: int, character: str) -> None:
    """One changed character, anywhere, and the token is refused: each token has one spelling."""
    changed = GOOD[:place] + character + GOOD[place + 1 :]
    if changed == GOOD:
        assert _verify(changed) == CLAIMS
        return
    try:
        _verify(changed)
    except InvalidToken:
        return
    raise AssertionError(f"still good with {character!r} at {place}")


@given(st.text() | st.binary())
def test_strict_json_reads_less_than_the_standard_library_and_nothing_else(text: str | bytes) -> None:
    """What is read is what ``json`` reads, too."""
    try:
        value = read_json(text)
    except JSONError:
        return
    assert value == json.loads(text)


@given(values)
def test_strict_json_reads_all_ordinary_values(value: object) -> None:
    """Whatever JSON can carry without trickery comes through unchanged."""
    assert read_json(json.dumps(value)) == value
    assert read_json(json.dumps(value, ensure_ascii=False)) == value


@given(st.binary())
def test_base64url_has_one_spelling(data: bytes) -> None:
    """Decoding undoes encoding."""
    text = base64url.encode(data)
    assert base64url.decode(text) == data == base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@given(st.text(alphabet="ABab01-_", max_size=12))
def test_what_is_decoded_is_encoded_the_same_way(text: str) -> None:
    """No text that decodes has another spelling than what encodes."""
    try:
        data = base64url.decode(text)
    except ValueError:
        return
    assert base64url.encode(data) == text


@given(st.binary(max_size=300) | values.map(lambda value: json.dumps({"keys": [value]}).encode()))
def test_any_document_is_a_key_set_or_is_refused(document: bytes) -> None:
    """A key set that a stranger publishes causes one kind of error, or has no usable keys."""
    try:
        assert len(parse_jwks(document)) == 0
    except JWKError:
        return


@given(
    st.text(max_size=60)
    | st.from_regex(r"https://[a-zA-Z0-9.:\[\]%-]{1,20}(/[a-z.%0-9A-F-]{0,6}){0,6}", fullmatch=True)
)
def test_normal_urls_stay_as_they_are(url: str) -> None:
    """The normal form of a normal form is itself."""
    normal = normal_url(url)
    if normal is not None:
        assert normal_url(normal) == normal
