"""The board: what one process writes, the others read, and one has the turn at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.ledger.sharing.board import Board, Word

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys
from broker.ledger.sharing.board import Board, Word
board = Board.shared(int(sys.argv[1]))
with board.turn():
    board[Word.ANNOUNCED] = 2**63
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def descriptor() -> Iterator[int]:
    """A board of its own for each test."""
    descriptor = Board.create()
    yield descriptor
    os.close(descriptor)


def test_a_turn_ends_with_its_process(descriptor: int) -> None:
    """What it wrote stays, and the next one has the turn, although it was killed."""
    board = Board.shared(descriptor)
    assert board[Word.ANNOUNCED] == 0
    command = [sys.executable, "-c", HOLDER, str(descriptor)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[descriptor]
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        taken = threading.Event()
        waiting = threading.Thread(target=lambda: _take(board, taken))
        waiting.start()
        assert not taken.wait(0.1)
        holder.kill()
        assert taken.wait(30)
        waiting.join()
    assert board[Word.ANNOUNCED] == 2**63
    board.close()


def test_two_in_one_process_exclude_each_other(descriptor: int) -> None:
    """A turn belongs to a board, not to the process."""
    one, other = Board.shared(descriptor), Board.shared(descriptor)
    taken = threading.Event()
    waiting = threading.Thread(target=lambda: _take(other, taken))
    with one.turn():
        waiting.start()
        assert not taken.wait(0.1)
    assert taken.wait(30)
    waiting.join()
    one.close()
    other.close()


def test_a_private_one_is_nobody_elses() -> None:
    """It shares nothing and waits for nobody."""
    one, other = Board.private(), Board.private()
    one[Word.ANNOUNCED] = 5
    with one.turn(), other.turn():
        assert (one.is_shared, other[Word.ANNOUNCED]) == (False, 0)
    one.close()
    other.close()


def _take(board: Board, taken: threading.Event) -> None:
    with board.turn():
        taken.set()
