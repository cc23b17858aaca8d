"""``broker token``: get a token the way an agent does."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Final, TypedDict

import typer
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from broker.cli.keyfile import create_private_key, load_private_key
from broker.cli.options import ConfigFile, IssuerUrl, Json, Port, issuer_of
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.output import show, show_secret
from broker.cli.session import PATIENCE, is_sign_in_failure, tell_pending, unreachable
from broker.client import Client, DpopKey, KeyIdentity, Token, TokenPending, TokenRefused, TokenUnavailable
from broker.client.answers import ACCESS_TOKEN_TYPE
from broker.core.errors import Code, Malformed
from broker.outbound import Outbound

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
    agent: Annotated[str, typer.Option("--agent", metavar="NAME", help="The registered agent.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The agent's private key (PEM).")],
    audience: Annotated[
        str, typer.Option("--audience", metavar="URL", help="The resource that the token is for; broker for the API.")
    ],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="S", help="A scope; may be given more than once. Without: the default ones."),
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="ID", help="The task that the token belongs to.")] = None,
    exchange: Annotated[
        Path | None,
        typer.Option("--exchange", metavar="FILE", help="Get a part of the token in this file; - reads it."),
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
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", help="How long to wait for a person's approval.", min=0)
    ] = 600,
    dpop: Annotated[bool, typer.Option("--dpop", help="Bind the token to a key: --dpop-key, else --key.")] = False,
    dpop_key: Annotated[
        Path | None,
        typer.Option("--dpop-key", metavar="FILE", help="The key to bind to (PEM, P-256); made if it is not there."),
    ] = None,
    issuer_url: IssuerUrl = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Get a token as an agent, and print it; with --json the whole answer."""
    issuer = issuer_of(issuer_url, config, port)
    identity = KeyIdentity(agent, load_private_key(key))
    bound_to = _dpop_key(dpop_key, key) if dpop or dpop_key is not None else False
    audience = f"{issuer}/v1" if audience == "broker" else audience
    subject = None if exchange is None else _subject(exchange)
    client = Client(
        issuer, identity=identity, dpop=bound_to, patience=PATIENCE, approval_seconds=wait, on_pending=tell_pending
    )
    wish = _Wish(
        audience=audience,
        scopes=scope or [],
        task=task,
        details=None if details is None else _details(details),
        may_act=may_act,
        break_glass=break_glass,
        auth_req_id=auth_req_id,
    )
    token = asyncio.run(_obtain(client, wish, subject))
    if as_json:
        show(_answer(token), as_json=True)
    else:
        show_secret(token.access_token)


async def _obtain(client: Client, wish: _Wish, subject: str | None) -> Token:
    async with client, Outbound() as http:
        try:
            if subject is None:
                return await client.token(**wish)
            return await client.exchange(subject, **wish)
        except TokenRefused as refused:
            failed = is_sign_in_failure(refused)
            exit_code = ExitCode.NOT_AUTHORISED if failed else ExitCode.REFUSED
            raise Failure(exit_code, refused.code.value, refused.description, refusal=refused.refusal) from refused
        except TokenPending as pending:
            code, text = Code.AUTHORIZATION_PENDING.value, pending.public
            raise Failure(ExitCode.PENDING, code, text, auth_req_id=pending.auth_req_id) from pending
        except TokenUnavailable as error:
            raise await unreachable(client.issuer, http, error) from error


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


def _dpop_key(path: Path | None, own: Path) -> DpopKey:
    if path is None:
        key = load_private_key(own)
    else:
        key = load_private_key(path) if path.exists() else create_private_key(path)
    try:
        if isinstance(key, EllipticCurvePrivateKey):
            return DpopKey(key)
    except Malformed:
        pass
    raise unusable(
        f"{path or own}: a token can be bound to an EC P-256 key only; name one with --dpop-key", "key_unusable"
    )


def _answer(token: Token) -> dict[str, Any]:
    """Return the token endpoint's answer (RFC 6749, 5.1; RFC 8693, 2.2.1; RFC 9396, 7)."""
    answer = {
        "access_token": token.access_token,
        "token_type": token.token_type,
        "expires_in": token.expires_in,
        "scope": " ".join(token.scopes),
    }
    if token.details:
        answer["authorization_details"] = list(token.details)
    if token.want.subject is not None:
        answer["issued_token_type"] = ACCESS_TOKEN_TYPE
    return answer
