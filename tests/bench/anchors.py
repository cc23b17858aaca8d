"""What anchoring costs those who are issued tokens: a broker with a file anchor every second, next to one without."""

from __future__ import annotations

import os
import statistics
from pathlib import Path

from rich.table import Table

from tests.bench.stage import Load, Stage

ROUNDS = 7
SECONDS = 4.0


def measure(folder: Path, table: Table) -> None:
    """Issue tokens at 32 connections, in turn with and without an anchor."""
    anchor = f'\n[anchors.offsite]\nkind = "file"\npath = "{folder / "anchor.jsonl"}"\nevery_seconds = 1\n'
    stages = {"without": Stage(folder / "without"), "with": Stage(folder / "with", anchor)}
    rounds: dict[str, list[Load]] = {name: [] for name in stages}
    try:
        for stage in stages.values():
            stage.folder.mkdir()
            stage.start()
        requests = {name: stage.federated() for name, stage in stages.items()}
        before = {name: processor_seconds(stage.process) for name, stage in stages.items()}
        for number in range(ROUNDS):
            for name in sorted(stages, reverse=bool(number % 2)):
                rounds[name].append(stages[name].load(requests[name], seconds=SECONDS))
        spent = {name: processor_seconds(stage.process) - before[name] for name, stage in stages.items()}
    finally:
        for stage in stages.values():
            stage.stop()
    rates = {name: [load.per_second for load in loads] for name, loads in rounds.items()}
    ratios = [one / other for one, other in zip(rates["with"], rates["without"], strict=True)]
    figure = f"{statistics.median(rates['with']):,.0f}/s ({min(rates['with']):,.0f} to {max(rates['with']):,.0f})"
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    table.add_row("tokens issued, durable, a file anchor every second", figure, spread, "the same without an anchor")
    each = {name: spent[name] / sum(load.answers for load in loads) for name, loads in rounds.items()}
    ratio = f"{each['with'] / each['without']:.3f}"
    table.add_row("its processor time for each of them", f"{each['with'] * 1e6:.0f} µs", ratio, "as above")


def processor_seconds(process: int) -> float:
    """Return how long a process has run on a processor, in all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
