"""``broker leases``: operators see every lease, and see to those that could not be revoked."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from broker.cli.lease import ended_parts
from broker.cli.options import ConfigFile, Json, Port, settings
from broker.cli.output import Facts, Table, show
from broker.cli.session import call, path_part

app = typer.Typer(help="All leases, for operators.", no_args_is_help=True)

_READ: Final = "operator:read leases:read"
_WRITE: Final = "revocations:write"
_COLUMNS: Final = ("id", "state", "agent", "secret", "backend", "expires", "attempts", "last error")

_Id = Annotated[str, typer.Argument(metavar="ID", help="The lease, as told by: broker leases list")]
_Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; it is recorded.")]


@app.command("list")
def index(
    *,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="live, retrying, stuck, revoked, …; without it, all.")
    ] = None,
    agent: Annotated[str | None, typer.Option(metavar="ID", help="Only leases of this agent.")] = None,
    task: Annotated[str | None, typer.Option(metavar="ID", help="Only leases of this task and those below it.")] = None,
    secret: Annotated[str | None, typer.Option(metavar="NAME", help="Only leases of this secret.")] = None,
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="Only leases from this backend.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", help="How many at most.", min=1, max=1000)] = 100,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """List leases, the youngest first."""
    query = {"state": state, "agent": agent, "task": task, "secret": secret, "backend": backend, "limit": limit}
    answer = call(settings(config, port), lambda session: session.get("/v1/leases", _READ, **query))
    rows = [
        (
            lease["lease_id"],
            _state(lease),
            lease["agent"],
            lease["secret"],
            lease["backend"],
            lease["expires_at"],
            lease["attempts"] or None,
            lease["last_error"],
        )
        for lease in answer["leases"]
    ]
    more = () if answer["next"] is None else ("There are more: name what they have in common, or a higher --limit.",)
    show(answer, Table(_COLUMNS, rows, "There are no such leases."), *more, as_json=as_json)


@app.command("show")
def show_lease(lease: _Id, config: ConfigFile = None, port: Port = None, as_json: Json = False) -> None:
    """Show one lease: who holds it, from where, and what became of it."""
    path = f"/v1/leases/{path_part(lease, 'ID')}"
    answer = call(settings(config, port), lambda session: session.get(path, _READ))
    show(answer, _whole(answer), as_json=as_json)


@app.command("retry")
def retry(lease: _Id, config: ConfigFile = None, port: Port = None, as_json: Json = False) -> None:
    """Try again to revoke a lease, from the beginning, once what was in the way is gone."""
    path = f"/v1/leases/{path_part(lease, 'ID')}/retry"
    answer = call(settings(config, port), lambda session: session.post(path, _WRITE, {}))
    show(answer, ended_parts(answer), as_json=as_json)


@app.command("abandon")
def abandon(
    lease: _Id, *, reason: _Reason, config: ConfigFile = None, port: Port = None, as_json: Json = False
) -> None:
    """Give up revoking a lease: somebody has ended the secret by other means, or it does not matter."""
    path = f"/v1/leases/{path_part(lease, 'ID')}/abandon"
    answer = call(settings(config, port), lambda session: session.post(path, _WRITE, {"reason": reason}))
    show(answer, ended_parts(answer), as_json=as_json)


@app.command("revoke-prefix")
def revoke_prefix(
    backend: Annotated[str, typer.Argument(metavar="BACKEND", help="The backend, as in the settings.")],
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="A path of it, such as database/creds/orders-ro.")],
    *,
    reason: _Reason,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """End everything below a path of a Vault or OpenBao, whoever took it there."""
    body = {"backend": backend, "prefix": prefix, "reason": reason}
    path = "/v1/leases/revoke-prefix"
    answer = call(settings(config, port), lambda session: session.post(path, _WRITE, body))
    told = f"Everything below {prefix} of {backend} is ended, {answer['leases']:,} leases of the broker's among it."
    show(answer, told, as_json=as_json)


@app.command("confirm")
def confirm(*, reason: _Reason, config: ConfigFile = None, port: Port = None, as_json: Json = False) -> None:
    """Let leases be revoked that are held since an older ledger was restored."""
    call(settings(config, port), lambda session: session.post("/v1/leases/confirm", _WRITE, {"reason": reason}))
    show({"confirmed": True}, "Leases that were held are revoked from now on.", as_json=as_json)


def _state(lease: dict[str, Any]) -> str:
    return f"{lease['state']} (held)" if lease["held"] else str(lease["state"])


def _whole(lease: dict[str, Any]) -> Facts:
    values = [
        ("secret", lease["secret"]),
        ("backend", lease["backend"]),
        ("tier", lease["tier"]),
        ("agent", lease["agent"]),
        ("on behalf of", lease["on_behalf_of"] if lease["on_behalf_of"] != lease["agent"] else None),
        ("role", lease["role"]),
        ("task", lease["task"]),
        ("taken", lease["taken_at"]),
        ("expires", lease["expires_at"]),
        ("ends at the latest", lease["ends_by"]),
        ("its backend", "can end it" if lease["revocable"] else "cannot end it before it expires"),
        ("rule", lease["rule"]),
        *ended_parts(lease).values[1:],
    ]
    return Facts(f"Lease {lease['lease_id']}: {_state(lease)}", values)
