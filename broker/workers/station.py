"""What a worker is told on its command line: its place, and the descriptors that it was given."""

from __future__ import annotations

from typing import Self

import msgspec


class Station(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``since`` is when the supervisor began (Unix seconds); ``replaces`` says that this one follows one that died."""

    config: str
    port: int | None
    workers: int
    place: int
    replaces: bool
    since: float
    channel: int
    lock: int
    board: int
    public: tuple[int, ...]
    private: tuple[int, ...]

    def to_text(self) -> str:
        """Return it as an argument."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read such an argument. Raises ``msgspec.DecodeError``."""
        return msgspec.json.decode(text, type=cls)

    def descriptors(self) -> tuple[int, ...]:
        """Return every descriptor that was inherited."""
        return (self.channel, self.lock, self.board, *self.public, *self.private)
