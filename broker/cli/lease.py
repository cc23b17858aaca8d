"""``broker lease``: agents take leased secrets, renew them, give them back, and see which they have."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from broker.cli.agent_options import Agent, AgentKey, AgentName, Dpop, DpopKeyFile, Wait, agent_of
from broker.cli.keyfile import write_new
from broker.cli.lease_variables import delivery, variables
from broker.cli.options import ConfigFile, IssuerUrl, Json, Port, issuer_of
from broker.cli.outcome import unusable
from broker.cli.output import Facts, Table, note, show, show_secret, to_json
from broker.cli.session import Session, path_part
from broker.client import LeasedSecret
from broker.core.lifetime import parse_duration

app = typer.Typer(help="Leased secrets, for agents.", no_args_is_help=True)

DEFAULT_WAIT: Final = 10
"""Seconds that ``return`` waits for the backend's word."""

MAX_WAIT: Final = 25
_COLUMNS: Final = ("id", "secret", "state", "expires", "task", "because")

Ttl = Annotated[
    str | None, typer.Option("--ttl", metavar="5m", help="How long it lasts unless it is renewed; else the longest.")
]
LeaseTask = Annotated[str | None, typer.Option("--task", metavar="ID", help="The task that the lease belongs to.")]
_Id = Annotated[str, typer.Argument(metavar="ID", help="The lease, as told by: broker lease list")]


