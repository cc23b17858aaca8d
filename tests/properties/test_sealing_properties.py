"""Sealing, for any plaintext, context and damage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.secret import Secret
from broker.signing.sealing import Sealer, SealingError

SEALER = Sealer(Secret(bytes(range(32))))
contexts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(st.binary(max_size=500), contexts)
def test_sealed_values_open_to_what_they_were(plaintext: bytes, context: str) -> None:
    """Opening undoes sealing."""
    assert SEALER.open(SEALER.seal(plaintext, context), context) == plaintext


@given(st.binary(max_size=100), contexts, contexts, st.data())
def test_nothing_else_opens(plaintext: bytes, context: str, other: str, data: st.DataObject) -> None:
    """Any other context, and any other bytes in the same or another length, are refused."""
    sealed = SEALER.seal(plaintext, context)
    if other != context:
        with pytest.raises(SealingError):
            SEALER.open(sealed, other)
    place = data.draw(st.integers(0, len(sealed) - 1))
    piece = data.draw(st.binary(max_size=5).filter(lambda piece: piece != sealed[place : place + len(piece)]))
    with pytest.raises(SealingError):
        SEALER.open(sealed[:place] + piece + sealed[place + len(piece) :], context)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_open(sealed: bytes) -> None:
    """Whatever stands in the store, opening it ends in the one error."""
    with pytest.raises(SealingError):
        SEALER.open(sealed, "key")
