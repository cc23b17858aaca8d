"""Token Status Lists as the standard encodes them, and the places in them that ids are."""

from __future__ import annotations

import pytest

from broker.core.status_list import (
    ALL,
    NONE,
    SIZE,
    id_at,
    ids_in,
    index_of,
    joined,
    marked,
    packed,
    status_claim,
    status_list_payload,
    uri_of,
)

ISSUER = "https://broker.example"
LIST = "tok_01M8QXKBGK84V1T7AXNBXWJ8BD"


def test_bits_are_packed_as_the_standard_has_them() -> None:
    """Its examples (draft-ietf-oauth-status-list, 4.1 and 10): the lowest bit first, zlib, base64url."""
    assert marked([0, 3, 4, 5, 7, 8, 9, 13, 15], 16) == bytes.fromhex("b9a3")
    assert packed(bytes.fromhex("b9a3")) == "eNrbuRgAAhcBXQ"
    assert packed(bytes.fromhex("c944f9")) == "eNo76fITAAPfAgc"


def test_the_first_and_the_last_place() -> None:
    """Each has a bit of its own."""
    assert marked([0, SIZE - 1]) == b"\x01" + bytes(SIZE // 8 - 2) + b"\x80"
    assert marked(range(SIZE)) == ALL
    assert joined(marked([5]), marked([6])) == marked([5, 6])
    assert joined(ALL, NONE) == ALL


@pytest.mark.parametrize("index", [0, 1, 4711, SIZE - 1])
def test_an_id_says_its_place(index: int) -> None:
    """And is found among those of its list."""
    token_id = id_at(LIST, index)
    assert status_claim(ISSUER, token_id) == {"status_list": {"idx": index, "uri": f"{ISSUER}/status/lists/{LIST}"}}
    first, end = ids_in(LIST)
    assert first < token_id < end
    assert index_of(token_id) == index


@pytest.mark.parametrize(
    "token_id",
    [
        LIST,
        f"{LIST}.",
        f"{LIST}.-1",
        f"{LIST}.01",
        f"{LIST}.{SIZE}",
        f"{LIST}.1.2",
        f"x{LIST}.1",
        f"{LIST}.1\n",
        "tok_1.5",
        "tok",
    ],
)
def test_other_ids_say_none(token_id: str) -> None:
    """Only what is exactly a place is one."""
    assert status_claim(ISSUER, token_id) is None


def test_no_list_has_the_ids_of_another() -> None:
    """One whose name goes on is another one."""
    first, end = ids_in(LIST)
    assert not first < id_at(LIST + "0", 1) < end
    assert not first < id_at(LIST[:-1] + "C", 1) < end
    assert not first < LIST < end


def test_a_list_says_when_it_is_too_old() -> None:
    """Times in whole seconds; it is about the URI that tokens name."""
    payload = status_list_payload(uri_of(ISSUER, LIST), NONE, 1_795_300_000.9)
    assert (payload["sub"], payload["iat"], payload["exp"], payload["ttl"]) == (
        f"{ISSUER}/status/lists/{LIST}",
        1_795_300_000,
        1_795_300_300,
        30,
    )
