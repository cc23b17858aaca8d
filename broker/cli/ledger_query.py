"""``broker ledger query``: which entries are about an agent, a task, a token, a lease or an incident."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from broker.cli.entry_line import entry_line
from broker.cli.options import ConfigFile, Json, LedgerFile, Port, settings
from broker.cli.output import show
from broker.cli.session import Session, call
from broker.clock import SystemClock
from broker.core.inquiry import EntryFilter, parse_kinds, parse_moment
from broker.core.personal import told

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 100_000

_PAGE: Final = 1000


def command(
    *,
    agent: Annotated[
        str | None, typer.Option(metavar="AGENT", help="Who acts or acted before, decided, or was revoked.")
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="ID", help="A task, with all below it.")] = None,
    token: Annotated[str | None, typer.Option(metavar="ID", help="A token, with all that descend from it.")] = None,
    lease: Annotated[str | None, typer.Option(metavar="ID", help="A lease.")] = None,
    approval: Annotated[str | None, typer.Option(metavar="ID", help="A request, with what used it.")] = None,
    incident: Annotated[str | None, typer.Option(metavar="NAME", help="An incident that revocations name.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="token.refused, or all that begin so: lease. (for each)")
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="From then on: RFC 3339, or 2h before now.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before then, likewise.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_LIMIT, help="How many entries at most.")] = DEFAULT_LIMIT,
    file: LedgerFile = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Show the entries that are about what the options name, the oldest first."""
    kinds = ",".join(kind) if kind else None
    if file is not None:
        now = SystemClock().now()
        wanted = EntryFilter(
            agent=agent,
            task=task,
            token=token,
            lease=lease,
            approval=approval,
            incident=incident,
            kinds=parse_kinds(kinds),
            since=parse_moment("--since", since, now),
            until=parse_moment("--until", until, now),
        )
        answer = _offline(file, wanted, limit)
    else:
        asked = {"agent": agent, "task": task, "token": token, "lease": lease, "approval": approval}
        asked |= {"incident": incident, "kind": kinds, "since": since, "until": until}
        answer = call(settings(config, port), lambda session: _pages(session, asked, limit))
    more = ("There are more: --limit N shows them, --since begins later.",) if answer["more"] else ()
    lines = [entry_line(entry) for entry in answer["entries"]] or ["There are no such entries."]
    show(answer, *lines, *more, as_json=as_json)


async def _pages(session: Session, asked: dict[str, str | None], limit: int) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    cursor = None
    while True:
        query = {**asked, "limit": min(_PAGE, limit - len(entries)), "cursor": cursor}
        page = await session.get("/v1/ledger/entries", "ledger:read", **query)
        entries += [{"seq": found["seq"], "entry": told(found)} for found in page["entries"]]
        cursor = page["next"]
        if cursor is None or len(entries) >= limit:
            return {"entries": entries, "more": cursor is not None}


def _offline(file: Path, wanted: EntryFilter, limit: int) -> dict[str, Any]:
    from broker.ledger.reading import inquiries, offline  # noqa: PLC0415 - loads the ledger, which few commands need

    entries: list[dict[str, Any]] = []
    after: int | None = -1
    while after is not None and len(entries) < limit:
        start, left = after, limit - len(entries)
        page = offline.read_file(file, lambda connection: inquiries.find(connection, wanted, start, left))  # noqa: B023
        entries += [{"seq": record.seq, "entry": dict(record.members)} for record in page.records]
        after = page.next
    return {"entries": entries, "more": after is not None}
