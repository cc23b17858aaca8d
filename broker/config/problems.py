"""What is told of settings that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import msgspec


class ConfigError(Exception):
    """The settings cannot be used; the text names the file and the key."""


def key_of(error: msgspec.ValidationError) -> str:
    """Return what is wrong, with the key before it."""
    text, _, where = str(error).partition(" - at `$.")
    return f"{where.rstrip('`')}: {text}" if where else text


def fail(path: Path, problem: str) -> NoReturn:
    """Raise :class:`ConfigError`."""
    msg = f"{path}: {problem}"
    raise ConfigError(msg)
