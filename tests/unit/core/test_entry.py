"""Ledger entries and their canonical bytes."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from broker.core.entry import MAX_BODY, MAX_DEPTH, VERSION, Columns, Kind, columns_of, decode, encode, entry
from broker.core.merkle import leaf_hash, root_of
from broker.core.personal import merged, read_personal

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "entries.json").read_text())


def nested(depth: int) -> Any:  # noqa: ANN401 - a JSON value
    """Return lists within lists, so many deep."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_the_vectors_are_of_this_format() -> None:
    """The checked-in bytes belong to the version that entries say they have."""
    assert VECTORS["format"] == VERSION
    assert len(VECTORS["entries"]) == VECTORS["size"] == 12


def whole(vector: dict[str, Any]) -> dict[str, Any]:
    """Return all members of a vector, as a ledger holds them."""
    members = {name: value for name, value in vector["members"].items() if value not in ([], {})}
    return {"v": 1, "kind": vector["kind"], "at": int(vector["at"] * 1000), **members}


@pytest.mark.parametrize("vector", VECTORS["entries"], ids=lambda vector: vector["name"])
def test_vectors(vector: dict[str, Any]) -> None:
    """Entries of ledgers that know of no personal members have the checked-in bytes and leaf hash: they verify."""
    body = encode(whole(vector))
    assert body.hex() == vector["body"]
    assert leaf_hash(body).hex() == vector["leaf"]


@pytest.mark.parametrize("vector", VECTORS["committed"], ids=lambda vector: vector["name"])
def test_vectors_with_a_commitment(vector: dict[str, Any]) -> None:
    """What is personal is stored beside the leaf, which holds the commitment to it; together they say all."""
    made = entry(Kind(vector["kind"]), vector["at"], **vector["members"])
    body, stored = made.committed(bytes.fromhex(vector["salt"]))
    assert stored is not None
    assert (body.hex(), leaf_hash(body).hex(), stored.hex()) == (vector["body"], vector["leaf"], vector["stored"])
    leaf = decode(body)
    assert merged(leaf, read_personal(stored, leaf["personal"]).members) == whole(vector)
    assert made.columns == columns_of(whole(vector))


@pytest.mark.parametrize("vector", VECTORS["entries"], ids=lambda vector: vector["name"])
def test_vectors_read_back(vector: dict[str, Any]) -> None:
    """The bytes say what went in, and give the same columns."""
    body = bytes.fromhex(vector["body"])
    data = decode(body)
    assert data == whole(vector)
    assert columns_of(data) == entry(Kind(vector["kind"]), vector["at"], **vector["members"]).columns


def test_the_vectors_have_their_root() -> None:
    """The tree over all of them is the checked-in one."""
    leaves = [leaf_hash(bytes.fromhex(vector["body"])) for vector in VECTORS["entries"]]
    assert root_of(leaves).hex() == VECTORS["root"]


def test_what_is_none_or_empty_is_left_out() -> None:
    """Law 9: an empty list or object says nothing; zero, false and the empty text do."""
    made = entry(Kind.TOKEN_ISSUED, 1.0, a=None, b=(), c=[], d={}, e=0, f=False, g="")
    assert decode(made.body) == {"v": 1, "kind": "token.issued", "at": 1000, "e": 0, "f": False, "g": ""}


