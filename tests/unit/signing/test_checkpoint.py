"""What signed checkpoints must say, and what must be refused before anything in them is believed."""

import base64
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.core.merkle import EMPTY_ROOT
from broker.signing.checkpoint import (
    MAX_NOTE_SIZE,
    MAX_TREE_SIZE,
    Checkpoint,
    NoteError,
    VerifierKeyError,
    open_note,
    parse_verifier_key,
    sign_checkpoint,
    sign_note,
    verified_text,
    verifier_key,
)

# The example in the documentation of golang.org/x/mod/sumdb/note: a published key pair, text and signature.
GO_NAME = "PeterNeumann"
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
GO_NOTE = f"{GO_TEXT}\n— {GO_NAME} {GO_SIGNATURE}\n"

NAME = "broker.example/audit"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEY = verifier_key(NAME, KEY.public_key())
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
ROOT = bytes(range(100, 132))
ROOT_TEXT = base64.b64encode(ROOT).decode()
CHECKPOINT = Checkpoint(NAME, 991, ROOT)
NOTE = sign_checkpoint(CHECKPOINT, NAME, KEY)


def signature_lines(note: str) -> str:
    """Return the part of a note behind its text."""
    return note.rpartition("\n\n")[2]


def test_published_note_verifies() -> None:
    """A note made by the reference implementation is accepted."""
    assert verified_text(GO_NOTE, parse_verifier_key(GO_VKEY)) == GO_TEXT


def test_published_note_is_made_again() -> None:
    """The same key and text give the reference implementation's very bytes."""
    key = Ed25519PrivateKey.from_private_bytes(GO_SEED)
    assert verifier_key(GO_NAME, key.public_key()) == GO_VKEY
    assert sign_note(GO_TEXT, GO_NAME, key) == GO_NOTE


def test_checkpoint_is_three_lines_an_empty_line_and_a_signature() -> None:
    """The form that transparency-log tools read."""
    origin, size, root, empty, signature, end = NOTE.split("\n")
    assert (origin, size, root, empty, end) == (NAME, "991", ROOT_TEXT, "", "")
    assert signature.startswith(f"\N{EM DASH} {NAME} ")
    assert CHECKPOINT.body() == f"{NAME}\n991\n{ROOT_TEXT}\n"


@pytest.mark.parametrize("size", [1, 10, MAX_TREE_SIZE])
def test_signed_checkpoint_opens(size: int) -> None:
    """What was signed is what is read."""
    checkpoint = Checkpoint(NAME, size, ROOT)
    assert open_note(sign_checkpoint(checkpoint, NAME, KEY), VKEY) == checkpoint


def test_empty_tree_has_a_checkpoint() -> None:
    """Size 0 is written as one digit, and has one root only."""
    checkpoint = Checkpoint(NAME, 0, EMPTY_ROOT)
    assert open_note(sign_checkpoint(checkpoint, NAME, KEY), VKEY) == checkpoint
    with pytest.raises(NoteError, match="size 0"):
        Checkpoint(NAME, 0, ROOT)


def test_key_name_may_differ_from_the_origin() -> None:
    """The origin is what the checkpoint says, not who signed it."""
    note = sign_checkpoint(CHECKPOINT, "other.example", KEY)
    assert open_note(note, verifier_key("other.example", KEY.public_key())) == CHECKPOINT


@pytest.mark.parametrize(
    ("origin", "size", "root"),
    [
        ("", 1, ROOT),
        ("two\nlines", 1, ROOT),
        ("tab\t", 1, ROOT),
        ("\ud800", 1, ROOT),
        (NAME, -1, ROOT),
        (NAME, MAX_TREE_SIZE + 1, ROOT),
        (NAME, 1, b""),
        (NAME, 1, ROOT + b"\0"),
    ],
)
def test_impossible_checkpoints_cannot_be_built(origin: str, size: int, root: bytes) -> None:
    """Nothing ambiguous is ever there to be signed."""
    with pytest.raises(NoteError):
        Checkpoint(origin, size, root)


