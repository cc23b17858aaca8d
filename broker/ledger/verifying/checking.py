"""What can be checked of entries one by one, in this process or in several at the same time.

Per entry that is one SHA-256, one JSON decoding, one encoding, and comparisons: the encoding is canonical exactly if
encoding what was decoded gives the same bytes again.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from broker.core.entry import decode
from broker.core.merkle import HASH_SIZE, leaf_hash
from broker.core.personal import MEMBER
from broker.ledger.schema import ENTRY_COLUMNS
from broker.ledger.verifying.derived import bears_on_tables
from broker.ledger.verifying.derived_personal import opened
from broker.ledger.verifying.stored import Loaded, Piece, Stored

_AHEAD: Final = 16
"""How many pieces are read ahead, so that no process waits for the next one."""

_COLUMNS: Final = ENTRY_COLUMNS[2:-2]


class Problem(NamedTuple):
    """What is wrong, in words. ``changed`` says that the entry at ``seq`` is not what was recorded."""

    text: str
    seq: int = -1
    changed: bool = False


@dataclass(slots=True)
class Checked:
    """What came of a piece.

    ``runs`` are the leaf hashes, without gaps from each first place on. ``told`` are the entries on which the other
    tables depend; ``gone`` are the places of those whose personal members are not there.
    """

    share: float
    gone: list[int] = field(default_factory=list)
    runs: list[tuple[int, list[bytes]]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    told: list[tuple[int, Mapping[str, Any]]] = field(default_factory=list)


@contextmanager
def pool_of(processes: int) -> Iterator[Executor | None]:
    """Provide processes that check pieces; for one process there is no need of any but this."""
    if processes == 1:
        yield None
        return
    # A fresh interpreter each, since a copy of this process would share its connections and threads.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def checked(pieces: Iterable[Piece], pool: Executor | None) -> Iterator[Checked]:
    """Check pieces; yield what came of them in their order."""
    if pool is None:
        yield from map(check, pieces)
        return
    running: deque[Future[Checked]] = deque()
    for piece in pieces:
        running.append(pool.submit(check, piece))
        if len(running) > _AHEAD:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def check(piece: Piece) -> Checked:
    """Check every entry of a piece alone."""
    return check_loaded(piece.load(), piece.share)


def check_loaded(loaded: Loaded, share: float = 0) -> Checked:
    """Check every entry of what was loaded alone, which is this ``share`` of its source."""
    done = Checked(share, problems=[Problem(text) for text in loaded.unreadable])
    expected, leaves = None, list[bytes]()
    for stored in loaded.entries:
        if stored.seq != expected:
            leaves = []
            done.runs.append((stored.seq, leaves))
        leaves.append(_check(stored, done))
        expected = stored.seq + 1
    return done


def _check(stored: Stored, done: Checked) -> bytes:
    """Check an entry; return its leaf as stored, so that the tree is judged apart from the entry."""
    seq, leaf, _, body, _ = stored
    if not isinstance(body, bytes):
        done.problems.append(Problem(f"entry {seq}: its body is not bytes", seq, changed=True))
    else:
        mine = leaf_hash(body)
        if leaf is None:
            leaf = mine
        elif mine != leaf:
            text = f"entry {seq}: its bytes do not have the hash that was stored with them"
            done.problems.append(Problem(text, seq, changed=True))
        _check_body(stored, done)
    return leaf if isinstance(leaf, bytes) and len(leaf) == HASH_SIZE else bytes(HASH_SIZE)


def _check_body(stored: Stored, done: Checked) -> None:
    seq, _, columns, body, personal = stored
    try:
        leaf = decode(body)
    except (ValueError, TypeError) as error:
        done.problems.append(Problem(f"entry {seq}: its bytes are not an entry ({error})", seq, changed=True))
        return
    try:
        members = opened(leaf, personal)
    except ValueError as error:
        done.problems.append(Problem(f"entry {seq}: {error}", seq))
        members = leaf
    if columns is not None:
        _check_columns(seq, columns, members, done)
    if personal is None and MEMBER in leaf:
        done.gone.append(seq)
    if bears_on_tables(members):
        done.told.append((seq, members))


def _check_columns(seq: int, columns: tuple[Any, ...], members: Mapping[str, Any], done: Checked) -> None:
    if columns != tuple(map(members.get, _COLUMNS)):
        pairs = zip(_COLUMNS, columns, strict=True)
        wrong = ", ".join(name for name, stored in pairs if members.get(name) != stored)
        done.problems.append(Problem(f"entry {seq}: the columns {wrong} differ from the entry itself", seq))
