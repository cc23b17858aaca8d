"""The broker, as a resource server asks it: for its keys, for its rules by snapshot and by stream, and about tokens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import urlencode

import msgspec

from broker.core.errors import Code, Unavailable
from broker.core.jwk import KeySet, parse_jwks
from broker.core.pacing import Timing, retry_after
from broker.core.snapshot import MAX_SNAPSHOT
from broker.outbound import TOTAL_SECONDS, Destination, NoReply, Outbound, Reply, Streamed, destination_of

READ_SCOPE: Final = "revocations:read"
MAX_JWKS: Final = 64 * 1024
MAX_ANSWER: Final = 64 * 1024
_EVENTS: Final = "text/event-stream"
_FORM: Final = "application/x-www-form-urlencoded"
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


class StreamBroke(Unavailable):
    """A stream that had begun ended before its end, as when a process is killed (``ISSUER_UNAVAILABLE``)."""


class Source:
    """The broker, as a resource server needs it."""

    def __init__(
        self,
        issuer: str,
        *,
        credentials: Credentials | TokenSource,
        http: Outbound,
        destination: Destination | None,
        timing: Timing,
    ) -> None:
        """``issuer`` is the broker's issuer URL, which also says where it may be, unless ``destination`` does."""
        self._issuer = issuer
        self._audience = f"{issuer}/v1"
        self._credentials = BearerTokens(credentials) if callable(credentials) else credentials
        self._http = http
        self._destination = destination if destination is not None else destination_of(issuer)
        self._timing = timing

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
        reply = await self._authorized("GET", url, MAX_SNAPSHOT)
        try:
            return self._good(reply).body.decode("ascii").strip()
        except UnicodeDecodeError as error:
            raise _unusable("the broker's snapshot is no JWT") from error

    @asynccontextmanager
    async def stream(self, epoch: int | None) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open the stream of rules, which goes on after ``epoch`` if it can, and return its bytes as they come.

        When the broker does not accept our token, as after a rule that killed it and with it the stream before, it is
        asked once more with a new one. Raises ``BrokerError``; in the iteration, :class:`StreamBroke`.
        """
        resumed = {} if epoch is None else {"Last-Event-ID": str(epoch)}
        async with AsyncExitStack() as stack:
            streamed, refused = await self._streamed(stack, resumed)
            if refused is not None and _is_worth_repeating(refused):
                streamed, refused = await self._streamed(stack, resumed)
            if refused is not None:
                raise self._refused(refused)
            if streamed.headers.get("Content-Type", "").partition(";")[0].strip().lower() != _EVENTS:
                raise _unusable("the broker's stream of rules is no stream of events")
            yield _until_broken(streamed.chunks)

    async def _streamed(self, stack: AsyncExitStack, resumed: Mapping[str, str]) -> tuple[Streamed, Reply | None]:
        """Ask for the stream; return what came, and the whole answer if it is a refusal."""
        url = f"{self._issuer}/v1/revocations/stream"
        headers = dict(await self._credentials.authorize("GET", url, self._audience, (READ_SCOPE,)))
        token = _token(headers)
        headers |= {"Accept": _EVENTS, **resumed}
        try:
            streamed = await stack.enter_async_context(self._http.stream(url, self._destination, headers=headers))
            if streamed.status == HTTPStatus.OK:
                return streamed, None
            refused = Reply(streamed.status, streamed.headers, await _read(streamed.chunks))
        except Unavailable as error:
            raise _unusable(f"the broker cannot be asked: {error.public}") from error
        if streamed.status == HTTPStatus.UNAUTHORIZED:
            self._credentials.invalidate(token)
        return streamed, refused

    async def acknowledge(self, told: Mapping[str, Any]) -> None:
        """Tell the broker which rules are applied here. Raises ``BrokerError``."""
        url = f"{self._issuer}/v1/revocations/acks"
        reply = await self._authorized("POST", url, MAX_ANSWER, msgspec.json.encode(told), "application/json")
        if reply.status != HTTPStatus.NO_CONTENT:
            raise self._refused(reply)

    async def introspect(self, token: str) -> bytes:
        """Ask the broker about a token (RFC 7662) and return its answer. Raises ``BrokerError``."""
        url = f"{self._issuer}/oauth2/introspect"
        form = urlencode({"token": token, "token_type_hint": "access_token"}).encode()
        return self._good(await self._authorized("POST", url, MAX_ANSWER, form, _FORM)).body

    async def _authorized(
        self, method: str, url: str, max_bytes: int, body: bytes = b"", content_type: str | None = None
    ) -> Reply:
        """Ask with our token; once more with a new one if the broker does not accept it, as it may be revoked.

        And once more if we got to a process of the broker that is stopping: another one may serve in its place.
        """
        reply = await self._once(method, url, max_bytes, body, content_type)
        if _is_worth_repeating(reply):
            reply = await self._once(method, url, max_bytes, body, content_type)
        return reply

    async def _once(self, method: str, url: str, max_bytes: int, body: bytes, content_type: str | None) -> Reply:
        headers = dict(await self._credentials.authorize(method, url, self._audience, (READ_SCOPE,)))
        token = _token(headers)
        if content_type is not None:
            headers["Content-Type"] = content_type
        if method == "GET":
            reply = await self._get(url, max_bytes, headers)
        else:
            reply = await self._post(url, body, headers)
        if reply.status == HTTPStatus.UNAUTHORIZED:
            self._credentials.invalidate(token)
        return reply

    async def _get(self, url: str, max_bytes: int, headers: Mapping[str, str] | None = None) -> Reply:
        try:
            return await self._http.get(url, self._destination, headers=headers, max_bytes=max_bytes)
        except Unavailable as error:  # when to try again is up to the loop, unless the broker itself says it
            raise _unusable(f"the broker cannot be asked: {error.public}") from error

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        try:
            return await self._http.post(url, body, self._destination, headers=headers, max_bytes=MAX_ANSWER)
        except Unavailable as error:
            raise _unusable(f"the broker cannot be asked: {error.public}") from error

    def _good(self, reply: Reply) -> Reply:
        if reply.status == HTTPStatus.OK:
            return reply
        raise self._refused(reply)

    def _refused(self, reply: Reply) -> Unavailable:
        after = retry_after(reply.headers.get("Retry-After"), self._timing.wall())
        text = f"the broker answers {reply.status}{_reason(reply)}"
        return Unavailable(Code.ISSUER_UNAVAILABLE, text, retry_after=None if after is None else int(after))


def _token(headers: Mapping[str, str]) -> str:
    """Return the token that headers carry, which may have to be given up."""
    return headers.get("Authorization", "").partition(" ")[2]


async def _until_broken(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    except NoReply as error:
        raise StreamBroke(error.code, error.public) from error


async def _read(chunks: AsyncIterator[bytes]) -> bytes:
    """Return the body of a refusal; of one that is too long, or too slow, no more than its beginning."""
    body = bytearray()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(TOTAL_SECONDS):
            async for chunk in chunks:
                body += chunk
                if len(body) > MAX_ANSWER:
                    break
    return bytes(body)


def _is_worth_repeating(reply: Reply) -> bool:
    """Whether a new token may do, or the answer comes of a process of the broker that ends with its connections."""
    is_stopping = reply.status == HTTPStatus.SERVICE_UNAVAILABLE and _code(reply) is Code.STOPPING
    return is_stopping or reply.status == HTTPStatus.UNAUTHORIZED


def _reason(reply: Reply) -> str:
    """Return the broker's own code for a refusal in words, for the log."""
    code = _code(reply)
    return "" if code is None else f" ({code.value})"


def _code(reply: Reply) -> Code | None:
    """Return the broker's own code for a refusal; it is one of ours, or None."""
    try:
        return Code(msgspec.json.decode(reply.body, type=_Problem).code)
    except (msgspec.DecodeError, ValueError):
        return None


def _unusable(text: str) -> Unavailable:
    return Unavailable(Code.ISSUER_UNAVAILABLE, text)