def test_columns_are_members_of_the_body() -> None:
    """A list or a preview reads columns; what the Merkle tree covers is the body: they must say the same."""
    values = {name: name for name in (field.name for field in fields(Columns)) if name not in {"kind", "at"}}
    made = entry(Kind.TOKEN_ISSUED, 1.5, **(values | {"epoch": 3, "expires_at": 9}), other="x")
    assert made.columns == columns_of(decode(made.body))
    assert (made.columns.kind, made.columns.at, made.columns.epoch, made.columns.role) == (
        "token.issued",
        1500,
        3,
        "role",
    )


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        1.0,
        float("nan"),
        float("inf"),
        2**53,
        -(2**53),
        2**64,
        10**5000,
        b"bytes",
        object(),
        {1, 2},
        {"a": None},
        [None],
        [[1.5]],
        {"a": [2**53]},
        {1: "a"},
        {"a": {None: 1}},
        "\ud800",
        ["\udfff"],
        {"\ud800": 1},
        {"a": "\ud83d"},
        Kind.TOKEN_ISSUED,
        nested(MAX_DEPTH + 1),
        nested(100_000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_readers_disagree_about_is_refused(value: object) -> None:
    """Floats, nulls inside, numbers that some reader rounds, and text that is no Unicode never get into a ledger."""
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own text
        entry(Kind.TOKEN_ISSUED, 1.0, value=value)


@pytest.mark.parametrize("value", [2**53 - 1, -(2**53) + 1, True, False, nested(MAX_DEPTH), "\x00\x7f\u2028\U0010ffff"])
def test_the_edges_are_inside(value: object) -> None:
    """The largest numbers, the deepest lists and every Unicode character are kept exactly."""
    made = entry(Kind.TOKEN_ISSUED, 1.0, value=value)
    assert decode(made.body)["value"] == value
    assert json.loads(made.body)["value"] == value


def test_the_version_cannot_be_overridden() -> None:
    """A member from outside must not pass for the format."""
    with pytest.raises(ValueError, match="version"):
        entry(Kind.TOKEN_ISSUED, 1.0, v=2)


def test_an_entry_fits_a_tile() -> None:
    """The bound is on the encoding, in bytes, and exact."""
    base = len(entry(Kind.TOKEN_ISSUED, 1.0, x="").body)
    assert len(entry(Kind.TOKEN_ISSUED, 1.0, x="a" * (MAX_BODY - base)).body) == MAX_BODY
    with pytest.raises(ValueError, match="longer"):
        entry(Kind.TOKEN_ISSUED, 1.0, x="a" * (MAX_BODY - base + 1))
    with pytest.raises(ValueError, match="longer"):
        entry(Kind.TOKEN_ISSUED, 1.0, x="\x00" * (MAX_BODY // 6 + 1))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"at":1,"kind":"token.issued"}',
        b'{"at":1,"v":1}',
        b'{"kind":"token.issued","v":1}',
        b'{"at":1,"kind":"token.issued","v":2}',
        b'{"at":1,"kind":7,"v":1}',
        b'{"at":true,"kind":"token.issued","v":1}',
        b'{"at":"1","kind":"token.issued","v":1}',
        b'{"kind":"token.issued","at":1,"v":1}',
        b'{"at": 1,"kind":"token.issued","v":1}',
        b'{"at":1,"kind":"token.issued","v":1}\n',
        b'{"at":1,"at":1,"kind":"token.issued","v":1}',
        b'{"at":1.0,"kind":"token.issued","v":1}',
        b'{"at":1e3,"kind":"token.issued","v":1}',
        b'{"at":-0,"kind":"token.issued","v":1}',
        b'{"at":9007199254740992,"kind":"token.issued","v":1}',
        b'{"a":null,"at":1,"kind":"token.issued","v":1}',
        b'{"a":1.5,"at":1,"kind":"token.issued","v":1}',
        b'{"a":"\\u0041","at":1,"kind":"token.issued","v":1}',
        b'{"a":"\\/","at":1,"kind":"token.issued","v":1}',
        b'{"a":"\\u001F","at":1,"kind":"token.issued","v":1}',
        b'{"a":"\\ud800","at":1,"kind":"token.issued","v":1}',
        b'{"a":"\xed\xa0\x80","at":1,"kind":"token.issued","v":1}',
        b'{"a":"\xff","at":1,"kind":"token.issued","v":1}',
        b'\xef\xbb\xbf{"at":1,"kind":"token.issued","v":1}',
        b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b',"at":1,"kind":"token.issued","v":1}',
        b'{"a":"' + b"a" * 70_000 + b'","at":1,"kind":"token.issued","v":1}',
    ],
)
def test_bytes_that_are_not_canonical_are_no_entry(body: bytes) -> None:
    """A second encoding of the same thing, a duplicate name or another type would be a second truth: refused."""
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own text
        decode(body)


def test_encoding_does_not_depend_on_the_order_of_what_goes_in() -> None:
    """The same members give the same bytes, at every depth."""
    assert encode({"b": {"y": 1, "x": 2}, "a": 1}) == encode({"a": 1, "b": {"x": 2, "y": 1}})


def test_kinds_keep_their_text() -> None:
    """Ledgers that exist hold these texts; one that is renamed would orphan them."""
    assert {kind.value for kind in Kind} >= {
        "token.issued",
        "token.refused",
        "assertion.used",
        "strangers.refused",
        "rule.added",
        "block.lifted",
        "agent.registered",
        "agent.removed",
        "enrollment.created",
        "keys.rotated",
        "policy.loaded",
        "broker.started",
        "clock.stepped",
    }
