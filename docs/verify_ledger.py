"""Verify a ledger without any of the broker's code: the standard library, and ``cryptography`` for signatures.

    python verify_ledger.py ledger.db [--vkey VKEY] [--note FILE]
    python verify_ledger.py export.jsonl --vkey VKEY --note FILE
    python verify_ledger.py entries-*.jsonl.gz ledger.db --note FILE

It recomputes the Merkle tree (RFC 6962) over the entries, from the database or from an export as JSON Lines, and
compares it with every checkpoint (C2SP tlog-checkpoint) of the database and with the one in FILE, which somebody kept
elsewhere. What is personal must fit the commitments in the entries; in a database it is gone only where an entry says
so. With a verifier key (``broker keys list``) the signatures count, too. It ends with 0 if everything fits, with 1 and
one line for each thing that does not, and with 2 if there is nothing to verify.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Stored = tuple[int, bytes, bytes | None, bytes | None]  # place, canonical bytes, leaf hash, salt with what is personal


def main() -> int:
    """Verify what the arguments name, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ledger", type=Path, nargs="+", help="a database file or an export, after its archives if any")
    parser.add_argument("--vkey", help="the verifier key of the checkpoints")
    parser.add_argument("--note", type=Path, help="a checkpoint that was kept elsewhere")
    asked = parser.parse_args()
    try:
        problems: list[str] = []
        claims = [claim for path in asked.ledger for claim in _claims(path, asked.vkey, problems)]
        if asked.note is not None:
            claims.append((f"the checkpoint in {asked.note.name}", *_read_note(asked.note.read_text(), asked.vkey)))
        size, root, wrong = _tree((entry for path in asked.ledger for entry in _entries(path)), claims)
    except (OSError, ValueError, sqlite3.Error) as error:
        print(f"cannot be verified: {error}", file=sys.stderr)
        return 2
    for problem in problems + wrong:
        print(problem)
    print(f"{size} entries, root {base64.b64encode(root).decode()}, {len(claims)} statements about the tree compared")
    return 1 if problems or wrong else 0


# --- the tree ---------------------------------------------------------------------------------------------------------


def _tree(entries: Iterable[Stored], claims: list[tuple[str, int, bytes]]) -> tuple:
    """Return size and root of the tree over the entries, and what does not fit, the first entry first."""
    wanted: dict[int, list[tuple[str, bytes]]] = {}
    for says, size, root in claims:
        wanted.setdefault(size, []).append((says, root))
    wrong, gone = list[str](), set[int]()
    peaks: list[tuple[int, bytes]] = []  # whole subtrees from the left: how many leaves, and their root
    size = 0
    wrong += _compared(wanted.pop(0, []), 0, _root(peaks))
    for seq, body, leaf, personal in entries:
        if seq != size:
            wrong.append(f"entry {size} is missing: the next one there is {seq}")
            break
        mine = hashlib.sha256(b"\x00" + body).digest()
        if leaf is not None and leaf != mine:
            wrong.append(f"entry {seq} is not what its leaf hash says")
        wrong += _unkept(seq, body, personal, gone if leaf is not None else set())
        peaks.append((1, mine))
        while len(peaks) > 1 and peaks[-1][0] == peaks[-2][0]:
            (count, right), (_, left) = peaks.pop(), peaks.pop()
            peaks.append((2 * count, hashlib.sha256(b"\x01" + left + right).digest()))
        size += 1
        wrong += _compared(wanted.pop(size, []), size, _root(peaks))
    wrong += [f"what is personal of entry {seq} is gone, and was not erased" for seq in sorted(gone)]
    for rest, told in sorted(wanted.items()):
        wrong += [f"{says} speaks of {rest} entries, and there are {size}" for says, _ in told]
    return size, _root(peaks), wrong


def _unkept(seq: int, body: bytes, personal: bytes | None, gone: set[int]) -> list[str]:
    """Compare what is personal with what the entry promises; ``gone`` are the entries whose promise is left open."""
    try:
        told = json.loads(body) if personal is not None or b'"personal' in body else {}
        for first, last in told.get("places", []):  # only an entry of the kind personal.erased has some
            gone.difference_update(range(first, min(last, seq) + 1))
    except (ValueError, TypeError, AttributeError):
        told = {}  # it is no entry, as its leaf hash says
    gone.update([seq] if personal is None and "personal" in told else [])
    mine = base64.urlsafe_b64encode(hashlib.sha256(personal or b"").digest()).decode().rstrip("=")
    kept = personal is None or told.get("personal") == mine
    return [] if kept else [f"what is personal of entry {seq} is not what it promises"]


