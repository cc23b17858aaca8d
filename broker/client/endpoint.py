"""Asking the broker's token endpoint: where it is, one request, and when to try again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode

from broker.client.answers import read_object, read_token, read_token_endpoint
from broker.client.dpop import DpopKey, Nonces
from broker.client.errors import TokenRefused, TokenUnavailable, refused
from broker.client.identity import Identity
from broker.client.pending import Pending, read_pending
from broker.client.token import JWT_TYPE, Subject, Token, Want
from broker.client.waiting import HELD_SECONDS, Wait, Waiting
from broker.core.errors import BrokerError
from broker.core.pacing import Backoff, Timing, retry_after
from broker.outbound import TOTAL_SECONDS, Destination, Outbound, Reply

METADATA_PATH: Final = "/.well-known/oauth-authorization-server"
MAX_ANSWER: Final = 64 * 1024
MAX_QUIET: Final = 600.0
"""The longest ``Retry-After`` that is honoured, in seconds."""

HOLDING_SECONDS: Final = HELD_SECONDS + 10.0
"""How long a request may take whose answer the broker holds back."""

MAX_HELD: Final = 16
"""How many requests at a time let the broker hold their answer back; each keeps a connection. Others ask again."""

_BACKOFF: Final = Backoff(first=0.25, longest=8.0)
_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_NOT_APPLICABLE: Final = "N_A"
_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}


@dataclass(frozen=True, slots=True)
class _Later:
    """The broker cannot answer now; ``after`` is how many seconds it wants to be left alone, if it said so."""

    why: str
    after: float | None = None


@dataclass(frozen=True, slots=True)
class _Question:
    """One request: for what, going on with which pending one, and for how many seconds its answer may be held back."""

    want: Want
    auth_req_id: str | None
    hold: int


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
        waiting: Waiting,
        destination: Destination,
        timing: Timing,
        patience: float,
    ) -> None:
        """``patience`` is how many seconds one call may take with all its attempts, at most.

        ``waiting`` says how long it may take besides where a person has to decide first.
        """
        self._issuer = issuer
        self._identity = identity
        self._key = key
        self._nonces = nonces
        self._http = http
        self._holding = Outbound(total_seconds=HOLDING_SECONDS)
        self._held = 0
        self._waiting = waiting
        self._timing = timing
        self._patience = patience
        self._destination = destination
        self._url: str | None = None
        self._not_before = 0.0

    async def obtain(self, want: Want) -> Token:
        """Ask until there is an answer, and return the token.

        Failures that may pass (no connection, 429, 5xx) are tried again with back-off and jitter, never before the
        broker's ``Retry-After``. Where a person has to decide first, it goes on with that request, also if an earlier
        call made it. Raises ``TokenRefused`` when the broker says no, ``TokenPending`` when nobody decided in time, and
        ``TokenUnavailable`` when there is no useful answer within ``patience``, at once if the broker wants to be left
        alone for longer than that.
        """
        try:
            token = await self._obtain(want)
        except TokenRefused:
            self._waiting.forget(want)
            raise
        self._waiting.forget(want)
        return token

    async def close(self) -> None:
        """Close the connections of its own."""
        await self._holding.close()

    async def _obtain(self, want: Want) -> Token:
        deadline = self._timing.elapsed() + self._patience
        await self._quiet(self._not_before - self._timing.elapsed(), deadline, "the broker asked to be left alone")
        failures, wait = 0, Wait(self._waiting, want)
        while True:
            asked_at = self._timing.elapsed()
            outcome = await self._attempt(_Question(want, self._waiting.of(want), wait.hold()))
            match outcome:
                case Token():
                    return outcome
                case Pending():
                    await wait.pause(outcome, asked_at)
                    failures, deadline = 0, self._timing.elapsed() + self._patience
                case _Later():
                    delay = max(_BACKOFF.delay(failures, self._timing.spread()), outcome.after or 0.0)
                    failures += 1
                    if outcome.after is not None:
                        self._not_before = self._timing.elapsed() + delay
                    await self._quiet(delay, deadline, outcome.why)

    async def _quiet(self, delay: float, deadline: float, why: str) -> None:
        if delay <= 0:
            return
        if self._timing.elapsed() + delay > deadline:
            raise TokenUnavailable(why, retry_after=int(delay) + 1)
        await self._timing.sleep(delay)

    async def _attempt(self, question: _Question) -> Token | _Later | Pending:
        """Ask once (twice, if the broker wants its nonce in the proof)."""
        try:
            url = await self._located()
            asked_at = self._timing.elapsed()
            reply = await self._ask(url, question)
            if self._nonces.remember(url, reply.headers.get("DPoP-Nonce")) and _wants_nonce(reply):
                asked_at = self._timing.elapsed()
                reply = await self._ask(url, question)
        except TokenUnavailable as error:
            return _Later(error.public)
        except BrokerError as error:
            return _Later(f"the broker cannot be reached: {error.public}")
        later = self._asked_to_wait(reply)
        return self._read(reply, question, asked_at) if later is None else later

    async def _ask(self, url: str, question: _Question) -> Reply:
        now = self._timing.wall()
        form = {**await self._identity.parameters(self._issuer, now), **question.want.parameters()}
        if question.want.subject is not None:
            form = _exchanging(form, question.want.subject)
        if question.auth_req_id is not None:
            form["auth_req_id"] = question.auth_req_id
        headers = dict(_FORM)
        if self._key is not None:
            headers["DPoP"] = self._key.proof("POST", url, now=now, nonce=self._nonces.of(url))
        if question.hold < 1 or self._held >= MAX_HELD:
            return await self._post(self._http, url, form, headers)
        self._held += 1
        try:
            return await self._post(self._holding, url, form, headers | {"Prefer": f"wait={question.hold}"})
        finally:
            self._held -= 1

    async def _post(self, http: Outbound, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Reply:
        body = urlencode(form).encode()
        return await http.post(url, body, self._destination, headers=headers, max_bytes=MAX_ANSWER)

    async def _located(self) -> str:
        """Return the token endpoint's URL, from the broker's metadata (RFC 8414)."""
        if self._url is None:
            reply = await self._http.get(self._issuer + METADATA_PATH, self._destination, max_bytes=MAX_ANSWER)
            self._url = read_token_endpoint(read_object(reply), self._issuer)
        return self._url

    def _asked_to_wait(self, reply: Reply) -> _Later | None:
        if reply.status < HTTPStatus.INTERNAL_SERVER_ERROR and reply.status != HTTPStatus.TOO_MANY_REQUESTS:
            return None
        after = retry_after(reply.headers.get("Retry-After"), self._timing.wall())
        if after is not None:  # not all at the same instant, and never so long that a slip silences an agent for good
            after = min(after, MAX_QUIET) * (1 + self._timing.spread() / 10)
        return _Later(f"the broker answers {reply.status}", after)

    def _read(self, reply: Reply, question: _Question, asked_at: float) -> Token | Pending:
        body = read_object(reply)
        if reply.status != HTTPStatus.OK:
            if not isinstance(body.get("error"), str):
                self._url = None
                raise TokenUnavailable(f"the broker answers {reply.status} without a reason")
            pending = read_pending(body, question.auth_req_id)
            if pending is None:
                raise refused(body)
            return pending
        if question.hold:  # which was not the token's time: it was made at the end
            asked_at = max(asked_at, self._timing.elapsed() - TOTAL_SECONDS)
        token_type = _NOT_APPLICABLE if question.want.identity else "Bearer" if self._key is None else "DPoP"
        approved = question.auth_req_id is not None
        return read_token(body, question.want, asked_at, token_type, approved=approved)


def _exchanging(form: Mapping[str, str], subject: Subject) -> dict[str, str]:
    """Return a token request as an exchange (RFC 8693): whoever asked by an assertion grant, now acts by it."""
    exchange = {
        **form,
        "grant_type": _EXCHANGE,
        "subject_token": subject.secret.reveal().decode(),
        "subject_token_type": subject.token_type,
    }
    if "assertion" in exchange:
        exchange["actor_token"] = exchange.pop("assertion")
        exchange["actor_token_type"] = JWT_TYPE
    return exchange


def _wants_nonce(reply: Reply) -> bool:
    return reply.status == HTTPStatus.BAD_REQUEST and read_object(reply).get("error") == "use_dpop_nonce"
