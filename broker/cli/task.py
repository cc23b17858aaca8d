"""``broker task``: the units of work that credentials belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from broker.cli.options import ConfigFile, Json, Port, settings
from broker.cli.outcome import ExitCode, unusable
from broker.cli.output import Facts, Table, show
from broker.cli.session import call, path_part
from broker.core.lifetime import parse_duration
from broker.core.task import LEASES, TOKENS
from broker.ids import RandomIds

app = typer.Typer(help="Tasks: the units of work that credentials belong to.", no_args_is_help=True)

FLAG: Final = "[reads like instructions] "
"""Stands before a purpose that seems to address whoever reads it: it is data, whatever it says."""

_COLUMNS: Final = ("id", "state", "owner", "deadline", "purpose")
_MAX_DIGITS: Final = 10

_Operator = Annotated[
    bool, typer.Option("--operator", help="As an operator: any task, whoever's it is, not only one's own.")
]
_Id = Annotated[str, typer.Argument(metavar="ID", help="The task, as told by: broker task list")]


@app.command("open")
def open_task(
    *,
    purpose: Annotated[str, typer.Option(metavar="TEXT", help="What the work is for; it is recorded and shown.")],
    ttl: Annotated[str | None, typer.Option(metavar="1h", help="End it after that; else when the role says.")] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="AUDIENCE=S,S", help="Allow no more than these scopes; for each audience."),
    ] = None,
    secret: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Allow no more than these secrets; for each.")
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="WHAT=N", help="How many at most: tokens=10, leases=2, or an action: refunds:create=3."),
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=TEXT", help="A label of your own; for each.")] = None,
    parent: Annotated[str | None, typer.Option(metavar="ID", help="The task that this one is a part of.")] = None,
    idle_timeout: Annotated[
        str | None, typer.Option(metavar="5m", help="End it when it was not heard of for so long.")
    ] = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Open a task."""
    body = {
        "purpose": purpose,
        "ttl": None if ttl is None else parse_duration(ttl, "--ttl"),
        "scopes": {audience: scopes.split(",") for audience, scopes in _pairs("--scope", scope).items()},
        "secrets": secret,
        "budget": _budget(_pairs("--budget", budget)),
        "labels": _pairs("--label", label),
        "parent": parent,
        "idle_timeout": None if idle_timeout is None else parse_duration(idle_timeout, "--idle-timeout"),
    }
    given = {name: value for name, value in body.items() if value}
    key = RandomIds().new("cli")
    answer = call(
        settings(config, port),
        lambda session: session.post("/v1/tasks", "tasks:open", given, idempotency_key=key),
    )
    show(answer, _facts(f"Opened {answer['id']}", answer), as_json=as_json)


@app.command("show")
def show_task(
    task: _Id, operator: _Operator = False, config: ConfigFile = None, port: Port = None, as_json: Json = False
) -> None:
    """Show a task, with what is left of its budget."""
    path, scope = f"/v1/tasks/{path_part(task, 'ID')}", _scopes("tasks:read", "operator:read", operator)
    answer = call(settings(config, port), lambda session: session.get(path, scope))
    show(answer, _facts(f"Task {answer['id']}", answer), as_json=as_json)