def _root(peaks: list[tuple[int, bytes]]) -> bytes:
    if not peaks:
        return hashlib.sha256(b"").digest()
    root = peaks[-1][1]
    for _, left in reversed(peaks[:-1]):
        root = hashlib.sha256(b"\x01" + left + root).digest()
    return root


def _compared(told: list[tuple[str, bytes]], size: int, root: bytes) -> list[str]:
    return [f"{says} has another root for {size} entries" for says, wanted in told if wanted != root]


# --- what is stored ---------------------------------------------------------------------------------------------------


def _entries(path: Path) -> Iterator[Stored]:
    if not _is_database(path):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as lines:
            for told in map(json.loads, lines):
                if "seq" not in told:
                    continue  # the header, or a checkpoint, of an archive
                kept = told.get("personal") or {"salt": "", "members": {}}
                personal = base64.urlsafe_b64decode(kept["salt"] + "==") + _canonical(kept["members"])
                yield told["seq"], _canonical(told["entry"]), None, personal if kept["salt"] else None
        return
    with _opened(path) as database:
        yield from database.execute("SELECT seq, body, leaf, personal FROM entries ORDER BY seq")


def _claims(path: Path, vkey: str | None, problems: list[str]) -> Iterator[tuple[str, int, bytes]]:
    """Yield what a database says of its tree: the size and root of each checkpoint, and the size of the head."""
    if not _is_database(path):
        return
    with _opened(path) as database:
        for size, root, note in database.execute("SELECT size, root, note FROM checkpoints"):
            yield f"the checkpoint of {size} entries", size, root
            if note is not None:
                try:
                    yield f"the signed checkpoint of {size} entries", *_read_note(note, vkey)
                except ValueError as error:
                    problems.append(f"the signed checkpoint of {size} entries: {error}")
        for size, frontier in database.execute("SELECT size, frontier FROM head"):
            peaks = [(0, frontier[at : at + 32]) for at in range(0, len(frontier), 32)]
            yield "the head", size, _root(peaks)


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\x00"


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path.resolve()}?mode=ro", uri=True)


def _canonical(value: object) -> bytes:
    """Return the RFC 8785 encoding of an entry, which has no fractions and no nulls."""
    return json.dumps(_ordered(value), separators=(",", ":"), ensure_ascii=False).encode()


def _ordered(value: object) -> object:
    if isinstance(value, dict):
        return {name: _ordered(value[name]) for name in sorted(value, key=lambda name: name.encode("utf-16-be"))}
    return [_ordered(item) for item in value] if isinstance(value, list) else value


# --- notes ------------------------------------------------------------------------------------------------------------


def _read_note(note: str, vkey: str | None) -> tuple[int, bytes]:
    """Return the size and root that a checkpoint states. Raises ``ValueError`` if the key did not sign it."""
    body, _, signatures = note.partition("\n\n")
    _origin, size, root = body.split("\n")
    if vkey is not None:
        name, key_id, key = vkey.split("+", 2)
        public = base64.b64decode(key)
        if hashlib.sha256(name.encode() + b"\n" + public).hexdigest()[:8] != key_id or public[0] != 1:
            raise ValueError("the verifier key is not one for Ed25519")
        prefix = f"\N{EM DASH} {name} "
        signed = [base64.b64decode(line[len(prefix) :]) for line in signatures.split("\n") if line.startswith(prefix)]
        mine = [value[4:] for value in signed if value[:4].hex() == key_id]
        if not mine:
            raise ValueError("this key did not sign it")
        try:
            Ed25519PublicKey.from_public_bytes(public[1:]).verify(mine[0], f"{body}\n".encode())
        except InvalidSignature as error:
            raise ValueError("its signature is wrong") from error
    return int(size), base64.b64decode(root, validate=True)


if __name__ == "__main__":
    sys.exit(main())
