"""The operator's session: requests to a running broker's API, signed in as the operator of the settings."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

from broker.cli.keyfile import load_private_key
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.output import note
from broker.client import Client, KeyIdentity, TokenPending, TokenRefused, TokenUnavailable
from broker.config import Config
from broker.core.errors import BrokerError, Code
from broker.outbound import Outbound, Reply, destination_of

PATIENCE: Final = 2.0
"""Seconds that signing in may take, with all attempts: whoever types a command in an incident waits for it."""

MAX_ANSWER: Final = 17 * 1024 * 1024
"""Bytes of an answer: room for a bundle of 256 entries of the longest kind."""

JSON: Final = {"Content-Type": "application/json"}
ATTEMPTS: Final = 3
"""How often a request that may be repeated is sent, if there is no answer."""

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
_FAILED_SIGN_IN: Final = frozenset(
    {
        Code.CLIENT_AUTHENTICATION_MISSING,
        Code.CLIENT_AUTHENTICATION_FAILED,
        Code.CLIENT_AUTHENTICATION_AMBIGUOUS,
        Code.ASSERTION_INVALID,
        Code.ASSERTION_REPLAYED,
    }
)

T = TypeVar("T")


class Method(StrEnum):
    """What a request does."""

    GET = "GET"
    POST = "POST"
    DELETE = "DELETE"


class Session:
    """Requests to one broker's API as one agent, each with a token for just the scope it needs and proof of its key."""

    def __init__(self, issuer: str, client: Client, http: Outbound) -> None:
        """Use :func:`operator`."""
        self.issuer = issuer
        self._client = client
        self._http = http
        self._destination = destination_of(issuer)

    async def get(self, path: str, scope: str | None, **query: str | int | None) -> Any:  # noqa: ANN401 - JSON
        """Return what a path answers; ``scope`` is None for what is public, or scopes with a space between.

        Raises ``Failure``.
        """
        return answer_of(await self._send(Method.GET, _with_query(path, query), scope, attempts=ATTEMPTS))

    async def text(self, path: str, scope: str) -> str:
        """Return what a path answers that is not JSON. Raises ``Failure``."""
        return (await self.data(path, scope)).decode("utf-8", "replace")

    async def data(self, path: str, scope: str) -> bytes:
        """Return what a path answers, byte for byte. Raises ``Failure``."""
        return (await self._send(Method.GET, path, scope, attempts=ATTEMPTS)).body

    async def post(self, path: str, scope: str, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> Any:  # noqa: ANN401
        """Send a JSON body and return the answer. Raises ``Failure``.

        With an idempotency key, the request is sent again when there is no answer: it cannot be carried out twice.
        """
        if idempotency_key is None:
            return answer_of(await self._send(Method.POST, path, scope, body))
        headers = {"Idempotency-Key": idempotency_key}
        return answer_of(await self._send(Method.POST, path, scope, body, headers, attempts=ATTEMPTS))

    async def delete(self, path: str, scope: str, **query: str | int | None) -> Any:  # noqa: ANN401 - JSON
        """Delete what a path names, and return the answer, None if there is nothing to say. Raises ``Failure``."""
        return answer_of(await self._send(Method.DELETE, _with_query(path, query), scope))

    async def _send(
        self,
        method: Method,
        path: str,
        scope: str | None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        attempts: int = 1,
    ) -> Reply:
        """Return an answer that is not an error; with more than one attempt, ask again when none came."""
        url = self.issuer + path
        while True:
            attempts -= 1
            try:
                signed = {} if scope is None else await self._sign(method, url, scope)
                reply = await self._exchange(method, url, body, {**(headers or {}), **signed})
            except BrokerError as error:
                if attempts > 0:
                    continue
                raise await unreachable(self.issuer, self._http, error) from error
            if reply.status >= HTTPStatus.BAD_REQUEST:
                raise problem_of(reply)
            return reply

    async def _sign(self, method: Method, url: str, scope: str) -> dict[str, str]:
        """Return the headers that authorize one request; a proof of possession is for one request alone."""
        try:
            return await self._client.authorize(method, url, f"{self.issuer}/v1", tuple(scope.split(" ")))
        except TokenRefused as refused:
            raise _not_signed_in(refused) from refused
        except TokenPending as pending:
            raise Failure(ExitCode.PENDING, Code.AUTHORIZATION_PENDING.value, pending.public) from pending
        except TokenUnavailable as error:
            raise await unreachable(self.issuer, self._http, error) from error

    async def _exchange(
        self, method: Method, url: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> Reply:
        match method:
            case Method.GET:
                return await self._http.get(url, self._destination, headers=headers, max_bytes=MAX_ANSWER)
            case Method.DELETE:
                return await self._http.delete(url, self._destination, headers=headers)
            case Method.POST:
                data, headers = json.dumps(body).encode(), {**JSON, **headers}
                return await self._http.post(url, data, self._destination, headers=headers, max_bytes=MAX_ANSWER)


@asynccontextmanager
async def operator(config: Config) -> AsyncIterator[Session]:
    """Be ready to sign in as the operator of the settings. Raises ``Failure`` if its key cannot be used.

    Tokens are bound to a key that lives as long as the session, whether or not the policy demands it. Where a person
    has to agree first, the session waits: what they agree to is bound to its key, so that no later one could use it.
    """
    identity = KeyIdentity(config.operator.agent, load_private_key(Path(config.operator.key)))
    signing_in = Client(config.issuer, identity=identity, dpop=True, patience=PATIENCE, on_pending=tell_pending)
    async with signing_in as client, Outbound() as http:
        yield Session(config.issuer, client, http)


def tell_pending(auth_req_id: str, expires_in: int) -> None:
    """Say on standard error what a command waits for."""
    note(f"A person has to decide within {expires_in} s:  broker approvals show {auth_req_id}")


def call(config: Config, work: Callable[[Session], Awaitable[T]]) -> T:
    """Run ``work`` with an operator's session, and return what it returns. Raises ``Failure``."""

    async def run() -> T:
        async with operator(config) as session:
            return await work(session)

    return asyncio.run(run())


def answer_of(reply: Reply) -> Any:  # noqa: ANN401 - JSON
    """Return the JSON of an answer. Raises ``Failure``, also if the answer is an error."""
    if reply.status >= HTTPStatus.BAD_REQUEST:
        raise problem_of(reply)
    try:
        return json.loads(reply.body) if reply.body else None
    except ValueError as error:
        raise Failure(ExitCode.UNAVAILABLE, "bad_answer", "what answers there is not a broker") from error


def problem_of(reply: Reply) -> Failure:
    """Return the failure that an error answer (RFC 9457) tells of."""
    try:
        problem = json.loads(reply.body)
    except ValueError:
        problem = None
    members: dict[str, Any] = problem if isinstance(problem, dict) else {}
    code = str(members.get("code") or f"http_{reply.status}")
    text = str(members.get("detail") or members.get("title") or f"the broker answers {reply.status}")
    refusal = members.get("refusal")
    return Failure(_exit_code(reply.status, code), code, text, refusal=None if refusal is None else str(refusal))


async def unreachable(issuer: str, http: Outbound, error: BrokerError) -> Failure:
    """Return the failure to tell when there was no useful answer, which says whether anybody is there at all."""
    try:
        await http.get(f"{issuer}/healthz", destination_of(issuer))
    except BrokerError:
        text = f"no broker answers at {issuer}; start it with: broker serve --config FILE"
        return Failure(ExitCode.UNAVAILABLE, "no_broker", text)
    return Failure(ExitCode.UNAVAILABLE, error.code.value, f"the broker at {issuer} cannot do it now: {error.public}")


def is_sign_in_failure(refused: TokenRefused) -> bool:
    """Whether the broker does not know who asks, rather than refusing what was asked."""
    return refused.code in _FAILED_SIGN_IN


def path_part(text: str, what: str) -> str:
    """Return text as one segment of a path, if it is a name that the broker can have given. Raises ``Failure``.

    Anything else could lead to another path: ``..``, slashes, or their many spellings.
    """
    if _NAME.fullmatch(text) is None:
        raise unusable(f"{what}: letters, digits and . _ - only")
    return text


def _not_signed_in(refused: TokenRefused) -> Failure:
    if is_sign_in_failure(refused):
        text = (
            "the broker does not take the operator's key: is it the key of the agent under [operator] in the settings?"
        )
    else:
        text = f"the policy does not let the operator do this: {refused.description}"
    return Failure(ExitCode.NOT_AUTHORISED, refused.code.value, text, refusal=refused.refusal)


def _exit_code(status: int, code: str) -> ExitCode:
    if code == Code.BACKEND_REFUSED.value:  # somebody must change something there first
        return ExitCode.REFUSED
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return ExitCode.NOT_AUTHORISED
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ExitCode.UNAVAILABLE
    return ExitCode.REFUSED


def _with_query(path: str, query: Mapping[str, str | int | None]) -> str:
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path