@app.command("list")
def index(
    owner: Annotated[
        str | None, typer.Option(metavar="AGENT", help="Only tasks of this agent; implies --operator.")
    ] = None,
    parent: Annotated[str | None, typer.Option(metavar="ID", help="Only tasks below this one.")] = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only tasks that are open.")] = False,
    operator: _Operator = False,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """List tasks, the youngest first: 100 of them, or those that the options name."""
    query = {"owner": owner, "parent": parent, "open": "true" if only_open else None}
    scope = _scopes("tasks:read", "operator:read", operator or owner is not None)
    answer = call(settings(config, port), lambda session: session.get("/v1/tasks", scope, **query))
    rows = [(task["id"], task["state"], task["owner"], task["deadline"], _purpose(task)) for task in answer["tasks"]]
    more = () if answer["next"] is None else ("There are more: name an owner or a parent, or --open.",)
    show(answer, Table(_COLUMNS, rows, "There are no such tasks."), *more, as_json=as_json)


@app.command("close")
def close(
    task: _Id,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is recorded.")] = "the work is done",
    operator: _Operator = False,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """End a task, every task below it, and every credential in them, at once."""
    path, scope = f"/v1/tasks/{path_part(task, 'ID')}", _scopes("tasks:close", "revocations:write", operator)
    answer = call(settings(config, port), lambda session: session.delete(path, scope, reason=reason))
    show(answer, _ended(answer), as_json=as_json)
    if answer["revocation"] is not None and not answer["revocation"]["durable"]:
        raise typer.Exit(ExitCode.NOT_DURABLE)


@app.command("heartbeat")
def heartbeat(task: _Id, config: ConfigFile = None, port: Port = None, as_json: Json = False) -> None:
    """Say that work on a task goes on, before its idle time-out is over."""
    path = f"/v1/tasks/{path_part(task, 'ID')}/heartbeat"
    answer = call(settings(config, port), lambda session: session.post(path, "tasks:open", {}))
    timeout = answer["idle_timeout"]
    text = "It has no idle time-out." if timeout is None else f"It is heard of until {timeout} seconds from now."
    show(answer, f"Heard of {answer['id']}. {text}", as_json=as_json)


def _scopes(own: str, any_ones: str, operator: bool) -> str:
    """Return the scopes for one's own tasks, or for those of any agent: no more than is needed."""
    return f"{any_ones} {own}" if operator else own


def _pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """Return what ``NAME=VALUE`` options name. Raises ``Failure`` if one is malformed or given twice."""
    pairs: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.rpartition("=") if option == "--scope" else text.partition("=")
        if not (name and equals and value):
            raise unusable(f"{option}: write NAME=VALUE, with something on both sides")
        if name in pairs:
            raise unusable(f"{option}: a name is given twice")
        pairs[name] = value
    return pairs


def _budget(given: dict[str, str]) -> dict[str, Any]:
    counts = {name: _count(value) for name, value in given.items()}
    actions = {name: count for name, count in counts.items() if name not in {TOKENS, LEASES}}
    return {name: counts[name] for name in (TOKENS, LEASES) if name in counts} | (
        {"actions": actions} if actions else {}
    )


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise unusable("--budget: how many must be a whole number")
    return int(text)


def _facts(title: str, task: dict[str, Any]) -> Facts:
    idle = task["idle_timeout"]
    values: list[tuple[str, object]] = [
        ("purpose", _purpose(task)),
        ("state", task["state"]),
        ("owner", task["owner"]),
        ("role", task["role"]),
        ("opened", task["opened_at"]),
        ("deadline", task["deadline"]),
        ("closed", task["closed_at"]),
        ("idle time-out", None if idle is None else f"{idle} s; last heard of {task['heard_at']}"),
        ("part of", task["parent"]),
        ("tasks below", task.get("tasks_below")),
        ("scopes", task["scopes"] or "what the role allows"),
        ("secrets", task["secrets"] or "what the role allows"),
        *_balances(task["budget"]),
        ("labels", task["labels"] or None),
    ]
    return Facts(title, values)


def _balances(budget: dict[str, Any]) -> list[tuple[str, object]]:
    named = {TOKENS: budget["tokens"], LEASES: budget["leases"], **(budget["actions"] or {})}
    told: list[tuple[str, object]] = [(name, _left(balance)) for name, balance in named.items() if balance is not None]
    return told if budget["actions"] is None or budget["actions"] else [*told, ("actions", "none")]


def _left(balance: dict[str, int]) -> str:
    reserved = f", {balance['reserved']} reserved below" if balance["reserved"] else ""
    return f"{balance['left']} of {balance['limit']} left ({balance['used']} used{reserved})"


def _purpose(task: dict[str, Any]) -> str:
    return (FLAG if task["flagged"] else "") + str(task["purpose"])


def _ended(task: dict[str, Any]) -> Facts:
    revocation = task["revocation"]
    values: list[tuple[str, object]] = [("purpose", _purpose(task)), ("state", task["state"])]
    if revocation is None:
        values.append(("ended", "nothing was alive in it"))
    else:
        hits = revocation["hits"]
        values.append(("ended", "not counted yet" if hits is None else f"{hits['tokens']:,} tokens"))
        values += [("rule", revocation["rule"] or revocation["id"]), ("durable", revocation["durable"])]
    return Facts(f"Closed {task['id']}", values)