@pytest.mark.parametrize("place", range(0, len(NOTE), 7))
def test_no_character_can_be_changed(place: int) -> None:
    """Every character of a note counts."""
    changed = NOTE[:place] + ("A" if NOTE[place] != "A" else "B") + NOTE[place + 1 :]
    with pytest.raises(NoteError):
        open_note(changed, VKEY)


@pytest.mark.parametrize("vkey", [verifier_key(NAME, OTHER_KEY.public_key()), verifier_key("x", KEY.public_key())])
def test_note_by_another_key_is_refused(vkey: str) -> None:
    """Another key under this name, and this key under another name, are both strangers."""
    with pytest.raises(NoteError, match="no signature by"):
        open_note(NOTE, vkey)


def test_signatures_of_strangers_are_skipped() -> None:
    """Witnesses may add their lines on either side; ours decides."""
    body = CHECKPOINT.body()
    strangers = signature_lines(sign_note(body, NAME, OTHER_KEY)) + signature_lines(sign_note(body, "witness", KEY))
    witness = base64.b64encode(b"\0\0\0\1" + bytes(2420)).decode()
    note = f"{body}\n{strangers}{signature_lines(NOTE)}\N{EM DASH} witness.example {witness}\n"
    assert open_note(note, VKEY) == CHECKPOINT


def test_sixteen_signatures_are_accepted() -> None:
    """The specification wants at least so many to be read."""
    others = "".join(signature_lines(sign_note(CHECKPOINT.body(), f"witness{n}", KEY)) for n in range(15))
    assert open_note(f"{CHECKPOINT.body()}\n{others}{signature_lines(NOTE)}", VKEY) == CHECKPOINT


def test_signature_over_another_text_is_refused() -> None:
    """A signature cannot be moved to another checkpoint."""
    with pytest.raises(NoteError, match="is wrong"):
        open_note(f"{Checkpoint(NAME, 992, ROOT).body()}\n{signature_lines(NOTE)}", VKEY)


def test_wrong_signature_beside_a_good_one_is_refused() -> None:
    """A known key that contradicts itself is not believed."""
    moved = signature_lines(sign_checkpoint(Checkpoint(NAME, 992, ROOT), NAME, KEY))
    for lines in (signature_lines(NOTE) + moved, moved + signature_lines(NOTE)):
        with pytest.raises(NoteError, match="is wrong"):
            open_note(f"{CHECKPOINT.body()}\n{lines}", VKEY)