@app.command("take")
def take(
    secret: Annotated[str, typer.Argument(metavar="SECRET[=ENVVAR]", help="The secret, as the policy names it.")],
    *,
    agent: AgentName,
    key: AgentKey,
    task: LeaseTask = None,
    ttl: Ttl = None,
    encrypted: Annotated[bool, typer.Option("--encrypted", help="Have it come encrypted to a fresh key.")] = False,
    env: Annotated[bool, typer.Option("--env", help="Print it as shell commands that set variables.")] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it to a new file (0600).")] = None,
    break_glass: Annotated[
        str | None, typer.Option("--break-glass", metavar="REASON", help="Go ahead without the approval it needs.")
    ] = None,
    auth_req_id: Annotated[
        str | None,
        typer.Option("--auth-req-id", metavar="ID", help="Go on with this request, which people were asked about."),
    ] = None,
    wait: Wait = 600,
    dpop: Dpop = False,
    dpop_key: DpopKeyFile = None,
    issuer_url: IssuerUrl = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Take a lease and print the secret: a JSON object; with --json the whole answer. It is not renewed."""
    form = _Form(as_json=as_json, env=env, out=out)
    form.check()
    if encrypted and auth_req_id is not None:
        raise unusable("--auth-req-id: people agreed to the key of the process that asked, so that only it can go on")
    into = delivery("SECRET", secret)
    who = agent_of(issuer_of(issuer_url, config, port), agent, key, wait, dpop=dpop, dpop_key=dpop_key)

    async def run() -> None:
        async with who.client() as client:
            leased = client.lease(
                into.secret,
                task=task,
                ttl=_duration(ttl),
                encrypted=encrypted,
                break_glass=break_glass,
                auth_req_id=auth_req_id,
            )
            await leased.take()
            try:
                form.deliver(leased, into.variable)
            except BaseException:
                await leased.give_back()  # nobody has the secret, or not all of it
                raise

    asyncio.run(run())


@app.command("renew")
def renew(
    lease: _Id,
    *,
    agent: AgentName,
    key: AgentKey,
    task: LeaseTask = None,
    ttl: Ttl = None,
    wait: Wait = 600,
    dpop: Dpop = False,
    dpop_key: DpopKeyFile = None,
    issuer_url: IssuerUrl = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Let a lease go on, as far as its tier, its task and its backend allow."""
    path = f"/v1/leases/{path_part(lease, 'ID')}/renew"
    seconds = _duration(ttl)
    body = {} if seconds is None else {"ttl": seconds}
    who = agent_of(issuer_of(issuer_url, config, port), agent, key, wait, dpop=dpop, dpop_key=dpop_key)
    answer = _call(who, task, lambda session: session.post(path, "leases:take", body))
    until = "until its backend ends it" if answer["expires_at"] is None else f"until {answer['expires_at']}"
    show(answer, f"{answer['lease_id']} goes on {until}.", as_json=as_json)


@app.command("return")
def give_back(
    lease: _Id,
    *,
    agent: AgentName,
    key: AgentKey,
    task: LeaseTask = None,
    confirm_within: Annotated[
        int,
        typer.Option(
            "--confirm-within", metavar="SECONDS", help="How long to wait for the backend.", min=0, max=MAX_WAIT
        ),
    ] = DEFAULT_WAIT,
    wait: Wait = 600,
    dpop: Dpop = False,
    dpop_key: DpopKeyFile = None,
    issuer_url: IssuerUrl = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Give a lease back: its secret is ended, if its backend can do that. Once more is no error."""
    path = f"/v1/leases/{path_part(lease, 'ID')}"
    who = agent_of(issuer_of(issuer_url, config, port), agent, key, wait, dpop=dpop, dpop_key=dpop_key)
    answer = _call(who, task, lambda session: session.delete(path, "leases:take", wait=confirm_within))
    show(answer, ended_parts(answer), as_json=as_json)


@app.command("list")
def index(
    *,
    agent: AgentName,
    key: AgentKey,
    task: LeaseTask = None,
    state: Annotated[str | None, typer.Option(metavar="STATE", help="live, retrying, revoked, …; else all.")] = None,
    secret: Annotated[str | None, typer.Option(metavar="NAME", help="Only leases of this secret.")] = None,
    wait: Wait = 600,
    dpop: Dpop = False,
    dpop_key: DpopKeyFile = None,
    issuer_url: IssuerUrl = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """List the agent's own leases, the youngest first: 100 at most."""
    who = agent_of(issuer_of(issuer_url, config, port), agent, key, wait, dpop=dpop, dpop_key=dpop_key)
    query = {"task": task, "state": state, "secret": secret}
    answer = _call(who, task, lambda session: session.get("/v1/leases", "leases:read", **query))
    rows = [
        (each["lease_id"], each["secret"], each["state"], each["expires_at"], each["task"], each["because"])
        for each in answer["leases"]
    ]
    more = () if answer["next"] is None else ("There are more: name a task, a state or a secret.",)
    show(answer, Table(_COLUMNS, rows, "There are no such leases."), *more, as_json=as_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """How a secret is handed to whoever asked for it."""

    as_json: bool
    env: bool
    out: Path | None

    def check(self) -> None:
        """Raise ``Failure`` if it makes no sense, before anything is taken."""
        if self.env + (self.out is not None) + self.as_json > 1:
            raise unusable("--env, --out, --json: one at most")
        if self.out is not None and self.out.exists():
            raise unusable(f"--out: {self.out} is there already", "file_unusable")

    def deliver(self, leased: LeasedSecret, variable: str) -> None:
        """Print the secret, or write it to its file, and say which lease it is. Raises ``Failure``."""
        data, told = dict(leased.data), _told(leased)
        if self.as_json:
            show({**told, "data": data}, as_json=True)
            return
        if self.env:
            for name, value in variables(variable, data).items():
                show_secret(f"export {name}={shlex.quote(value)}")
        elif self.out is not None:
            write_new(self.out, to_json(data).encode() + b"\n")
        else:
            show_secret(to_json(data))
        until = "until its backend ends it" if told["expires_at"] is None else f"until {told['expires_at']}"
        note(f"{leased.id} of {leased.secret}, {until}. Give it back:  broker lease return {leased.id}")


def ended_parts(lease: dict[str, Any]) -> Facts:
    """Say what has become of a lease that should be dead."""
    values = [
        ("secret", lease["secret"]),
        ("because", lease["because"]),
        ("ended", lease["ended_at"]),
        ("confirmed", lease["settled_at"]),
        ("good until", lease["good_until"] if lease["state"] != "revoked" else None),
        ("attempts", lease["attempts"] or None),
        ("next attempt", lease["next_attempt_at"]),
        ("last error", lease["last_error"]),
        ("note", lease["note"]),
    ]
    return Facts(f"{lease['lease_id']}: {lease['state']}", values)


def _call(who: Agent, task: str | None, work: Callable[[Session], Awaitable[Any]]) -> Any:  # noqa: ANN401 - JSON
    async def run() -> Any:  # noqa: ANN401 - JSON
        async with who.session(task) as session:
            return await work(session)

    return asyncio.run(run())


def _duration(ttl: str | None) -> int | None:
    return None if ttl is None else parse_duration(ttl, "--ttl")


def _told(leased: LeasedSecret) -> dict[str, Any]:
    """Return what there is to say about a lease, without its secret."""
    moment = leased.expires_at
    return {
        "lease_id": leased.id,
        "secret": leased.secret,
        "task": leased.task,
        "expires_at": None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}",
        "renewable": leased.renewable,
        "revocable": leased.revocable,
    }
