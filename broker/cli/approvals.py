"""``broker approvals``: what agents wait for, and what people say to it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import typer

from broker.cli.options import ConfigFile, Json, Port, settings
from broker.cli.output import Facts, Part, Table, show, to_json
from broker.cli.session import Session, call, path_part
from broker.cli.task import FLAG

app = typer.Typer(help="Requests that people decide on, and their decisions.", no_args_is_help=True)

LOOK_SECONDS: Final = 2.0
"""How often ``watch`` looks for new requests."""

_COLUMNS: Final = ("id", "state", "agent", "asks for", "until", "approvers")
_WHAT: Final = {
    "token": "a token",
    "lease": "a leased secret",
    "budget": "more budget for a task",
    "break_glass": "nothing: it took a token without asking",
}

_Id = Annotated[str, typer.Argument(metavar="ID", help="The request, as told by: broker approvals list")]
_Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; it is recorded.")]


@app.command("list")
def list_requests(
    *,
    state: Annotated[str, typer.Option(metavar="STATE", help="pending, unreviewed, approved, …, or all.")] = "pending",
    limit: Annotated[int, typer.Option(metavar="N", help="How many at most.", min=1, max=1000)] = 100,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """List requests, the youngest first."""
    answer = call(settings(config, port), lambda session: _listed(session, state, limit))
    rows = [_row(request) for request in answer["approvals"]]
    show(answer, Table(_COLUMNS, rows, f"There are no requests: {state}."), as_json=as_json)


@app.command("watch")
def watch_requests(*, config: ConfigFile = None, port: Port = None, as_json: Json = False) -> None:
    """Print each pending request once, the new ones as they come, until interrupted."""

    async def work(session: Session) -> None:
        seen: set[str] = set()
        while True:
            found = (await _listed(session, "pending", 1000))["approvals"]
            for request in reversed([one for one in found if one["id"] not in seen]):
                if as_json:
                    print(to_json(request), flush=True)  # a line for each
                else:
                    show(request, *_parts(request), as_json=False)
            seen = {request["id"] for request in found}
            await asyncio.sleep(LOOK_SECONDS)

    call(settings(config, port), work)


@app.command("show")
def show_request(request: _Id, config: ConfigFile = None, port: Port = None, as_json: Json = False) -> None:
    """Show a request, the task it is for, and what the agent did before."""
    path = f"/v1/approvals/{path_part(request, 'ID')}"
    answer = call(settings(config, port), lambda session: session.get(path, "approvals:read"))
    show(answer, *_parts(answer), *_context(answer), as_json=as_json)


@app.command("approve")
def approve(
    request: _Id, *, reason: _Reason, config: ConfigFile = None, port: Port = None, as_json: Json = False
) -> None:
    """Agree to exactly this request, once."""
    _decide(request, "approve", reason, config, port, as_json=as_json)


@app.command("deny")
def deny(request: _Id, *, reason: _Reason, config: ConfigFile = None, port: Port = None, as_json: Json = False) -> None:
    """Refuse a request, whoever else agreed to it."""
    _decide(request, "deny", reason, config, port, as_json=as_json)


@app.command("review")
def review(
    request: _Id, *, reason: _Reason, config: ConfigFile = None, port: Port = None, as_json: Json = False
) -> None:
    """Say that you looked at a token that was taken without asking, and what you found."""
    _decide(request, "review", reason, config, port, as_json=as_json)


def _decide(request: str, decision: str, reason: str, config: ConfigFile, port: Port, *, as_json: bool) -> None:
    path = f"/v1/approvals/{path_part(request, 'ID')}"
    body = {"decision": decision, "reason": reason}
    answer = call(settings(config, port), lambda session: session.post(path, "approvals:decide", body))
    agreed = sum(1 for vote in answer["votes"] if vote["approve"])
    told = f"{answer['state']}, {agreed} of {answer['quorum']} agreed"
    show(answer, Facts(f"Request {answer['id']}: {told}", [("agent", answer["agent"])]), as_json=as_json)


async def _listed(session: Session, state: str, limit: int) -> dict[str, Any]:
    found: dict[str, Any] = await session.get("/v1/approvals", "approvals:read", state=state, limit=limit)
    return found


def _row(request: dict[str, Any]) -> tuple[object, ...]:
    asked = _asked(request)
    flag = FLAG if request["flagged"] else ""
    return (
        request["id"],
        request["state"],
        request["agent"],
        f"{flag}{asked}",
        request["expires_at"],
        f"{request['quorum']} of {request['approvers']}",
    )


def _asked(request: dict[str, Any]) -> str:
    """Say in a few words what is asked for."""
    asked, lifts = request["asked"], request["lifts"]
    if lifts is not None:
        return f"{lifts['count']} more {lifts['resource']} in task {request['task']}"
    if "secret" in asked:
        return f"the secret {asked['secret']}"
    return f"{' '.join(asked.get('scopes', ()))} at {asked.get('audience', '-')}"


def _parts(request: dict[str, Any]) -> list[Part]:
    """Say what somebody needs to decide, in plain words; what comes from outside is marked as such."""
    flagged = request["flagged"]
    values: list[tuple[str, object]] = [
        ("asks for", _WHAT.get(request["kind"], request["kind"])),
        ("what", _asked(request)),
        ("in detail", request["asked"].get("details")),
        ("agent", request["agent"]),
        ("vouched for by", request["issuer"]),
        ("role", request["role"]),
        ("tier", request["tier"]),
        ("handed on through", " > ".join(request["chain"]) or None),
        ("task", request["task"]),
        ("task of", request["task_owner"]),
        ("purpose (its words)", _quoted(request["purpose"], flag="purpose" in flagged)),
        ("reason (its words)", _quoted(request["reason"], flag="reason" in flagged)),
        ("approvers", f"{request['quorum']} of the role {request['approvers']}"),
        ("decide until", request["expires_at"]),
    ]
    decided = [
        f"{vote['approver']}: {'yes' if vote['approve'] else 'no'}, {vote['reason']}" for vote in request["votes"]
    ]
    values.append(("said so far", "; ".join(decided) or None))
    return [Facts(f"Request {request['id']}: {request['state']}", values)]


def _quoted(text: str | None, *, flag: bool) -> str | None:
    return None if text is None else f"{FLAG if flag else ''}“{text}”"


def _context(answer: dict[str, Any]) -> list[Part]:
    task = answer["task_state"]
    parts: list[Part] = []
    if task is not None:
        values = [("ends", task["deadline"]), ("left", task["left"]), ("labels", task["labels"] or None)]
        parts.append(Facts("Its task", values))
    columns = ("entry", "what", "about")
    rows = [
        (
            one["seq"],
            one["kind"],
            " ".join(str(one[name]) for name in ("scope", "audience", "code", "reason") if name in one),
        )
        for one in answer["before"]
    ]
    parts.append("What this agent did before:")
    parts.append(Table(columns, rows, "Nothing of late."))
    return parts
