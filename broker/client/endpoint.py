"""Asking the broker's token endpoint: where it is, one request, and when to try again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec

from broker.client.dpop import DpopKey, Nonces
from broker.client.errors import TokenUnavailable, refused
from broker.client.identity import Identity
from broker.client.token import Token, Want
from broker.core.errors import BrokerError
from broker.core.pacing import Backoff, Timing, retry_after
from broker.core.secret import Secret
from broker.outbound import Destination, Outbound, Reply

METADATA_PATH: Final = "/.well-known/oauth-authorization-server"
MAX_ANSWER: Final = 64 * 1024
MAX_QUIET: Final = 600.0
"""The longest ``Retry-After`` that is honoured, in seconds."""


_BACKOFF: Final = Backoff(first=0.25, longest=8.0)
_TOKEN: Final = re.compile(r"[!-~]+")
_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}


@dataclass(frozen=True, slots=True)
class _Later:
    """The broker cannot answer now; ``after`` is how many seconds it wants to be left alone, if it said so."""

    why: str
    after: float | None = None


class TokenEndpoint:
    """The token endpoint of one broker, used as one agent."""

    def __init__(  # noqa: PLR0913 - what one client puts together, passed by name
        self,
        issuer: str,
        identity: Identity,
        *,
        key: DpopKey | None,
        nonces: Nonces,
        http: Outbound,
        destination: Destination,
        timing: Timing,
        patience: float,
    ) -> None:
        """``patience`` is how many seconds one call may take with all its attempts, at most."""
        self._issuer = issuer
        self._identity = identity
        self._key = key
        self._nonces = nonces
        self._http = http
        self._timing = timing
        self._patience = patience
        self._destination = destination
        self._url: str | None = None
        self._not_before = 0.0

    async def obtain(self, want: Want) -> Token:
        """Ask until there is an answer, and return the token.

        Failures that may pass (no connection, 429, 5xx) are tried again with back-off and jitter, never before the
        broker's ``Retry-After``. Raises ``TokenRefused`` when the broker says no, ``TokenUnavailable`` when there is no
        useful answer within ``patience``, at once if the broker wants to be left alone for longer than that.
        """
        deadline = self._timing.elapsed() + self._patience
        await self._wait(self._not_before - self._timing.elapsed(), deadline, "the broker asked to be left alone")
        failures = 0
        while True:
            outcome = await self._attempt(want)
            if isinstance(outcome, Token):
                return outcome
            delay = max(_BACKOFF.delay(failures, self._timing.spread()), outcome.after or 0.0)
            failures += 1
            if outcome.after is not None:
                self._not_before = self._timing.elapsed() + delay
            await self._wait(delay, deadline, outcome.why)

    async def _wait(self, delay: float, deadline: float, why: str) -> None:
        if delay <= 0:
            return
        if self._timing.elapsed() + delay > deadline:
            raise TokenUnavailable(why, retry_after=int(delay) + 1)
        await self._timing.sleep(delay)

    async def _attempt(self, want: Want) -> Token | _Later:
        """Ask once (twice, if the broker wants its nonce in the proof)."""
        try:
            url = await self._located()
            asked_at = self._timing.elapsed()
            reply = await self._ask(url, want)
            if self._nonces.remember(url, reply.headers.get("DPoP-Nonce")) and _wants_nonce(reply):
                asked_at = self._timing.elapsed()
                reply = await self._ask(url, want)
        except TokenUnavailable as error:
            return _Later(error.public)
        except BrokerError as error:
            return _Later(f"the broker cannot be reached: {error.public}")
        later = self._asked_to_wait(reply)
        return self._read(reply, want, asked_at) if later is None else later

    async def _ask(self, url: str, want: Want) -> Reply:
        now = self._timing.wall()
        form = {**await self._identity.parameters(self._issuer, now), "resource": want.audience}
        if want.scopes:
            form["scope"] = " ".join(want.scopes)
        if want.task is not None:
            form["task"] = want.task
        headers = dict(_FORM)
        if self._key is not None:
            headers["DPoP"] = self._key.proof("POST", url, now=now, nonce=self._nonces.of(url))
        return await self._http.post(
            url, urlencode(form).encode(), self._destination, headers=headers, max_bytes=MAX_ANSWER
        )

    async def _located(self) -> str:
        """Return the token endpoint's URL, from the broker's metadata (RFC 8414)."""
        if self._url is None:
            reply = await self._http.get(self._issuer + METADATA_PATH, self._destination, max_bytes=MAX_ANSWER)
            self._url = _token_endpoint(_object(reply), self._issuer)
        return self._url

    def _asked_to_wait(self, reply: Reply) -> _Later | None:
        if reply.status < HTTPStatus.INTERNAL_SERVER_ERROR and reply.status != HTTPStatus.TOO_MANY_REQUESTS:
            return None
        after = retry_after(reply.headers.get("Retry-After"), self._timing.wall())
        if after is not None:  # not all at the same instant, and never so long that a slip silences an agent for good
            after = min(after, MAX_QUIET) * (1 + self._timing.spread() / 10)
        return _Later(f"the broker answers {reply.status}", after)

    def _read(self, reply: Reply, want: Want, asked_at: float) -> Token:
        body = _object(reply)
        if reply.status != HTTPStatus.OK:
            if not isinstance(body.get("error"), str):
                self._url = None
                raise TokenUnavailable(f"the broker answers {reply.status} without a reason")
            raise refused(body)
        return _token(body, want, asked_at, "Bearer" if self._key is None else "DPoP")


def _token(body: Mapping[str, Any], want: Want, asked_at: float, token_type: str) -> Token:
    """Read a successful answer (RFC 6749, 5.1), strictly: a token that is not what was asked for is not used."""
    access_token, expires_in = body.get("access_token"), body.get("expires_in")
    scope = body.get("scope", " ".join(want.scopes))
    named = body.get("token_type")
    if not isinstance(access_token, str) or _TOKEN.fullmatch(access_token) is None:
        raise TokenUnavailable("the broker's answer has no usable access_token")
    if not isinstance(expires_in, int) or isinstance(expires_in, bool) or expires_in <= 0:
        raise TokenUnavailable("the broker's answer has no usable expires_in")
    if not isinstance(named, str) or named.lower() != token_type.lower():
        raise TokenUnavailable(f"the broker's answer is not of type {token_type}")
    if not isinstance(scope, str):
        raise TokenUnavailable("the broker's answer has no usable scope")
    return Token(
        secret=Secret(access_token),
        token_type=token_type,
        want=want,
        scopes=tuple(sorted(scope.split())),
        expires_in=expires_in,
        asked_at=asked_at,
    )


def _object(reply: Reply) -> dict[str, Any]:
    try:
        return msgspec.json.decode(reply.body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise TokenUnavailable(f"the broker answers {reply.status} with something that is not a JSON object") from error


def _wants_nonce(reply: Reply) -> bool:
    return reply.status == HTTPStatus.BAD_REQUEST and _object(reply).get("error") == "use_dpop_nonce"


def _token_endpoint(metadata: Mapping[str, Any], issuer: str) -> str:
    """Read the metadata document. It must speak for this issuer (RFC 8414, 3.3) and stay on its origin.

    The issuer is the one name that was configured; what its document says must not lead an assertion elsewhere.
    """
    if metadata.get("issuer") != issuer:
        raise TokenUnavailable("the broker's metadata is for another issuer than the configured one")
    url = metadata.get("token_endpoint")
    if not isinstance(url, str) or urlsplit(url)[:2] != urlsplit(issuer)[:2]:
        raise TokenUnavailable("the broker's metadata names no token endpoint on the broker's own origin")
    return url
