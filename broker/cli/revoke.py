"""``broker revoke``: end any set of credentials with one rule."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, Final

import typer

from broker.cli.lease_outcomes import awaited, in_words, progress, unconfirmed
from broker.cli.options import ConfigFile, Json, Port, or_input, settings
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.output import Facts, is_interactive, moment, note, show
from broker.cli.propagation import ahead_in_words, applied_by, refusing, unapplied
from broker.cli.selection import is_whole_token, selector_of, token_id
from broker.cli.session import Session, call, path_part
from broker.config import Config
from broker.core.lifetime import parse_duration
from broker.ids import RandomIds

COUNT_SECONDS: Final = 30.0
"""How long the command waits for the count of what a rule hit. The rule is in force long before."""

ANSWER_SECONDS: Final = 5.0
"""How long the broker is to keep the answer back until everybody has applied the rule. After that it is asked again."""

_PAUSE: Final = 0.2


def command(
    *,
    token: Annotated[str | None, typer.Option(metavar="ID", help="A token's id, or a whole token; - reads it.")] = None,
    agent: Annotated[str | None, typer.Option(metavar="ID", help="An agent, anywhere in a delegation.")] = None,
    task: Annotated[str | None, typer.Option(metavar="ID", help="A task, with all below it.")] = None,
    role: Annotated[str | None, typer.Option(metavar="NAME", help="A role of the policy.")] = None,
    issuer: Annotated[str | None, typer.Option(metavar="NAME", help="Who vouched for the agent.")] = None,
    scope: Annotated[str | None, typer.Option(metavar="S", help="A scope, among others or alone.")] = None,
    audience: Annotated[str | None, typer.Option(metavar="URL", help="A resource; broker for the API.")] = None,
    tier: Annotated[str | None, typer.Option(metavar="NAME", help="A tier of the policy.")] = None,
    key: Annotated[
        str | None, typer.Option(metavar="KID", help="A key: of the broker, or tokens are bound to it.")
    ] = None,
    secret: Annotated[str | None, typer.Option(metavar="NAME", help="Leases of a secret of the policy.")] = None,
    backend: Annotated[str | None, typer.Option(metavar="NAME", help="Leases from a backend.")] = None,
    lease: Annotated[str | None, typer.Option(metavar="ID", help="One lease.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="All credentials of all agents.")] = False,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; it is recorded.")] = None,
    incident: Annotated[str | None, typer.Option(metavar="ID", help="The incident that this belongs to.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Count what would be hit; change nothing.")] = False,
    block: Annotated[bool, typer.Option("--block", help="Refuse new grants as well, until lifted.")] = False,
    block_for: Annotated[str | None, typer.Option("--for", metavar="1h", help="End the block after that.")] = None,
    wait: Annotated[
        float | None,
        typer.Option("--wait", metavar="SECONDS", help="Wait until all have applied it and leases have ended.", min=0),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before --everything.")] = False,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """End credentials at once, whatever they are used for. Options are ANDed: --role R --scope S hits what has both."""
    loaded = settings(config, port)
    token = None if token is None else or_input(token, "--token")
    whole = token is not None and is_whole_token(token)
    named = {"token": "-" if whole else token, "agent": agent, "task": task, "role": role, "issuer": issuer}
    named |= {"scope": scope, "audience": audience, "tier": tier, "key": key}
    named |= {"secret": secret, "backend": backend, "lease": lease}
    selector = selector_of(named, everything=everything, api_audience=loaded.api_audience).to_dict()
    body = _body(reason, incident, _block(block, block_for), preview=preview)
    if preview and wait is not None:
        raise unusable("--wait: a preview ends no leases to wait for")
    if everything and not (preview or yes):
        _ask_first(loaded)

    async def work(session: Session) -> dict[str, Any]:
        began = time.monotonic()
        found = {"token": await token_id(session, token)} if whole and token is not None else {}
        patience = {"wait": min(wait, ANSWER_SECONDS)} if wait else {}
        answer = await revoke(session, {**body, **patience, "selector": {**selector, **found}})
        if wait is None:
            return answer
        with progress(quiet=as_json) as tell:
            return await awaited(session, answer, wait - (time.monotonic() - began), tell)

    answer = call(loaded, work)
    late, left = (None, None) if wait is None else (unapplied(answer["propagation"]), unconfirmed(answer))
    more = [told for told in (late, left) if told is not None]
    show(answer, _summary(answer), *_advice(answer), *more, as_json=as_json)
    if answer["durable"] is False:
        raise typer.Exit(ExitCode.NOT_DURABLE)
    if late is not None:
        raise typer.Exit(ExitCode.NOT_APPLIED)
    if left is not None:
        raise typer.Exit(ExitCode.NOT_CONFIRMED)


def _body(reason: str | None, incident: str | None, block: dict[str, str] | None, *, preview: bool) -> dict[str, Any]:
    if reason is None and not preview:
        raise unusable("--reason: say why; it is recorded (or --preview to change nothing)")
    members = {"reason": reason, "incident": incident, "block": block, "preview": preview or None}
    return {name: value for name, value in members.items() if value is not None}


def _block(block: bool, block_for: str | None) -> dict[str, str] | None:
    if block_for is None:
        return {} if block else None
    if not block:
        raise unusable("--for: goes with --block")
    parse_duration(block_for, "--for")
    return {"for": block_for}


def _ask_first(config: Config) -> None:
    """Ask whoever is at the terminal, for --everything alone: in an incident each question costs time."""
    if not is_interactive():
        return  # a script that says --everything means it
    note(f"This ends every credential of every agent at {config.issuer}.")
    if not typer.confirm("Go on?", err=True):
        raise Failure(ExitCode.REFUSED, "not_confirmed", "nothing was revoked")


async def revoke(session: Session, body: dict[str, Any]) -> dict[str, Any]:
    """Revoke, then wait until what was hit has been counted."""
    key = None if body.get("preview") else RandomIds().new("cli")
    answer: dict[str, Any] = await session.post("/v1/revocations", "revocations:write", body, idempotency_key=key)
    waits = COUNT_SECONDS / _PAUSE
    while answer["counting"] and waits > 0:
        await asyncio.sleep(_PAUSE)
        waits -= 1
        try:
            answer = await session.get(f"/v1/revocations/{path_part(str(answer['rule']), 'rule')}", "operator:read")
        except Failure as failure:
            # The rule is made; whoever may revoke but not look, or loses the connection now, is told just that.
            note(f"not counted: {failure.text}")
            break
    return answer


def _summary(answer: dict[str, Any]) -> Facts:
    hits, block, seen = answer["hits"], answer["block"], answer["propagation"]
    preview = answer.get("preview", False)
    title = "Would be revoked (nothing was changed)" if preview else f"Revoked: rule {answer['rule'] or answer['id']}"
    values: list[tuple[str, object]] = [("covers", _covered(answer["selector"]))]
    if hits is None:
        values.append(("hits", "not counted yet" if answer["durable"] else "not counted"))
    else:
        values += [(name, f"{hits[name]:,}") for name in ("tokens", "tasks", "agents")]
        values.append(("the last would end", hits["latest_expiry"]))
        values += _leases(hits["leases"], answer.get("leases"))
    if block is not None:
        ends = block["until"] or "it is lifted"
        values.append(("new grants", f"refused until {ends}" + (f" (block {block['id']})" if block["id"] else "")))
    values += [("reason", answer["reason"]), ("incident", answer["incident"])]
    if not preview:
        values += [("by", answer["by"]), ("at", moment(answer["at"])), ("durable", answer["durable"])]
    if preview:
        values.append(("has to get to", ahead_in_words(seen)))
    else:
        values += [("applied by", applied_by(seen)), ("refuse everything by themselves", refusing(seen))]
    return Facts(title, values)


def _leases(hits: dict[str, Any], outcomes: dict[str, int] | None) -> list[tuple[str, object]]:
    """Say which leases are hit, what their backends can do about it, and what has become of them so far."""
    count = hits["revocable"] + hits["expires_only"]
    if not count:
        return [("leases", "0")]
    values: list[tuple[str, object]] = [("leases", f"{count:,}, {hits['revocable']:,} of which can be ended")]
    if hits["expires_only"]:
        values.append(("the others expire by", hits["latest_expiry"] or "themselves, or never"))
    if outcomes is not None:
        values.append(("of these so far", in_words(outcomes)))
    return values


def _covered(selector: dict[str, Any]) -> object:
    return "everything" if selector.get("everything") else selector


def _advice(answer: dict[str, Any]) -> list[str]:
    if answer["durable"] is False:
        return [
            "It is in force, but the ledger could not be written: mend it, and the broker writes the rule by itself."
        ]
    if answer["block"] is not None and not answer.get("preview", False):
        return [f"To let them in again:  broker blocks lift {answer['block']['id']}"]
    return []
