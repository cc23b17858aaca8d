"""Reading checkpoints back from where people and anchors keep them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.signing.checkpoint import Checkpoint, NoteError, claimed, sign_checkpoint
from broker.signing.kept_notes import kept_notes

KEY = Ed25519PrivateKey.generate()
NOTES = [sign_checkpoint(Checkpoint("log", size, bytes(32)), "log", KEY) for size in (1, 2, 3)]


def read(tmp_path: Path, text: str) -> list[str]:
    """Return the notes in a file with this text."""
    file = tmp_path / "kept"
    file.write_text(text, encoding="utf-8")
    return list(kept_notes(file))


def test_one_note_or_several(tmp_path: Path) -> None:
    """One after the other, with or without empty lines between them, with several signatures each."""
    assert read(tmp_path, NOTES[0]) == NOTES[:1]
    assert read(tmp_path, "".join(NOTES)) == NOTES
    assert read(tmp_path, "\n\n".join(NOTES)) == NOTES
    cosigned = NOTES[0] + "\N{EM DASH} witness AAAAAAAA\n"
    assert read(tmp_path, cosigned + NOTES[1]) == [cosigned, NOTES[1]]
    assert [claimed(note).size for note in NOTES] == [1, 2, 3]


def test_the_file_of_an_anchor(tmp_path: Path) -> None:
    """A JSON object on each line; a torn one is passed over."""
    lines = [json.dumps({"note": note, "placed_at": 1.5}) for note in NOTES]
    assert read(tmp_path, "\n".join([lines[0], lines[1][:40], lines[2]]) + "\n") == [NOTES[0], NOTES[2]]


@pytest.mark.parametrize("text", ["hello\n", NOTES[0].partition("\n\n")[0], f"{NOTES[0]}rubbish\n", "x" * 100_000])
def test_what_holds_no_checkpoints(tmp_path: Path, text: str) -> None:
    """Anything else is an error, and is not read into memory as a whole."""
    with pytest.raises(NoteError):
        read(tmp_path, text)
    assert read(tmp_path, "") == []


def test_an_unsigned_body_is_no_note() -> None:
    """Nor is a note that is no checkpoint."""
    for text in ("log\n1\nAAAA\n", "log\n01\nAAAA\n\n\N{EM DASH} log AAAAAAAA\n"):
        with pytest.raises(NoteError):
            claimed(text)
