"""The board: a page of memory that the processes of one host share, with what each must know of the others at once.

It is written in a *turn*, which one process has at a time and which the kernel takes back from one that dies. It is
read at any time: each word is stored as a whole. Nothing on it is needed after all of the processes have ended.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Final, Self

_SIZE: Final = mmap.PAGESIZE


class Word(IntEnum):
    """The places on the board, each of 64 bits. At first all of them are zero."""

    ANNOUNCED = 0
    """How far a process must know the ledger before it judges anything; see ``Head.changed``."""
    SETTLED = 1
    """Whether the files are what the words below say; not so at first, and while they are opened or copied back."""
    DATABASE_DEVICE = 2
    DATABASE_INODE = 3
    DATABASE_SIZE = 4
    DATABASE_TIME = 5
    LOG_DEVICE = 6
    LOG_INODE = 7
    LOG_SIZE = 8


class Board:
    """The page, and the turn. Two boards on one descriptor exclude each other, in one process or in several."""

    def __init__(self, page: mmap.mmap, turn: int | None) -> None:
        """``turn`` is an open file of this board's own on what is shared; None if nothing is."""
        self._page = page
        self._words = memoryview(page).cast("Q")
        self._turn = turn

    @classmethod
    def private(cls) -> Self:
        """Return a board for a process that shares the ledger with nobody."""
        return cls(mmap.mmap(-1, _SIZE), None)

    @staticmethod
    def create() -> int:
        """Make an empty board to be shared; return its descriptor, which child processes can be given (Linux)."""
        descriptor = os.memfd_create("broker-board", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _SIZE)
        return descriptor

    @classmethod
    def shared(cls, descriptor: int) -> Self:
        """Return the board of a descriptor, which stays the caller's. Raises ``OSError``."""
        page = mmap.mmap(descriptor, _SIZE)
        # Opened anew: a lock belongs to what was opened, and the descriptors that were handed down are all of one.
        return cls(page, os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC))

    @property
    def is_shared(self) -> bool:
        """Whether there may be other processes."""
        return self._turn is not None

    def __getitem__(self, word: Word) -> int:
        """Return a word."""
        return self._words[word]

    def __setitem__(self, word: Word, value: int) -> None:
        """Store a word as a whole."""
        self._words[word] = value

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Keep the other processes out until the end of the context, or of this process; wait for them before."""
        if self._turn is None:
            yield
            return
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give up this view of it; the descriptor that it was made from stays open."""
        self._words.release()
        self._page.close()
        if self._turn is not None:
            os.close(self._turn)
