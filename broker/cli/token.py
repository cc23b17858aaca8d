"""``broker token``: get a token the way an agent does."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from broker.cli.keyfile import create_private_key, load_private_key
from broker.cli.options import ConfigFile, IssuerUrl, Json, Port, issuer_of
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.output import note, show, show_secret
from broker.cli.session import PATIENCE, is_sign_in_failure, unreachable
from broker.client import Client, DpopKey, KeyIdentity, Token, TokenPending, TokenRefused, TokenUnavailable
from broker.core.errors import Code, Malformed
from broker.outbound import Outbound

MAX_TOKEN: Final = 16 * 1024


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
    subject = None if exchange is None else _read_token(exchange)
    client = Client(
        issuer, identity=identity, dpop=bound_to, patience=PATIENCE, approval_seconds=wait, on_pending=_tell_pending
    )
    more = {"details": details, "may_act": may_act, "break_glass": break_glass, "subject_token": subject}
    token = asyncio.run(_token(client, audience, scope or [], task, more))
    if as_json:
        show(_answer(token), as_json=True)
    else:
        show_secret(token.access_token)


def _read_token(path: Path) -> str:
    try:
        text = sys.stdin.read(MAX_TOKEN) if str(path) == "-" else path.read_text()[:MAX_TOKEN]
    except (OSError, UnicodeDecodeError) as error:
        raise unusable(f"--exchange: {path} cannot be read") from error
    return text.strip()


def _tell_pending(auth_req_id: str, expires_in: int) -> None:
    note(f"A person has to decide within {expires_in} s:  broker approvals show {auth_req_id}")


async def _token(
    client: Client, audience: str, scopes: list[str], task: str | None, more: dict[str, str | None]
) -> Token:
    async with client, Outbound() as http:
        try:
            return await client.token(audience, scopes, task, **more)
        except TokenRefused as refused:
            failed = is_sign_in_failure(refused)
            exit_code = ExitCode.NOT_AUTHORISED if failed else ExitCode.REFUSED
            raise Failure(exit_code, refused.code.value, refused.description, refusal=refused.refusal) from refused
        except TokenPending as pending:
            raise Failure(ExitCode.UNAVAILABLE, Code.AUTHORIZATION_PENDING.value, pending.public) from pending
        except TokenUnavailable as error:
            raise await unreachable(client.issuer, http, error) from error


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
    """Return the token endpoint's answer (RFC 6749, 5.1)."""
    return {
        "access_token": token.access_token,
        "token_type": token.token_type,
        "expires_in": token.expires_in,
        "scope": " ".join(token.scopes),
    }
