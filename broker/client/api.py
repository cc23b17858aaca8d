"""Asking the broker's own API as an agent: requests that may be carried out twice, repeated until they are answered."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, Literal, Protocol

import msgspec

from broker.client.errors import ApiRefused, ApiUnavailable, problem
from broker.client.pending import read_pending
from broker.client.token import Token
from broker.core.errors import BrokerError, Code
from broker.core.pacing import Backoff, Timing, retry_after
from broker.outbound import Destination, Outbound, Reply

MAX_ANSWER: Final = 256 * 1024

_BACKOFF: Final = Backoff(first=0.25, longest=8.0)
_JSON: Final = {"Content-Type": "application/json"}

_ANOTHERS: Final = frozenset({Code.BACKEND_UNAVAILABLE.value, Code.BACKEND_REFUSED.value})
"""Failures of what stands behind the broker: they are its answer, and the same request has no other one."""

Method = Literal["GET", "POST", "DELETE"]


class Authorizer(Protocol):
    """What gives the headers for a request; :class:`broker.client.Client` is one."""

    async def authorize(
        self,
        method: str,
        url: str,
        audience: str,
        scopes: tuple[str, ...],
        task: str | None = None,
        *,
        subject_token: Token | str | None = None,
    ) -> dict[str, str]:
        """Return the headers that authorize one request."""
        ...

    def invalidate(self, token: Token | str) -> None:
        """Forget a token that was refused."""
        ...


class Api:
    """The broker's API, used as one agent, for one kind of thing."""

    def __init__(  # noqa: PLR0913 - what one client puts together, passed by name
        self,
        issuer: str,
        authorizer: Authorizer,
        *,
        refused: type[ApiRefused],
        unavailable: type[ApiUnavailable],
        http: Outbound,
        destination: Destination,
        timing: Timing,
        patience: float,
    ) -> None:
        """``refused`` and ``unavailable`` are what is raised.

        ``patience`` is how many seconds one call may take with all its attempts, and the one under way then.
        """
        self._issuer = issuer
        self._authorizer = authorizer
        self._refused = refused
        self._unavailable = unavailable
        self._http = http
        self._destination = destination
        self._timing = timing
        self._patience = patience

    async def send(  # noqa: PLR0913 - what a request can have, passed by name
        self,
        method: Method,
        path: str,
        scope: str,
        body: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        task: str | None = None,
        subject_token: Token | str | None = None,
        patience: float | None = None,
    ) -> dict[str, Any]:
        """Send a request until it is answered, with a token for just ``scope`` (in ``task``), and return the answer.

        Without a scope it is the token that the agent gets when it names none.

        It may arrive more than once: it must mean the same then. ``patience`` is other than usual, if it is given.
        Raises ``refused``; ``unavailable`` if there is no useful answer in time; and what getting the token raises.
        """
        deadline = self._timing.elapsed() + (self._patience if patience is None else patience)
        failures, renewed = 0, False
        while True:
            headers = await self._authorized(method, path, scope, task, subject_token)
            if idempotency_key is not None:
                headers["Idempotency-Key"] = idempotency_key
            reply, why = await self._try(method, self._issuer + path, body, headers)
            if reply is not None and reply.status == HTTPStatus.UNAUTHORIZED and not renewed:
                renewed = True  # it may have been revoked meanwhile: once more with a new one
                self._authorizer.invalidate(headers["Authorization"].partition(" ")[2])
                continue
            if reply is not None and not _may_pass(reply):
                return self._answer(reply)
            delay = _BACKOFF.delay(failures, self._timing.spread())
            if reply is not None:
                delay = max(delay, retry_after(reply.headers.get("Retry-After"), self._timing.wall()) or 0)
            failures += 1
            if self._timing.elapsed() + delay > deadline:
                raise self._unavailable(why)
            await self._timing.sleep(delay)

    async def ready(self, scope: str, *, task: str | None = None, subject_token: Token | str | None = None) -> None:
        """Have the token that a request with this scope needs. Raises what getting it raises."""
        await self._authorized("POST", "/v1", scope, task, subject_token)

    async def _authorized(
        self, method: Method, path: str, scope: str, task: str | None, subject_token: Token | str | None
    ) -> dict[str, str]:
        return await self._authorizer.authorize(
            method, self._issuer + path, f"{self._issuer}/v1", (scope,), task, subject_token=subject_token
        )

    async def _try(
        self, method: Method, url: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> tuple[Reply | None, str]:
        """Return the answer, or None and why there is none."""
        try:
            if method == "GET":
                reply = await self._http.get(url, self._destination, headers=headers, max_bytes=MAX_ANSWER)
            elif method == "DELETE":
                reply = await self._http.delete(url, self._destination, headers=headers, max_bytes=MAX_ANSWER)
            else:
                data = msgspec.json.encode(body or {})
                reply = await self._http.post(
                    url, data, self._destination, headers={**_JSON, **headers}, max_bytes=MAX_ANSWER
                )
        except BrokerError as error:
            return None, f"the broker cannot be reached: {error.public}"
        return reply, f"the broker answers {reply.status}"

    def _answer(self, reply: Reply) -> dict[str, Any]:
        body = _object(reply)
        if body is None:
            raise self._unavailable(f"the broker answers {reply.status} with something that is not a JSON object")
        if reply.status < HTTPStatus.BAD_REQUEST:
            return body
        if not isinstance(body.get("code"), str):
            raise self._unavailable(f"the broker answers {reply.status} without a reason")
        code, description, refusal = problem(body)
        after = retry_after(reply.headers.get("Retry-After"), self._timing.wall())
        raise self._refused(
            reply.status,
            code,
            description,
            refusal=refusal,
            retry_after=None if after is None else int(after),
            pending=read_pending(body, None, reason="code"),
        )


def _may_pass(reply: Reply) -> bool:
    """Whether the same request may have another answer soon."""
    if reply.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return reply.status == HTTPStatus.TOO_MANY_REQUESTS
    return (_object(reply) or {}).get("code") not in _ANOTHERS


def _object(reply: Reply) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(reply.body, type=dict[str, Any])
    except msgspec.DecodeError:
        return None
