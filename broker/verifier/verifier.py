"""Checking the broker's access tokens offline, against keys and rules that are followed in the background."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from broker.core.access_token import VerifiedToken
from broker.core.claims import AccessClaims
from broker.core.dpop import MAX_REMEMBERED, PROOF_SHARES, ReplayWindow, check_proof
from broker.core.errors import BrokerError, Code, Malformed, Unavailable
from broker.core.jwt import InvalidToken
from broker.core.pacing import Backoff, Timing
from broker.core.snapshot import Snapshot
from broker.core.statement import LIFETIME, StatementError
from broker.core.tally import Allowance
from broker.core.token_check import TokenCheck
from broker.outbound import Destination, Outbound, destination_of
from broker.timing import SYSTEM
from broker.verifier.broker_keys import BrokerKeys
from broker.verifier.following import follow
from broker.verifier.presented import BEARER, DPOP, Headers, Presented, presented
from broker.verifier.source import BearerTokens, Credentials, Source, TokenSource
from broker.verifier.view import RolledBack, View

POLL_SECONDS: Final = 1.0
MAX_STALENESS: Final = 10.0
LEEWAY: Final = 5.0
FIRST_VIEW_SECONDS: Final = 5.0
KEYS_SECONDS: Final = 300.0
RETRY_PROOF_SECONDS: Final = 60

_BACKOFF: Final = Backoff(first=0.5, longest=5.0)
_log: Final = logging.getLogger("broker.verifier")


@dataclass(frozen=True, slots=True)
class Verified:
    """A token that is good right now, for this resource. ``kid`` is the thumbprint of the key that signed it."""

    claims: AccessClaims
    kid: str


class Verifier:
    """What a resource server checks access tokens with. One per process and audience; belongs to one event loop.

    ``issuer`` is the broker's issuer URL, ``audience`` this resource server's own name in the policy.

    ``credentials`` are how this server authenticates to the broker: a ``broker.client.Client``, or a coroutine
    function that returns a token; its agent needs the scope ``revocations:read``. Rules are fetched every ``poll``
    seconds. When the view of them is older than ``max_staleness`` seconds, every token is refused with
    ``VIEW_STALE``. ``leeway`` is by how many seconds the clocks of the broker and of this host may differ: an
    old snapshot, replayed by somebody in between, passes for that much longer (for twice that, if they do differ).

    ``public_url`` is what stands in front of this application's paths as clients see it, from which the URL that
    DPoP proofs must name is built (never from ``Host``); without it, the audience's scheme, host and port.
    ``resource_metadata`` is the URL of this resource's RFC 9728 metadata, for challenges to name. ``destination``
    says how the broker may be reached (its own root certificates); by default over https, or plain http on this
    machine. At most ``max_proofs`` used DPoP proofs are remembered; when there is no room, new ones are refused,
    and one agent may use a quarter of the room in a minute.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own, passed by name
        self,
        issuer: str,
        audience: str,
        *,
        credentials: Credentials | TokenSource,
        poll: float = POLL_SECONDS,
        max_staleness: float = MAX_STALENESS,
        leeway: float = LEEWAY,
        public_url: str | None = None,
        resource_metadata: str | None = None,
        destination: Destination | None = None,
        max_proofs: int = MAX_REMEMBERED,
        timing: Timing = SYSTEM,
    ) -> None:
        """See the class. Raises ``Malformed`` for settings that cannot work."""
        if not 0 < poll < max_staleness <= LIFETIME or leeway < 0:
            raise Malformed(f"must hold: 0 < poll < max_staleness <= {LIFETIME}, and leeway >= 0")
        self.issuer = issuer
        self.audience = audience
        self.resource_metadata = resource_metadata
        self._public_url = _public_url(public_url, audience)
        self._poll = poll
        self._timing = timing
        self._http = Outbound()
        self._source = Source(
            issuer,
            credentials=BearerTokens(credentials) if callable(credentials) else credentials,
            http=self._http,
            destination=destination if destination is not None else destination_of(issuer),
            timing=timing,
            leeway=leeway,
        )
        self._keys = BrokerKeys(self._source.keys, timing)
        self._view = View(timing, max_staleness=max_staleness, leeway=leeway)
        self._check = TokenCheck(issuer=issuer, keys=lambda: self._keys.current, rules=lambda: self._view.rules)
        self._proofs = ReplayWindow(max_proofs, since=timing.wall())
        self._fair_share = Allowance(max(1, max_proofs // PROOF_SHARES))
        self._first_view = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self, wait: float = FIRST_VIEW_SECONDS) -> None:
        """Begin to follow the broker, and wait for the first view, ``wait`` seconds at most.

        A broker that cannot be reached is no error here: tokens are refused with ``VIEW_STALE`` until it can be.
        """
        if self._tasks:
            return
        follow_rules = follow(
            "fetching the revocation rules", self.poll, every=self._poll, backoff=_BACKOFF, timing=self._timing
        )
        follow_keys = follow(
            "fetching the broker's keys", self._keys.refresh, every=KEYS_SECONDS, backoff=_BACKOFF, timing=self._timing
        )
        self._tasks = [asyncio.ensure_future(follow_keys), asyncio.ensure_future(follow_rules)]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._first_view.wait(), wait)

    async def close(self) -> None:
        """Stop following. The view ages from now on, and tokens are soon refused."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._keys.close()
        await self._http.close()

    async def __aenter__(self) -> Self:
        """Start, as :meth:`start` does."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    # --- the view ---------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int | None:
        """The epoch of the newest snapshot; None before the first."""
        return self._view.epoch

    def view_age(self) -> float:
        """For how many seconds there may have been revocations that are not known here; infinite before the first."""
        return self._view.age()

    async def poll(self) -> None:
        """Fetch the rules once, now. Raises ``BrokerError`` if there is no newer view afterwards."""
        asked = self._view.now()
        token = await self._source.snapshot()
        try:
            snapshot = await self._read(token)
            self._view.accept(snapshot, asked)
        except (InvalidToken, StatementError) as error:
            raise Unavailable(Code.ISSUER_UNAVAILABLE, f"the broker's snapshot is refused: {error}") from error
        except RolledBack as error:
            text = "the broker's snapshot is refused: it is older than one that was seen before"
            raise Unavailable(Code.ISSUER_UNAVAILABLE, text) from error
        if not self._view.is_fresh():
            text = "the broker's snapshot is already too old: an old copy, or the clocks differ"
            raise Unavailable(Code.VIEW_STALE, text)
        self._first_view.set()

    async def _read(self, token: str) -> Snapshot:
        try:
            return await self._source.read(token, self._keys.current)
        except InvalidToken as error:
            if error.why != "kid":
                raise
        await self._keys.refresh()  # what the broker signs with a new key is told apart from what strangers send
        return await self._source.read(token, self._keys.current)

    # --- tokens -----------------------------------------------------------------------------------------------------

    async def verify(
        self,
        token: str,
        *,
        scopes: Iterable[str] = (),
        method: str | None = None,
        url: str | None = None,
        proof: str | None = None,
    ) -> Verified:
        """Return what a token says, if it is good now, for this resource, and has all of ``scopes``.

        A token that is bound to a key needs its DPoP ``proof``, and the ``method`` and public ``url`` of the request
        that it came with; a token that is not must come without one. Raises ``BrokerError``: ``TOKEN_INVALID``,
        ``TOKEN_EXPIRED``, ``TOKEN_AUDIENCE``, ``TOKEN_REVOKED``, ``PROOF_INVALID``, ``PROOF_REPLAYED``,
        ``RATE_LIMITED`` (too many proofs), ``INSUFFICIENT_SCOPE``, or ``VIEW_STALE``, which is not the token's fault.
        """
        scheme = BEARER if proof is None else DPOP
        return await self._verify(Presented(scheme, token, proof), scopes, method, url)

    async def verify_request(self, headers: Headers, method: str, path: str, *, scopes: Iterable[str] = ()) -> Verified:
        """Check the token of an HTTP request; ``path`` is the request's path as it was sent (percent-encoded).

        Raises what :meth:`verify` raises, and ``TOKEN_MISSING``, ``PROOF_REQUIRED`` or ``MALFORMED_REQUEST``; how to
        answer each of them is told by :func:`broker.verifier.answer`.
        """
        url = None if self._public_url is None else self._public_url + path
        return await self._verify(presented(headers), scopes, method, url)

    async def _verify(
        self, presented: Presented, scopes: Iterable[str], method: str | None, url: str | None
    ) -> Verified:
        now = self._timing.wall()
        verified = await self._known_good(presented.token, now)
        self._view.require_fresh()
        claims = verified.claims
        if claims.jkt is not None:
            self._prove(presented, claims, method, url, now)
        elif presented.scheme == DPOP:
            raise BrokerError(Code.TOKEN_INVALID, "the token is not bound to a key: present it as Bearer")
        needed = scope_names(scopes)
        if not set(needed).issubset(claims.scopes):
            raise BrokerError(Code.INSUFFICIENT_SCOPE, f"this needs the scope {' '.join(needed)}")
        return Verified(claims, verified.kid)

    async def _known_good(self, token: str, now: float) -> VerifiedToken:
        """Check everything but freshness; a token signed with an unknown key makes the keys be fetched, if rarely."""
        try:
            return self._check.check(token, now, self.audience)
        except BrokerError as error:
            if not _unknown_key(error):
                raise
        fetched = False
        with contextlib.suppress(BrokerError):
            fetched = await self._keys.refresh_for_unknown()
        if not fetched:
            self._view.require_fresh()  # without the broker, nobody knows whether the key is no good or merely new
        return self._check.check(token, now, self.audience)

    def _prove(
        self, presented: Presented, claims: AccessClaims, method: str | None, url: str | None, now: float
    ) -> None:
        if presented.proof is None:
            text = "the token is bound to a key: present it with the DPoP scheme and a proof"
            raise BrokerError(Code.TOKEN_INVALID, text)
        if method is None or url is None:
            raise BrokerError(Code.PROOF_INVALID, "a proof is for one method and one URL: both are needed to check it")
        proof = check_proof(presented.proof, method=method, url=url, now=now, access_token=presented.token)
        if proof.jkt != claims.jkt:
            raise BrokerError(Code.PROOF_INVALID, "the proof is made with another key than the token is bound to")
        if not self._fair_share.admit(claims.client_id, now):
            text = "too many proofs in a minute; every one has to be remembered"
            raise BrokerError(Code.RATE_LIMITED, text, retry_after=RETRY_PROOF_SECONDS)
        if not self._proofs.use(proof.replay_key, proof.expires_at, now):
            raise BrokerError(Code.PROOF_REPLAYED, "the proof was used before, or may have been: make a new one")


def scope_names(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return scopes one by one; they may be given as one text, separated by spaces, as OAuth does."""
    return tuple(scopes.split() if isinstance(scopes, str) else scopes)


def _unknown_key(error: BrokerError) -> bool:
    cause = error.__cause__
    return isinstance(cause, InvalidToken) and cause.why == "kid"


def _public_url(configured: str | None, audience: str) -> str | None:
    """Return what stands in front of a request's path, without a trailing slash; None if nothing was configured."""
    if configured is not None:
        return configured.rstrip("/")
    parts = urlsplit(audience)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme in ("https", "http") and parts.netloc else None
