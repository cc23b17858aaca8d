from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.signing.checkpoint import NoteError, VerifierKeyError, verifier_key
from broker.signing.cosignature import COSIGNATURE_V1, parse_witness_key, verified_cosignatures
from tests.support.anchors import GrowingLog
from tests.support.witness import NAME, Witness

AT = 1_795_300_000


@pytest.fixture
def note() -> str:
    """A checkpoint that a log has signed."""
    return GrowingLog().grow(7).note


def text_of(note: str) -> str:
    """Return what of a note is signed."""
    return note.rpartition("\n\n")[0] + "\n"


def test_a_cosignature_is_verified_with_its_time(note: str) -> None:
    """Those of other witnesses stay out of it; of several by the same key the youngest time counts."""
    witness, other = Witness(""), Witness("")
    ours = witness.line(text_of(note), at=AT) + witness.line(text_of(note), at=AT + 5)
    foreign = other.line(text_of(note), at=AT + 99, name="witness.example/w2")
    cosigned = verified_cosignatures(note, foreign + ours, parse_witness_key(witness.vkey))
    assert (cosigned.lines, cosigned.at) == (ours, AT + 5)


def test_a_cosigned_note_is_still_a_note_of_the_log(note: str) -> None:
    """The lines can be added to the note, whose own signature holds as before."""
    log = GrowingLog()
    note = log.grow(3).note
    assert log.opened(note + Witness("").line(text_of(note)))[0] == 3


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "\n",
        "— witness.example/w1\n",
        "not a line\n",
        "— witness.example/w1 AAAA\n",
        "— witness.example/w1 !!!!\n",
        "\x00\n",
        "— witness.example/w1 " + "A" * 20_000 + "\n",
    ],
)
def test_what_is_no_cosignature(note: str, lines: str) -> None:
    """Whatever a witness may answer."""
    with pytest.raises(NoteError):
        verified_cosignatures(note, lines, parse_witness_key(Witness("").vkey))


def test_lies(note: str) -> None:
    """Another text, another key under the same name, a missing end of line, a signature cut short."""
    witness, imposter = Witness(""), Witness("")
    key = parse_witness_key(witness.vkey)
    good = witness.line(text_of(note))
    for lines in (
        witness.line("broker.example/audit\n8\nAAAA\n"),
        imposter.line(text_of(note)),
        good.rstrip("\n"),
        good + witness.line("another text\n"),
        good.replace("\n", "A\n"),
    ):
        with pytest.raises(NoteError):
            verified_cosignatures(note, lines, key)


def test_the_kind_of_a_key_is_a_part_of_it() -> None:
    """A key that signs logs is no key that cosigns, though both are Ed25519, nor the other way round."""
    public = Ed25519PrivateKey.generate().public_key()
    log_key = verifier_key(NAME, public)
    assert verifier_key(NAME, public, COSIGNATURE_V1) != log_key
    with pytest.raises(VerifierKeyError):
        parse_witness_key(log_key)
    for broken in ("", "a+b+c", f"{NAME}+00000000+" + log_key.rpartition("+")[2]):
        with pytest.raises(VerifierKeyError):
            parse_witness_key(broken)


def test_the_key_agrees_with_that_of_the_witness() -> None:
    """Two implementations of the verifier key come to the same text."""
    witness = Witness("")
    assert verifier_key(NAME, witness.key.public_key(), COSIGNATURE_V1) == witness.vkey


def test_a_time_that_no_clock_has(note: str) -> None:
    """The 64th bit is not a time."""
    witness = Witness("")
    with pytest.raises(NoteError, match="below"):
        verified_cosignatures(note, witness.line(text_of(note), at=2**63), parse_witness_key(witness.vkey))
