"""What commands print: JSON for programs, tables for people at a terminal, plain columns for pipes and files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TextIO

from broker.cli.outcome import Failure
from broker.cli.parts import Facts, Part, Table, printable

__all__ = [
    "Facts",
    "Part",
    "Table",
    "is_interactive",
    "moment",
    "note",
    "printable",
    "show",
    "show_failure",
    "show_secret",
    "to_json",
]


def show(answer: object, *parts: Part, as_json: bool) -> None:
    """Print ``answer`` as JSON if that was asked for, else the parts that say it in words."""
    if as_json:
        print(to_json(answer, indent=2))
    elif sys.stdout.isatty():
        from broker.cli.terminal import draw  # noqa: PLC0415 - only a terminal needs Rich

        draw(parts)
    else:
        for part in parts:
            print(*_plain(part), sep="\n")


def show_secret(secret: str) -> None:
    """Print the one secret that a command was asked for: a line of its own, the same for people and programs."""
    print(secret)


def show_failure(failure: Failure, *, as_json: bool) -> None:
    """Print what went wrong to standard error: one line, or one for each problem of a file."""
    if as_json:
        references = {"refusal": failure.refusal, "auth_req_id": failure.auth_req_id}
        given = {name: reference for name, reference in references.items() if reference is not None}
        print(to_json({"code": failure.code, "message": failure.text, **given}), file=sys.stderr)
        return
    for line in f"broker: {failure.code}: {failure.text}".split("\n"):
        note(line)
    if failure.refusal is not None:
        note(f"The record of this refusal: broker policy explain --refusal {failure.refusal}")
    if failure.auth_req_id is not None:
        note(f"To go on with the same request: the same command with --auth-req-id {failure.auth_req_id}")


def note(text: str) -> None:
    """Print a line for the person who watches to standard error, out of the way of the result."""
    print(printable(text), file=sys.stderr, flush=True)


def to_json(value: object, *, indent: int | None = None) -> str:
    """Encode as JSON in ASCII: what is not, is escaped, which also keeps it away from the terminal."""
    return json.dumps(value, indent=indent, ensure_ascii=True)


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