@pytest.mark.parametrize("length", [0, 1, 63, 65])
def test_signature_of_wrong_length_is_refused(length: int) -> None:
    """Ed25519 signatures have 64 bytes."""
    value = base64.b64encode(parse_verifier_key(VKEY).key_id + bytes(length)).decode()
    with pytest.raises(NoteError, match=r"is wrong|a signature line"):
        open_note(f"{CHECKPOINT.body()}\n\N{EM DASH} {NAME} {value}\n", VKEY)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "- broker.example AAAAAAAA",
        "\N{EM DASH}broker.example AAAAAAAA",
        "\N{EM DASH} broker.example",
        "\N{EM DASH} broker.example ",
        "\N{EM DASH}  AAAAAAAA",
        "\N{EM DASH} broker.example AAAAAAAA ",
        "\N{EM DASH} broker.example  AAAAAAAA",
        "\N{EM DASH} broker+example AAAAAAAA",
        "\N{EM DASH} broker\N{NO-BREAK SPACE}example AAAAAAAA",
        "\N{EM DASH} broker\N{LINE SEPARATOR}example AAAAAAAA",
        "\N{EM DASH} broker.example AAAA",
        "\N{EM DASH} broker.example AAAAAAAA!",
        "\N{EM DASH} broker.example AAAAAAA",
        "\N{EM DASH} broker.example AAAAAAB=",
        "\N{EM DASH} broker.example AAAAAA-_",
        "\N{EM DASH} broker.example ÄÄÄÄÄÄÄÄ",
    ],
)
def test_malformed_signature_lines_are_refused(line: str) -> None:
    """A line that is not a signature spoils the note, even beside a good one."""
    with pytest.raises(NoteError):
        open_note(f"{NOTE}{line}\n", VKEY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda note: "", "a note is a text"),
        (lambda note: "\n\n", "a note is a text"),
        (lambda note: note.removesuffix("\n"), "a note is a text"),
        (lambda note: note + "\n", "a note is a text"),
        (lambda note: note.replace("\n\n", "\n"), "a note is a text"),
        (lambda note: note.rpartition("\n\n")[0] + "\n\n", "a note is a text"),
        (lambda note: note.replace("\n", "\r\n"), "control characters"),
        (lambda note: note.replace("991", "991\0"), "control characters"),
        (lambda note: note.replace("991", "991\x1f"), "control characters"),
        (lambda note: note.replace("991", "991\ud800"), "valid Unicode"),
        (lambda note: "\ufeff" + note, "is wrong"),
        (lambda note: note.replace("\n\n", "\n\n\n"), "is wrong"),
        (lambda note: "x" * MAX_NOTE_SIZE + note, "longer than"),
        (lambda note: "ä" * (MAX_NOTE_SIZE // 2) + note, "longer than"),
    ],
)
def test_malformed_notes_are_refused(change: Callable[[str], str], message: str) -> None:
    """The form is checked before the signature, and the message says what is wrong."""
    with pytest.raises(NoteError, match=message):
        open_note(change(NOTE), VKEY)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f"{NAME}\n991\n", "at least three lines"),
        (f"\n991\n{ROOT_TEXT}\n", "at least three lines"),
        (f"{NAME}\n\n{ROOT_TEXT}\n", "at least three lines"),
        (f"{NAME}\n991\n{ROOT_TEXT}\n\nextension\n", "at least three lines"),
        (f"{NAME}\n0991\n{ROOT_TEXT}\n", "tree size"),
        (f"{NAME}\n00\n{ROOT_TEXT}\n", "tree size"),
        (f"{NAME}\n+991\n{ROOT_TEXT}\n", "tree size"),
        (f"{NAME}\n-991\n{ROOT_TEXT}\n", "tree size"),
        (f"{NAME}\n 991\n{ROOT_TEXT}\n", "tree size"),
        (f"{NAME}\n9_91\n{ROOT_TEXT}\n", "tree size"),
        (f"{NAME}\n0x1f\n{ROOT_TEXT}\n", "tree size"),
        (f"{NAME}\n\N{ARABIC-INDIC DIGIT NINE}91\n{ROOT_TEXT}\n", "tree size"),
        (f"{NAME}\n{MAX_TREE_SIZE + 1}\n{ROOT_TEXT}\n", "tree size"),
        (f"{NAME}\n{'9' * 5000}\n{ROOT_TEXT}\n", "tree size"),
        (f"{NAME}\n991\n{ROOT_TEXT.rstrip('=')}\n", "base64"),
        (f"{NAME}\n991\n{ROOT_TEXT} \n", "base64"),
        (f"{NAME}\n991\n!{ROOT_TEXT[1:]}\n", "base64"),
        (f"{NAME}\n991\n{ROOT_TEXT[:-2]}N=\n", "base64"),
        (f"{NAME}\n991\n{base64.b64encode(ROOT[:31]).decode()}\n", "32 bytes"),
        (f"{NAME}\n991\n{base64.b64encode(ROOT + ROOT).decode()}\n", "32 bytes"),
        (f"{NAME}\n0\n{ROOT_TEXT}\n", "size 0"),
        ("any text\n", "at least three lines"),
    ],
)
def test_signed_texts_that_are_no_checkpoints_are_refused(body: str, message: str) -> None:
    """A good signature does not excuse a bad checkpoint."""
    with pytest.raises(NoteError, match=message):
        open_note(sign_note(body, NAME, KEY), VKEY)


