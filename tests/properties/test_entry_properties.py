"""Entry encoding against RFC 8785 as another implementation understands it."""

from __future__ import annotations

import json
from typing import Any

import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from broker.core.entry import MAX_INT, Kind, columns_of, decode, encode, entry
from broker.core.personal import SALT_SIZE, merged, read_personal

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text(
    st.sampled_from('\x00\x08\t\n\x0b\x0c\r\x1f "/\\\x7f\x80\u2028\u2029\ud7ff\ue000\uffff\U00010000\U0010ffff'),
    max_size=20,
)
ASCII_NAMES = st.text(st.characters(max_codepoint=127), max_size=12)
NAMES = ASCII_NAMES | TEXTS
SCALARS = TEXTS | st.integers(-MAX_INT, MAX_INT) | st.booleans()


def values(names: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Return JSON values without floats and nulls, whose objects have such names."""
    return st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
    )


def objects(names: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Return JSON objects of such values."""
    return st.dictionaries(names, values(names), max_size=6)


@given(objects(ASCII_NAMES))
def test_encoding_is_rfc_8785(data: dict[str, Any]) -> None:
    """For everything an entry can hold, the bytes are those of an independent encoder."""
    assert encode(data) == rfc8785.dumps(data)


@given(objects(NAMES))
def test_encoding_is_rfc_8785_for_any_names(data: dict[str, Any]) -> None:
    """Names that come from a platform's claims are ordered by UTF-16 code units, as the standard says."""
    assert encode(data) == rfc8785.dumps(data)


@given(st.sampled_from(Kind), st.integers(0, 10**12), objects(NAMES))
def test_an_entry_reads_back_as_it_was(kind: Kind, milliseconds: int, attributes: dict[str, Any]) -> None:
    """Reading returns what was written, any JSON reader agrees, and the columns are those of the entry."""
    made = entry(kind, milliseconds / 1000, attributes=attributes, agent="a")
    body, stored = made.committed(bytes(SALT_SIZE))
    leaf = decode(body)
    data = leaf if stored is None else merged(leaf, read_personal(stored, leaf["personal"]).members)
    assert data.get("attributes", {}) == attributes
    assert json.loads(body) == leaf
    assert columns_of(data) == made.columns
    assert encode(leaf) == body


@given(objects(NAMES), st.data())
def test_one_changed_byte_is_noticed(attributes: dict[str, Any], data: st.DataObject) -> None:
    """A body with one byte changed is either no entry at all, or another one: never the same members again."""
    body = entry(Kind.TOKEN_REFUSED, 1.0, attributes=attributes).body
    position = data.draw(st.integers(0, len(body) - 1))
    changed = bytearray(body)
    changed[position] ^= data.draw(st.integers(1, 255))
    try:
        members = decode(bytes(changed))
    except ValueError:
        return
    assert members != decode(body)
