"""Where keys and revocation rules come from: the broker's JWKS, and its signed snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final, Protocol

import msgspec

from broker.core.errors import Code, Unavailable
from broker.core.jwk import KeySet, parse_jwks
from broker.core.pacing import Timing, retry_after
from broker.core.snapshot import MAX_SNAPSHOT, Snapshot, verify_snapshot
from broker.outbound import Destination, Outbound, Reply

READ_SCOPE: Final = "revocations:read"
MAX_JWKS: Final = 64 * 1024
LARGE: Final = 64 * 1024
"""Snapshots from this size on (bytes) are read in a thread, so that requests are answered meanwhile."""

TokenSource = Callable[[], Awaitable[str]]
"""A coroutine function that returns an access token for the broker's own API."""


class Credentials(Protocol):
    """How a resource server authenticates to the broker; ``broker.client.Client`` is one."""

    async def authorize(self, method: str, url: str, audience: str, scopes: tuple[str, ...]) -> Mapping[str, str]:
        """Return the headers that authorize one request. Raises ``BrokerError`` if they cannot be had."""
        ...

    def invalidate(self, token: str) -> None:
        """Take note that the broker does not accept this access token any more."""
        ...


class BearerTokens:
    """Credentials that are no more than a function that returns a bearer token."""

    def __init__(self, token: TokenSource) -> None:
        """``token`` is asked before each poll; caching is its own affair."""
        self._token = token

    async def authorize(self, method: str, url: str, audience: str, scopes: tuple[str, ...]) -> Mapping[str, str]:  # noqa: ARG002 - a bearer token is the same for all
        """Return an Authorization header with the token."""
        return {"Authorization": f"Bearer {await self._token()}"}

    def invalidate(self, token: str) -> None:
        """The function is asked again anyway."""


class _Problem(msgspec.Struct):
    code: str


class Source:
    """The broker, as a resource server needs it."""

    def __init__(
        self,
        issuer: str,
        *,
        credentials: Credentials,
        http: Outbound,
        destination: Destination,
        timing: Timing,
        leeway: float,
    ) -> None:
        """``issuer`` is the broker's issuer URL; ``leeway`` (seconds) is by how much its clock may differ from ours."""
        self._issuer = issuer
        self._credentials = credentials
        self._http = http
        self._destination = destination
        self._timing = timing
        self._leeway = leeway

    async def keys(self) -> KeySet:
        """Fetch the keys that the broker publishes. Raises ``BrokerError``."""
        url = f"{self._issuer}/oauth2/jwks.json"
        reply = self._good(await self._get(url, MAX_JWKS))
        try:
            keys = parse_jwks(reply.body)
        except ValueError as error:
            raise _unusable("the broker's key set cannot be read") from error
        if len(keys) == 0:
            raise _unusable("the broker's key set has no usable key")
        return keys

    async def snapshot(self) -> str:
        """Fetch the signed list of live rules, unverified. Raises ``BrokerError``.

        When the broker does not accept our token (it may have been revoked), it is asked once more with a new one.
        """
        url = f"{self._issuer}/v1/revocations/snapshot"
        reply = await self._get_authorized(url)
        if reply.status == HTTPStatus.UNAUTHORIZED:
            reply = await self._get_authorized(url)
        try:
            return self._good(reply).body.decode("ascii").strip()
        except UnicodeDecodeError as error:
            raise _unusable("the broker's snapshot is no JWT") from error

    async def read(self, token: str, keys: KeySet) -> Snapshot:
        """Verify a snapshot and return what it says.

        Raises ``InvalidToken``, whose ``why`` is ``kid`` if it is signed with a key that is not in ``keys``, and
        :class:`~broker.core.statement.StatementError`.
        """
        if len(token) < LARGE:
            return self._read(token, keys)
        return await asyncio.to_thread(self._read, token, keys)

    def _read(self, token: str, keys: KeySet) -> Snapshot:
        return verify_snapshot(token, keys, issuer=self._issuer, now=self._timing.wall(), skew=self._leeway)

    async def _get_authorized(self, url: str) -> Reply:
        headers = await self._credentials.authorize("GET", url, f"{self._issuer}/v1", (READ_SCOPE,))
        reply = await self._get(url, MAX_SNAPSHOT, headers)
        if reply.status == HTTPStatus.UNAUTHORIZED:
            self._credentials.invalidate(headers.get("Authorization", "").partition(" ")[2])
        return reply

    async def _get(self, url: str, max_bytes: int, headers: Mapping[str, str] | None = None) -> Reply:
        try:
            return await self._http.get(url, self._destination, headers=headers, max_bytes=max_bytes)
        except Unavailable as error:  # when to try again is up to the loop, unless the broker itself says it
            raise _unusable(f"the broker cannot be asked: {error.public}") from error

    def _good(self, reply: Reply) -> Reply:
        if reply.status == HTTPStatus.OK:
            return reply
        after = retry_after(reply.headers.get("Retry-After"), self._timing.wall())
        text = f"the broker answers {reply.status}{_reason(reply)}"
        raise Unavailable(Code.ISSUER_UNAVAILABLE, text, retry_after=None if after is None else int(after))


def _reason(reply: Reply) -> str:
    """Return the broker's own code for a refusal (it is one of ours, or nothing), for the log."""
    try:
        problem = msgspec.json.decode(reply.body, type=_Problem)
        return f" ({Code(problem.code).value})"
    except (msgspec.DecodeError, ValueError):
        return ""


def _unusable(text: str) -> Unavailable:
    return Unavailable(Code.ISSUER_UNAVAILABLE, text)
