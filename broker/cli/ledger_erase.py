"""``broker ledger erase``: forget what is personal in entries. The entries stay, and so does every proof."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from broker.cli.options import ConfigFile, Json, Port, settings
from broker.cli.output import Facts, show
from broker.cli.session import Session, call

_PATH: Final = "/v1/ledger/erasures"
_SCOPE: Final = "ledger:erase"


def command(
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is recorded.")],
    ref: Annotated[str | None, typer.Option(metavar="REF", help="The entries that have this reference.")] = None,
    task: Annotated[str | None, typer.Option(metavar="ID", help="The entries of a task.")] = None,
    agent: Annotated[str | None, typer.Option(metavar="AGENT", help="The entries of what an agent did.")] = None,
    subject: Annotated[
        str | None, typer.Option(metavar="SUBJECT", help="The entries of what was done on somebody's behalf.")
    ] = None,
    before: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only older ones: RFC 3339, or a duration such as 48h ago.")
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Count only; change nothing.")] = False,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Forget addresses, purposes, reasons and whatever else is personal; what is still in use keeps it."""
    asked = {"ref": ref, "task": task, "agent": agent, "subject": subject, "before": before}
    body = {"reason": reason, "preview": preview, **{name: value for name, value in asked.items() if value is not None}}
    answer = call(settings(config, port), lambda session: _erase(session, body))
    show(answer, _told(answer), as_json=as_json)


async def _erase(session: Session, body: dict[str, Any]) -> dict[str, Any]:
    """Go through the whole ledger, part by part."""
    pages = [await session.post(_PATH, _SCOPE, body)]
    while (after := pages[-1]["next"]) is not None:
        pages.append(await session.post(_PATH, _SCOPE, {**body, "after": after}))
    return {
        "preview": body["preview"],
        "erasures": [page["erasure"] for page in pages if page["erasure"] is not None and page["entries"]],
        "entries": sum(page["entries"] for page in pages),
        "in_use": sum(page["in_use"] for page in pages),
        "forgotten": pages[-1]["forgotten"],
    }


def _told(answer: dict[str, Any]) -> Facts:
    entries, in_use = answer["entries"], answer["in_use"]
    would = "would lose" if answer["preview"] else "have lost"
    files = (
        "hold nothing of it any more" if answer["forgotten"] else "hold it until nobody reads an older state of them"
    )
    return Facts(
        f"{entries:,} entries {would} what is personal",
        [
            ("still in use", f"{in_use:,} entries keep what is personal" if in_use else None),
            ("recorded as", ", ".join(answer["erasures"]) or None),
            ("the files", None if answer["preview"] else files),
        ],
    )
