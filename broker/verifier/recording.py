"""The statements that a view was made of, kept in a file, so that the next start need not wait for a snapshot.

The file is not believed: every statement is verified again, with keys that the broker published after the start, and
its age counts. Keys are not kept. Whoever could write the file could write keys, and then sign tokens with them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from broker.core.snapshot import MAX_SNAPSHOT
from broker.durable_files import replace_file

MAX_RULES: Final = 256
"""How many rules after the snapshot are kept; then it is time for another snapshot."""

MAX_FILE: Final = 4 * MAX_SNAPSHOT

_log: Final = logging.getLogger("broker.verifier")
_Statements = list[tuple[str, str]]


class Recording:
    """A snapshot, the rules since, and the last heartbeat, as they were received. Without a path it keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        """``path`` is a file of this process alone."""
        self.path = path
        self._snapshot: str | None = None
        self._rules: list[str] = []
        self._heartbeat: str | None = None
        self._changed = False

    def note(self, name: str, token: str) -> None:
        """Take a statement that the view has taken; ``name`` is snapshot, rule or heartbeat."""
        if self.path is None:
            return
        if name == "snapshot":
            self._snapshot, self._rules, self._heartbeat = token, [], None
        elif name == "heartbeat":
            self._heartbeat = token
        elif not self.is_full():
            self._rules.append(token)
        self._changed = True

    def is_full(self) -> bool:
        """Whether only a snapshot makes room for more."""
        return len(self._rules) >= MAX_RULES

    async def save(self) -> None:
        """Write the file, if there is news. A disk that fails is logged, and harms nothing else."""
        if self.path is None or self._snapshot is None or not self._changed:
            return
        self._changed = False
        statements = [("snapshot", self._snapshot), *(("rule", rule) for rule in self._rules)]
        if self._heartbeat is not None:
            statements.append(("heartbeat", self._heartbeat))
        try:
            await asyncio.to_thread(replace_file, self.path, msgspec.json.encode(statements))
        except OSError as error:
            self._changed = True
            _log.warning("the view cannot be kept: %s", error.strerror)

    async def load(self) -> Sequence[tuple[str, str]]:
        """Return what the file has: names and statements, unverified; nothing if it cannot be read."""
        if self.path is None:
            return ()
        try:
            return await asyncio.to_thread(_read, self.path)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            _log.warning("the view that was kept cannot be read: %s", type(error).__name__)
            return ()


def _read(path: Path) -> _Statements:
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    statements = msgspec.json.decode(data, type=_Statements)
    if len(data) > MAX_FILE or len(statements) > MAX_RULES + 2:
        raise ValueError("longer than any that is written")
    return statements