def test_extension_lines_are_allowed_and_dropped() -> None:
    """They are opaque, and the specification permits them."""
    assert open_note(sign_note(f"{CHECKPOINT.body()}extension\n", NAME, KEY), VKEY) == CHECKPOINT


def test_origin_with_other_line_breaks_is_one_line() -> None:
    """Only U+000A ends a line: nothing can be hidden in the origin."""
    checkpoint = Checkpoint("a\N{LINE SEPARATOR}b\x85c", 991, ROOT)
    assert open_note(sign_checkpoint(checkpoint, NAME, KEY), VKEY) == checkpoint


def test_text_may_contain_empty_lines() -> None:
    """The last empty line separates the signatures."""
    text = f"first\n\n{signature_lines(NOTE)}\n\nlast\n"
    assert verified_text(sign_note(text, NAME, KEY), parse_verifier_key(VKEY)) == text


@pytest.mark.parametrize("text", ["", "no newline", "tab\t\n", "\ud800\n", "x" * MAX_NOTE_SIZE + "\n"])
def test_texts_that_no_note_can_hold_are_not_signed(text: str) -> None:
    """What nobody could open is refused where it is made."""
    with pytest.raises(NoteError):
        sign_note(text, NAME, KEY)


def test_note_that_outgrows_the_limit_with_its_signature_is_not_signed() -> None:
    """The limit holds for the whole note."""
    with pytest.raises(NoteError, match="longer than"):
        sign_note("x" * (MAX_NOTE_SIZE - 1) + "\n", NAME, KEY)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "a\tb", "a\nb", "a\x01b", "a\N{EM SPACE}b", "\ud800"])
def test_names_that_no_key_can_have_are_refused(name: str) -> None:
    """A name must survive the signature line and the verifier key."""
    with pytest.raises(VerifierKeyError, match="name of a key"):
        verifier_key(name, KEY.public_key())
    with pytest.raises(VerifierKeyError, match="name of a key"):
        sign_checkpoint(CHECKPOINT, name, KEY)


def test_verifier_key_is_read_back() -> None:
    """A vkey carries name, hint and key."""
    key = parse_verifier_key(VKEY)
    assert (key.name, key.public_key) == (NAME, KEY.public_key())
    assert VKEY.split("+")[1] == key.key_id.hex()


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "name",
        "name+c74f20a3",
        GO_VKEY.replace("c74f20a3", "c74f20a4"),
        GO_VKEY.replace("c74f20a3", "C74F20A3"),
        GO_VKEY.replace("c74f20a3", "c74f20a"),
        GO_VKEY.replace("c74f20a3", "0c74f20a3"),
        GO_VKEY.replace("PeterNeumann", "Peter"),
        GO_VKEY.replace("PeterNeumann", ""),
        GO_VKEY.replace("PeterNeumann", "\ud800"),
        GO_VKEY.replace("+ARpc", "+BBpc"),
        GO_VKEY.replace("+ARpc", "+ASpc"),
        GO_VKEY[:-1],
        GO_VKEY[:-4],
        GO_VKEY + "AAAA",
        GO_VKEY + "\n",
        " " + GO_VKEY,
        "PRIVATE+KEY+" + GO_VKEY,
    ],
)
def test_malformed_verifier_keys_are_refused(vkey: str) -> None:
    """A mistyped key is noticed when it is read, not when a checkpoint fails."""
    with pytest.raises(VerifierKeyError):
        parse_verifier_key(vkey)
    with pytest.raises(VerifierKeyError):
        open_note(NOTE, vkey)


def test_large_notes_are_refused_before_any_signature_is_checked() -> None:
    """A large or signature-stuffed note costs a bounded effort, even if its signatures are good."""
    copies = signature_lines(NOTE) * 1000
    for note in (f"{CHECKPOINT.body()}\n{copies}", "\n" * 10_000_000, NOTE * 10_000):
        with pytest.raises(NoteError, match="longer than"):
            open_note(note, VKEY)
