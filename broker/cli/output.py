"""What commands print: JSON for programs, tables for people at a terminal, plain columns for pipes and files.

Texts from outside (agents' names, reasons, ledger entries) are shown with every character that is not printable as an
escape, so that none of them can move the cursor, hide text or speak to the terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from broker.cli.outcome import Failure


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


def show(answer: object, *parts: Part, as_json: bool) -> None:
    """Print ``answer`` as JSON if that was asked for, else the parts that say it in words."""
    if as_json:
        print(to_json(answer, indent=2))
    elif sys.stdout.isatty():
        _draw(parts)
    else:
        for part in parts:
            print(*_plain(part), sep="\n")


def show_secret(secret: str) -> None:
    """Print the one secret that a command was asked for: a line of its own, the same for people and programs."""
    print(secret)


def show_failure(failure: Failure, *, as_json: bool) -> None:
    """Print what went wrong to standard error: one line, or one for each problem of a file."""
    if as_json:
        refusal = {} if failure.refusal is None else {"refusal": failure.refusal}
        print(to_json({"code": failure.code, "message": failure.text, **refusal}), file=sys.stderr)
        return
    for line in f"broker: {failure.code}: {failure.text}".split("\n"):
        note(line)
    if failure.refusal is not None:
        note(f"The record of this refusal: broker policy explain --refusal {failure.refusal}")


def note(text: str) -> None:
    """Print a line for the person who watches to standard error, out of the way of the result."""
    print(printable(text), file=sys.stderr, flush=True)


def to_json(value: object, *, indent: int | None = None) -> str:
    """Encode as JSON in ASCII: what is not, is escaped, which also keeps it away from the terminal."""
    return json.dumps(value, indent=indent, ensure_ascii=True)


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


def moment(seconds: float | None) -> str | None:
    """Return Unix seconds as UTC in RFC 3339; None stays None."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def is_interactive(stream: TextIO | None = None) -> bool:
    """Whether a person can be asked: both input and error output are a terminal."""
    return (stream or sys.stdin).isatty() and sys.stderr.isatty()


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    point = ord(character)
    width, letter = (2, "x") if point <= 0xFF else (4, "u") if point <= 0xFFFF else (8, "U")  # noqa: PLR2004
    return f"\\{letter}{point:0{width}x}"


def _plain(part: Part) -> list[str]:
    match part:
        case Table(columns, rows, empty):
            cells = [columns, *([printable(value) for value in row] for row in rows)]
            return _aligned(cells) if rows else [empty]
        case Facts(title, values):
            named = [(f"{name}:", printable(value)) for name, value in values if value is not None]
            return [printable(title), *_aligned(named, indent="  ")]
        case str():
            return [printable(part)]


def _aligned(cells: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells)
    return [f"{indent}{line}".rstrip() for line in lines]


def _draw(parts: Sequence[Part]) -> None:
    # Only a terminal needs Rich, and only a few commands a terminal: it is imported when it is used.
    from rich import box  # noqa: PLC0415
    from rich.console import Console, RenderableType  # noqa: PLC0415
    from rich.panel import Panel  # noqa: PLC0415
    from rich.table import Table as Grid  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    def drawn(part: Part) -> RenderableType:
        match part:
            case Table(columns, rows, empty):
                if not rows:
                    return Text(empty, style="dim")
                table = Grid(*columns, box=box.SIMPLE_HEAD, header_style="bold")
                for row in rows:
                    table.add_row(*(Text(printable(value)) for value in row))
                return table
            case Facts(title, values):
                grid = Grid.grid(padding=(0, 2))
                for name, value in values:
                    if value is not None:
                        grid.add_row(Text(name, style="dim"), Text(printable(value)))
                return Panel(grid, title=Text(printable(title), style="bold"), title_align="left", expand=False)
            case str():
                return Text(printable(part))

    # Texts are given as Text, and markup is off: nothing in them is ever read as an instruction.
    console = Console(markup=False, highlight=False, emoji=False)
    for part in parts:
        console.print(drawn(part))
