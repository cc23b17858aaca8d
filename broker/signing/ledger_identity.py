"""Under which name and key the ledger's checkpoints are signed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from broker.core.key_schedule import CHECKPOINT
from broker.ports import Clock
from broker.signing.checkpoint import Checkpoint, NoteError, open_note, sign_checkpoint
from broker.signing.checkpoint import verifier_key as vkey
from broker.signing.keyring import KeyRing
from broker.signing.private_key import EDDSA

_NAME: Final = "audit"


def origin(issuer: str) -> str:
    """Return the name of the ledger of this issuer (URL), such as ``broker.example/audit``; the key's name too."""
    return f"{urlsplit(issuer).netloc}/{_NAME}"


def checkpoint_signer(ring: KeyRing, clock: Clock, *, issuer: str) -> Callable[[int, bytes], str]:
    """Return the function that makes the note for a tree size and root, with the key that is active at that moment.

    The ledger must make size and root durable before it calls this. The function raises ``Unavailable`` if the ring
    has no checkpoint key, and ``NoteError`` for what no tree has.
    """
    name = origin(issuer)

    def sign(size: int, root: bytes) -> str:
        key = ring.signer(clock.now(), use=CHECKPOINT, alg=EDDSA)
        return sign_checkpoint(Checkpoint(name, size, root), name, key.ed25519())

    return sign


def own_note_opener(ring: KeyRing) -> Callable[[str], tuple[int, bytes]]:
    """Return the function that verifies a note that this broker signed, and returns the size and root it speaks of.

    The issuer may have been called otherwise when it was signed: the key counts, whatever its name was.
    The function raises ``ValueError`` for a note that none of the broker's own keys has signed.
    """

    def opened(note: str) -> tuple[int, bytes]:
        name = note.partition("\n")[0]
        for key in ring.checkpoint_keys():
            try:
                checkpoint = open_note(note, vkey(name, key))
            except NoteError:
                continue
            return checkpoint.size, checkpoint.root
        raise NoteError("it is not signed by the broker")

    return opened


def verifier_key(ring: KeyRing, now: float, *, issuer: str) -> str:
    """Return the vkey by which auditors verify the checkpoints that are signed at ``now``. Raises ``Unavailable``."""
    return vkey(origin(issuer), ring.signer(now, use=CHECKPOINT, alg=EDDSA).ed25519().public_key())


def checkpoint_opener(ring: KeyRing, clock: Clock, *, issuer: str) -> Callable[[str], tuple[int, bytes]]:
    """Return the function that verifies a note of this ledger, and returns the size and root that it speaks of.

    It raises ``NoteError`` (a ``ValueError``) for what this ledger's key has not signed.
    """

    def opened(note: str) -> tuple[int, bytes]:
        checkpoint = open_note(note, verifier_key(ring, clock.now(), issuer=issuer))
        if checkpoint.origin != origin(issuer):
            raise NoteError("the checkpoint is of another ledger")
        return checkpoint.size, checkpoint.root

    return opened
