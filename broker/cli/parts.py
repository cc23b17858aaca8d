"""The parts of what a command says to people, and the one form in which texts from outside are shown.

Texts from outside (agents' names, reasons, ledger entries) are shown with every character that is not printable as an
escape, so that none of them can move the cursor, hide text or speak to the terminal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under named columns; ``empty`` is said when there are none."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[object]]
    empty: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Named values under a title. A value of None is left out."""

    title: str
    values: Sequence[tuple[str, object]]


Part = Table | Facts | str


def printable(value: object) -> str:
    """Return the text of a value on one line, with everything that is not printable as an escape.

    Doing it twice changes nothing. Programs should read JSON, in which nothing is ambiguous.
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(name)} {printable(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(printable(item) for item in value)
    return "".join(_escaped(character) for character in str(value))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    point = ord(character)
    width, letter = (2, "x") if point <= 0xFF else (4, "u") if point <= 0xFFFF else (8, "U")  # noqa: PLR2004
    return f"\\{letter}{point:0{width}x}"
