"""Drawing for a person at a terminal, with Rich. Nothing in a text is ever read as markup."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table as Grid
from rich.text import Text

from broker.cli.parts import Facts, Part, Table, printable


def draw(parts: Sequence[Part]) -> None:
    """Draw the parts on standard output."""
    # Texts are given as Text, and markup is off.
    console = Console(markup=False, highlight=False, emoji=False)
    for part in parts:
        match part:
            case Table():
                console.print(_table(part))
            case Facts():
                console.print(_panel(part))
            case str():
                console.print(Text(printable(part)), soft_wrap=True)


def _table(part: Table) -> RenderableType:
    if not part.rows:
        return Text(part.empty, style="dim")
    table = Grid(box=box.SIMPLE_HEAD, header_style="bold")
    for place, column in enumerate(part.columns):
        # Ids are there to be copied: they may take another line, but are never cut, and the first not even that.
        table.add_column(column, overflow="fold", no_wrap=place == 0)
    for row in part.rows:
        table.add_row(*(Text(printable(value)) for value in row))
    return table


def _panel(part: Facts) -> RenderableType:
    grid = Grid.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in part.values:
        if value is not None:
            grid.add_row(Text(name, style="dim"), Text(printable(value)))
    return Panel(grid, title=Text(printable(part.title), style="bold"), title_align="left", expand=False)
