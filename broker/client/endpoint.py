"""Asking the broker's token endpoint: where it is, one request, and when to try again."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec

from broker.client.dpop import DpopKey, Nonces
from broker.client.errors import TokenPending, TokenUnavailable, refused
from broker.client.identity import Identity
from broker.client.token import Token, Want
from broker.core.errors import BrokerError
from broker.core.pacing import Backoff, Timing, retry_after
from broker.core.secret import Secret
from broker.outbound import Destination, Outbound, Reply

METADATA_PATH: Final = "/.well-known/oauth-authorization-server"
MAX_ANSWER: Final = 64 * 1024
MAX_WAITING: Final = 100
"""How many requests that people have not decided on are remembered."""

MAX_QUIET: Final = 600.0
"""The longest ``Retry-After`` that is honoured, in seconds."""


_BACKOFF: Final = Backoff(first=0.25, longest=8.0)
_TOKEN: Final = re.compile(r"[!-~]+")
_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"
_JWT: Final = "urn:ietf:params:oauth:token-type:jwt"
_INTERVAL: Final = 5
"""Seconds between two questions when the broker names none (CIBA, 7.3)."""

OnPending = Callable[[str, int], None]
"""Told that a person has to decide: the request's id, and in how many seconds it ends."""

_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}


@dataclass(frozen=True, slots=True)
class _Later:
    """The broker cannot answer now; ``after`` is how many seconds it wants to be left alone, if it said so."""

    why: str
    after: float | None = None


@dataclass(frozen=True, slots=True)
class _Pending:
    """A person has to decide first; ``interval`` is how many seconds to wait before asking again."""

    auth_req_id: str
    expires_in: int
    interval: int


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
        approval_seconds: float = 0,
        on_pending: OnPending | None = None,
    ) -> None:
        """``patience`` is how many seconds one call may take with all its attempts, at most.

        Where a person has to decide first, it may take ``approval_seconds`` more; ``on_pending`` is told of it.
        """
        self._approval_seconds = approval_seconds
        self._on_pending = on_pending
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
        self._waiting: OrderedDict[Want, _Pending] = OrderedDict()

    async def obtain(self, want: Want) -> Token:
        """Ask until there is an answer, and return the token.

        Failures that may pass (no connection, 429, 5xx) are tried again with back-off and jitter, never before the
        broker's ``Retry-After``. Raises ``TokenRefused`` when the broker says no, ``TokenUnavailable`` when there is no
        useful answer within ``patience``, at once if the broker wants to be left alone for longer than that. Where a
        person has to decide first, it goes on with that request; raises ``TokenPending`` when nobody did in time.
        """
        deadline = self._timing.elapsed() + self._patience
        await self._wait(self._not_before - self._timing.elapsed(), deadline, "the broker asked to be left alone")
        failures, waits_until, pending = 0, 0.0, self._waiting.pop(want, None)
        while True:
            outcome = await self._attempt(want, None if pending is None else pending.auth_req_id)
            if isinstance(outcome, Token):
                return outcome
            if isinstance(outcome, _Pending):
                if not waits_until:
                    waits_until = self._timing.elapsed() + self._approval_seconds
                    self._tell(outcome)
                pending = outcome
                await self._wait_for_people(want, outcome, waits_until)
                failures, deadline = 0, self._timing.elapsed() + self._patience
                continue
            delay = max(_BACKOFF.delay(failures, self._timing.spread()), outcome.after or 0.0)
            failures += 1
            if outcome.after is not None:
                self._not_before = self._timing.elapsed() + delay
            await self._wait(delay, deadline, outcome.why)

    def _tell(self, pending: _Pending) -> None:
        if self._on_pending is not None:
            self._on_pending(pending.auth_req_id, pending.expires_in)

    async def _wait_for_people(self, want: Want, pending: _Pending, until: float) -> None:
        if self._timing.elapsed() + pending.interval > until:
            self._waiting[want] = pending  # who asks again goes on with it
            if len(self._waiting) > MAX_WAITING:
                self._waiting.popitem(last=False)
            raise TokenPending(pending.auth_req_id, expires_in=pending.expires_in, interval=pending.interval)
        await self._timing.sleep(pending.interval)

    async def _wait(self, delay: float, deadline: float, why: str) -> None:
        if delay <= 0:
            return
        if self._timing.elapsed() + delay > deadline:
            raise TokenUnavailable(why, retry_after=int(delay) + 1)
        await self._timing.sleep(delay)

    async def _attempt(self, want: Want, auth_req_id: str | None) -> Token | _Later | _Pending:
        """Ask once (twice, if the broker wants its nonce in the proof)."""
        try:
            url = await self._located()
            asked_at = self._timing.elapsed()
            reply = await self._ask(url, want, auth_req_id)
            if self._nonces.remember(url, reply.headers.get("DPoP-Nonce")) and _wants_nonce(reply):
                asked_at = self._timing.elapsed()
                reply = await self._ask(url, want, auth_req_id)
        except TokenUnavailable as error:
            return _Later(error.public)
        except BrokerError as error:
            return _Later(f"the broker cannot be reached: {error.public}")
        later = self._asked_to_wait(reply)
        return self._read(reply, want, asked_at, auth_req_id) if later is None else later

    async def _ask(self, url: str, want: Want, auth_req_id: str | None) -> Reply:
        now = self._timing.wall()
        form = {**await self._identity.parameters(self._issuer, now), **want.parameters()}
        if want.subject_token is not None:
            form = _exchanging(form, want.subject_token)
        if auth_req_id is not None:
            form["auth_req_id"] = auth_req_id
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

    def _read(self, reply: Reply, want: Want, asked_at: float, auth_req_id: str | None) -> Token | _Pending:
        body = _object(reply)
        if reply.status != HTTPStatus.OK:
            if not isinstance(body.get("error"), str):
                self._url = None
                raise TokenUnavailable(f"the broker answers {reply.status} without a reason")
            pending = _pending(body)
            if pending is None:
                raise refused(body)
            return pending
        token = _token(body, want, asked_at, "Bearer" if self._key is None else "DPoP")
        return token if auth_req_id is None else replace(token, approved=True)


def _exchanging(form: Mapping[str, str], subject_token: str) -> dict[str, str]:
    """Return a token request as an exchange (RFC 8693): whoever asked by an assertion grant, now acts by it."""
    exchange = {**form, "grant_type": _EXCHANGE, "subject_token": subject_token, "subject_token_type": _ACCESS_TOKEN}
    if "assertion" in exchange:
        exchange["actor_token"] = exchange.pop("assertion")
        exchange["actor_token_type"] = _JWT
    return exchange


def _pending(body: Mapping[str, Any]) -> _Pending | None:
    """Read an answer that says that a person has to decide first; None if it says something else."""
    auth_req_id, interval = body.get("auth_req_id"), body.get("interval")
    if body.get("error") not in {"authorization_pending", "slow_down"} or not isinstance(auth_req_id, str):
        return None
    seconds = interval if isinstance(interval, int) and 0 < interval <= MAX_QUIET else _INTERVAL
    expires_in = body.get("expires_in")
    return _Pending(auth_req_id, expires_in if isinstance(expires_in, int) else 0, seconds)


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
