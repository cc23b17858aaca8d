"""``broker demo``: watch the whole main job with real processes."""

from __future__ import annotations

import typer

from broker.cli.options import Json
from broker.cli.outcome import ExitCode
from broker.cli.output import show


def command(as_json: Json = False) -> None:
    """Watch the broker issue, revoke and prove, with real processes and measured times."""
    from rich.console import Console  # noqa: PLC0415 - the demonstration is imported when it is wanted

    from broker.demo.play import run  # noqa: PLC0415

    status = run(Console(stderr=as_json, highlight=False))
    if as_json:
        show({"succeeded": status == 0}, as_json=True)
    if status != 0:
        raise typer.Exit(ExitCode.REFUSED)
