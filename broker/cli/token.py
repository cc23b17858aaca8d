"""``broker token``: get a token the way an agent does."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Final, TypedDict

import typer

from broker.cli.agent_options import Agent, AgentKey, AgentName, Dpop, DpopKeyFile, Wait, agent_of
from broker.cli.options import ConfigFile, IssuerUrl, Json, Port, issuer_of
from broker.cli.outcome import unusable
from broker.cli.output import show, show_secret
from broker.client import Token
from broker.client.token import ACCESS_TOKEN_TYPE, JWT_TYPE, SubjectTokenType

MAX_TOKEN: Final = 16 * 1024
_TOKEN: Final = re.compile(r"[!-~]+")


class _Wish(TypedDict):
    """What the options ask for, as the client takes it."""

    audience: str
    scopes: list[str]
    task: str | None
    details: list[dict[str, Any]] | None
    may_act: str | None
    break_glass: str | None
    auth_req_id: str | None


def command(
    *,
    agent: AgentName,
    key: AgentKey,
    audience: Annotated[
        str | None,
        typer.Option("--audience", metavar="URL", help="The resource that the token is for; broker for the API."),
    ] = None,
    identity_token: Annotated[
        str | None,
        typer.Option("--identity-token", metavar="AUDIENCE", help="Instead: prove who the agent is, to AWS or Vault."),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="S", help="A scope; may be given more than once. Without: the default ones."),
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="ID", help="The task that the token belongs to.")] = None,
    exchange: Annotated[
        Path | None,
        typer.Option("--exchange", metavar="FILE", help="Get a part of the token in this file; - reads it."),
    ] = None,
    exchange_type: Annotated[
        SubjectTokenType | None,
        typer.Option("--exchange-type", help="What that is, if not the broker's own: an ID token of a person, say."),
    ] = None,
    details: Annotated[
        str | None, typer.Option("--details", metavar="JSON", help="Authorization details (RFC 9396).")
    ] = None,
    may_act: Annotated[
        str | None, typer.Option("--may-act", metavar="AGENT", help="The only agent it may be handed on to.")
    ] = None,
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
    """Get a token as an agent, and print it; with --json the whole answer."""
    issuer = issuer_of(issuer_url, config, port)
    who = agent_of(issuer, agent, key, wait, dpop=dpop, dpop_key=dpop_key)
    subject = None if exchange is None else _subject(exchange)
    if exchange is None and exchange_type is not None:
        raise unusable("--exchange-type: says what --exchange names")
    if audience is None or identity_token is not None:
        others = (audience, scope, exchange_type, details, may_act, break_glass, auth_req_id)
        token = asyncio.run(_obtain_identity(who, _identity_audience(identity_token, others), task, subject))
        _print(token, as_json=as_json)
        return
    audience = f"{issuer}/v1" if audience == "broker" else audience
    wish = _Wish(
        audience=audience,
        scopes=scope or [],
        task=task,
        details=None if details is None else _details(details),
        may_act=may_act,
        break_glass=break_glass,
        auth_req_id=auth_req_id,
    )
    _print(asyncio.run(_obtain(who, wish, subject, exchange_type or "access_token")), as_json=as_json)


def _print(token: Token, *, as_json: bool) -> None:
    if as_json:
        show(_answer(token), as_json=True)
    else:
        show_secret(token.access_token)


async def _obtain(who: Agent, wish: _Wish, subject: str | None, subject_type: SubjectTokenType) -> Token:
    async with who.client() as client:
        if subject is None:
            return await client.token(**wish)
        return await client.exchange(subject, subject_token_type=subject_type, **wish)


async def _obtain_identity(who: Agent, audience: str, task: str | None, subject: str | None) -> Token:
    async with who.client() as client:
        return await client.identity_token(audience, task, subject_token=subject)


def _identity_audience(audience: str | None, others: tuple[object, ...]) -> str:
    """Return whom an identity token is for. Raises ``Failure`` if there is none, or besides what it cannot have."""
    if audience is None:
        raise unusable("name either --audience or --identity-token")
    if any(each is not None for each in others):
        raise unusable("--identity-token goes with --task and --exchange only, and with what says who acts")
    return audience


def _subject(path: Path) -> str:
    """Read the token to be exchanged. Raises ``Failure`` for what cannot be one."""
    try:
        if str(path) == "-":
            text = sys.stdin.read(MAX_TOKEN + 1)
        else:
            with path.open(encoding="ascii") as file:
                text = file.read(MAX_TOKEN + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise unusable(f"--exchange: {path} cannot be read as a token") from error
    token = text.strip()
    if len(text) > MAX_TOKEN or _TOKEN.fullmatch(token) is None:
        raise unusable(f"--exchange: {path} does not hold a token, and nothing else")
    return token


def _details(text: str) -> list[dict[str, Any]]:
    """Read authorization details; what they may hold is the broker's to say. Raises ``Failure`` for no JSON at all."""
    try:
        elements = json.loads(text)
    except ValueError as error:
        raise unusable("--details: is not JSON") from error
    if not isinstance(elements, list) or not all(isinstance(element, dict) for element in elements):
        raise unusable("--details: must be a JSON array of objects")
    return elements


def _answer(token: Token) -> dict[str, Any]:
    """Return the token endpoint's answer (RFC 6749, 5.1; RFC 8693, 2.2.1; RFC 9396, 7)."""
    answer: dict[str, Any] = {
        "access_token": token.access_token,
        "token_type": token.token_type,
        "expires_in": token.expires_in,
    }
    if not token.want.identity:
        answer["scope"] = " ".join(token.scopes)
    if token.details:
        answer["authorization_details"] = list(token.details)
    if token.ledger_index is not None:
        answer["ledger_index"] = token.ledger_index
    if token.want.subject is not None:
        answer["issued_token_type"] = JWT_TYPE if token.want.identity else ACCESS_TOKEN_TYPE
    return answer
