"""How far an export has come: what was sent, and what is known to have arrived."""

from __future__ import annotations

from collections import deque


class Progress:
    """Places in the ledger. ``following`` is the next entry to send; all below ``confirmed`` has arrived.

    What was accepted counts as confirmed once ``window`` more bytes were accepted after it: by then it cannot be on
    its way any more.
    """

    def __init__(self, first: int, window: int) -> None:
        """``first`` is the entry to begin with."""
        self.following = first
        self.confirmed = first
        self._window = window
        self._on_its_way: deque[tuple[int, int]] = deque()
        self._bytes = 0

    def accepted(self, upto: int, size: int) -> None:
        """Take note that all entries up to this one, in so many bytes, were accepted."""
        self.following = upto + 1
        self._on_its_way.append((self.following, size))
        self._bytes += size
        while self._on_its_way and self._bytes - self._on_its_way[0][1] >= self._window:
            self.confirmed, passed = self._on_its_way.popleft()
            self._bytes -= passed

    def go_back(self) -> None:
        """Begin again with what may be lost."""
        self._forget()
        self.following = self.confirmed

    def confirm(self) -> None:
        """Take note that everything has arrived."""
        self._forget()
        self.confirmed = self.following

    def _forget(self) -> None:
        self._on_its_way.clear()
        self._bytes = 0
