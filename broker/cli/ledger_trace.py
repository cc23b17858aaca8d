"""``broker ledger trace``: the whole story of one thing, as a tree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from broker.cli.options import ConfigFile, Json, LedgerFile, Port, settings
from broker.cli.outcome import ExitCode, Failure
from broker.cli.output import show
from broker.cli.session import call, path_part
from broker.cli.story_lines import story_lines
from broker.core.errors import Code


def command(
    ref: Annotated[
        str, typer.Argument(metavar="ID", help="A token, lease, task, approval, action or rule, by its id.")
    ],
    file: LedgerFile = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Tell the whole story of one thing: what it came of, what came of it, who approved and who ended it."""
    path = f"/v1/ledger/trace/{path_part(ref, 'ID')}"
    if file is None:
        answer = call(settings(config, port), lambda session: session.get(path, "ledger:read"))
    else:
        answer = _offline(file, ref)
    show(answer, *story_lines(answer), as_json=as_json)


def _offline(file: Path, ref: str) -> dict[str, Any]:
    from broker.ledger.reading import offline, stories  # noqa: PLC0415 - loads the ledger, which few commands need

    story = offline.read_file(file, lambda connection: stories.story(connection, ref))
    if story is None:
        raise Failure(ExitCode.REFUSED, Code.NOT_FOUND.value, "the ledger has nothing of this id")
    return story.to_dict()
