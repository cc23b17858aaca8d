"""Options of the commands that agents use, and the client that acts as the agent they name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from broker.cli.keyfile import create_private_key, load_private_key
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.session import PATIENCE, Method, Session, is_sign_in_failure, tell_pending, unreachable
from broker.client import Client, DpopKey, KeyIdentity, LeaseRefused, TokenPending, TokenRefused
from broker.client.leases import ASKING_SECONDS
from broker.core.errors import BrokerError, Code, Malformed
from broker.outbound import Outbound

AgentName = Annotated[str, typer.Option("--agent", metavar="NAME", help="The registered agent.")]
AgentKey = Annotated[Path, typer.Option("--key", metavar="FILE", help="The agent's private key (PEM).")]
Wait = Annotated[
    float, typer.Option("--wait", metavar="SECONDS", help="How long to wait for a person's approval.", min=0)
]
Dpop = Annotated[bool, typer.Option("--dpop", help="Bind the token to a key: --dpop-key, else --key.")]
DpopKeyFile = Annotated[
    Path | None,
    typer.Option("--dpop-key", metavar="FILE", help="The key to bind to (PEM, P-256); made if it is not there."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """Who acts, at which broker. ``bound_to`` is the key that tokens are bound to, if any."""

    issuer: str
    identity: KeyIdentity
    bound_to: DpopKey | None
    wait: float

    @asynccontextmanager
    async def client(self, patience: float = PATIENCE) -> AsyncIterator[Client]:
        """Be ready to act. What the client raises becomes a ``Failure``."""
        made = Client(
            self.issuer,
            identity=self.identity,
            dpop=self.bound_to or False,
            patience=patience,
            approval_seconds=self.wait,
            on_pending=tell_pending,
        )
        async with made as client, Outbound() as http:
            try:
                yield client
            except Malformed:
                raise
            except BrokerError as error:
                raise await _failure(error, self.issuer, http) from error

    @asynccontextmanager
    async def session(self, task: str | None = None) -> AsyncIterator[Session]:
        """Be ready to ask the broker's API, with tokens of a task if it is named."""
        async with self.client() as client, Outbound(total_seconds=ASKING_SECONDS) as http:
            yield _AgentSession(self.issuer, client, http, task)


def agent_of(issuer: str, name: str, key: Path, wait: float, *, dpop: bool, dpop_key: Path | None) -> Agent:
    """Return the agent that the options name. Raises ``Failure`` if its key cannot be used."""
    identity = KeyIdentity(name, load_private_key(key))
    bound_to = _bound_to(dpop_key, key) if dpop or dpop_key is not None else None
    return Agent(issuer=issuer, identity=identity, bound_to=bound_to, wait=wait)


class _AgentSession(Session):
    """Requests as an agent, whose tokens are of a task."""

    def __init__(self, issuer: str, client: Client, http: Outbound, task: str | None) -> None:
        super().__init__(issuer, client, http)
        self._task = task

    async def _sign(self, method: Method, url: str, scope: str) -> dict[str, str]:
        try:
            return await self._client.authorize(method, url, f"{self.issuer}/v1", tuple(scope.split(" ")), self._task)
        except BrokerError as error:
            raise await _failure(error, self.issuer, self._http) from error


async def _failure(error: BrokerError, issuer: str, http: Outbound) -> Failure:
    """Return how an agent is told what its client raised."""
    match error:
        case TokenRefused():
            failed = is_sign_in_failure(error)
            exit_code = ExitCode.NOT_AUTHORISED if failed else ExitCode.REFUSED
            return Failure(exit_code, error.code.value, error.description, refusal=error.refusal)
        case TokenPending():
            code = Code.AUTHORIZATION_PENDING.value
            return Failure(ExitCode.PENDING, code, error.public, auth_req_id=error.auth_req_id)
        case LeaseRefused():
            later = error.status == HTTPStatus.TOO_MANY_REQUESTS or error.code is Code.BACKEND_UNAVAILABLE
            exit_code = ExitCode.UNAVAILABLE if later else ExitCode.REFUSED
            return Failure(exit_code, error.code.value, error.description, refusal=error.refusal)
        case _:
            return await unreachable(issuer, http, error)


def _bound_to(path: Path | None, own: Path) -> DpopKey:
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
