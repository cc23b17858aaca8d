"""Checking the broker's access tokens offline, against keys and rules that are followed in the background."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from broker.core.access_token import VerifiedToken
from broker.core.errors import BrokerError, Code, Malformed, Unavailable
from broker.core.jwt import InvalidToken
from broker.core.pacing import Backoff, Timing
from broker.core.propagation import MAX_AGE
from broker.core.statement import LIFETIME, StatementError
from broker.outbound import Destination, Outbound
from broker.timing import SYSTEM
from broker.verifier.acknowledging import Acknowledging
from broker.verifier.broker_keys import BrokerKeys
from broker.verifier.following import follow
from broker.verifier.recording import Recording
from broker.verifier.source import Credentials, Source, TokenSource
from broker.verifier.statements import Statements
from broker.verifier.subscription import Subscription
from broker.verifier.token_verifier import MAX_PROOFS, TokenVerifier, Verified
from broker.verifier.view import News, RolledBack, View
from broker.verifier.watching import Ended, Hanging, Watch, Watches

POLL_SECONDS: Final = 1.0
MAX_STALENESS: Final = 10.0
LEEWAY: Final = 5.0
FIRST_VIEW_SECONDS: Final = 5.0
KEYS_SECONDS: Final = 300.0
FOLLOWED_SECONDS: Final = 3.0
"""While the stream made the view younger within so many seconds, snapshots are not polled."""

RECONNECT_SECONDS: Final = 0.5
KEEP_SECONDS: Final = 30.0

BACKOFF: Final = Backoff(first=0.5, longest=5.0)

_STREAM_BACKOFF: Final = Backoff(first=0.5, longest=10.0)


@dataclass(frozen=True, slots=True)
class Following:
    """How a verifier keeps up: for logs, health checks and metrics.

    ``streaming`` says whether rules come by the stream now, rather than by polling; ``pending`` is how many stand above
    every epoch, since they are not durable; ``watched`` how many tokens in use are watched. ``refused`` counts
    statements that were not believed, by reason: forged ones, those of others, those that were not understood.
    """

    epoch: int | None
    age: float
    fresh: bool
    streaming: bool
    pending: int
    watched: int
    refused: Mapping[str, int]


class Verifier(TokenVerifier):
    """What a resource server checks access tokens with. One per process and audience; belongs to one event loop.

    ``issuer`` is the broker's issuer URL, ``audience`` this resource server's own name in the policy.

    ``credentials`` are how this server authenticates to the broker: a ``broker.client.Client``, or a coroutine
    function that returns a token; its agent needs the scope ``revocations:read``. Rules come by the broker's stream;
    where there is none, or while it is silent, they are fetched every ``poll`` seconds. When the view of them is older
    than ``max_staleness`` seconds, every token is refused with ``VIEW_STALE``. ``leeway`` is by how many seconds the
    clocks of the broker and of this host may differ: an old statement, replayed by somebody in between, passes for that
    much longer (for twice that, if they do differ). ``name`` tells this process from others of the same agent, when it
    acknowledges rules. ``keep`` is a file of this process alone in which the view is kept for the next start.

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
        name: str | None = None,
        keep: Path | None = None,
        public_url: str | None = None,
        resource_metadata: str | None = None,
        destination: Destination | None = None,
        max_proofs: int = MAX_PROOFS,
        timing: Timing = SYSTEM,
    ) -> None:
        """See the class. Raises ``Malformed`` for settings that cannot work."""
        # What the broker is told: after so long without news nothing is accepted here, however the clocks differ.
        max_age = max_staleness + 2 * leeway
        if not 0 < poll < max_staleness <= LIFETIME or leeway < 0 or max_age > MAX_AGE:
            text = f"must hold: 0 < poll < max_staleness <= {LIFETIME}, leeway >= 0, max_staleness + 2 * leeway <= 600"
            raise Malformed(text)
        self._poll = poll
        self._http = Outbound()
        self._source = Source(
            issuer,
            credentials=credentials,
            http=self._http,
            destination=destination,
            timing=timing,
        )
        keys = BrokerKeys(self._source.keys, timing)
        self._view = View(timing, max_staleness=max_staleness, leeway=leeway)
        self._watches = Watches(keys=lambda: keys.current, left=self._view.left, timing=timing)
        self._view.tell(self._watches.told)
        super().__init__(
            issuer,
            audience,
            keys=keys,
            rules=lambda: self._view.rules,
            public_url=public_url,
            resource_metadata=resource_metadata,
            max_proofs=max_proofs,
            timing=timing,
        )
        self._statements = Statements(issuer, keys=keys, leeway=leeway, wall=timing.wall)
        self._recording = Recording(keep)
        self._acknowledging = Acknowledging(
            source=self._source, view=self._view, name=name, max_age=max_age, timing=timing
        )
        self._subscription = Subscription(
            source=self._source,
            statements=self._statements,
            view=self._view,
            recording=self._recording,
            snapshot=self.poll,
            applied=self._applied,
            silence=max_staleness,
            timing=timing,
        )
        self._first_view = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # --- life -------------------------------------------------------------------------------------------------------

    async def start(self, wait: float = FIRST_VIEW_SECONDS) -> None:
        """Begin to follow the broker, and wait until it knows of the first view, ``wait`` seconds at most.

        So revoking waits for this process before it accepts its first token. A broker that cannot be reached is no
        error here: tokens are refused with ``VIEW_STALE`` until it can be.
        """
        if self._tasks:
            return
        again = partial(follow, timing=self._timing)
        loops = [
            again("fetching the broker's keys", self._keys.refresh, every=KEYS_SECONDS, backoff=BACKOFF),
            again("fetching the revocation rules", self._poll_if_silent, every=self._poll, backoff=BACKOFF),
            again(
                "following the stream of rules",
                self._subscription.follow,
                every=RECONNECT_SECONDS,
                backoff=_STREAM_BACKOFF,
            ),
            self._acknowledging.follow(),
        ]
        if self._recording.path is not None:
            loops.append(again("keeping the view", self._recording.save, every=KEEP_SECONDS, backoff=BACKOFF))
        self._tasks = [asyncio.ensure_future(loop) for loop in loops]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._first_view.wait()
                await self._acknowledging.tried.wait()

    async def close(self) -> None:
        """Stop following. Every token is refused from now on, and those in use end."""
        started = bool(self._tasks)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self._view.leave()
        await self._watches.close()
        if started:
            await self._recording.save()
            await self._acknowledging.leave()
        await self._keys.close()
        await self._http.close()

    # --- the view ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What the broker knows this process by, besides its agent."""
        return self._acknowledging.name

    @property
    def epoch(self) -> int | None:
        """The epoch of the newest statement; None before the first."""
        return self._view.epoch

    def view_age(self) -> float:
        """For how many seconds there may have been revocations that are not known here; infinite before the first."""
        return self._view.age()

    def following(self) -> Following:
        """Return how this verifier keeps up with the broker now."""
        return Following(
            epoch=self._view.epoch,
            age=self._view.age(),
            fresh=self._view.is_fresh(),
            streaming=self._subscription.confirmed_ago() < FOLLOWED_SECONDS,
            pending=len(self._view.pending),
            watched=len(self._watches),
            refused=dict(self._subscription.refused),
        )

    async def poll(self) -> None:
        """Fetch the rules once, now. Raises ``BrokerError`` if there is no newer view afterwards."""
        await self._subscription.recall()
        newest, asked = self._view.newest, self._view.now()
        token = await self._source.snapshot()
        try:
            if self._view.accept(await self._statements.snapshot(token), asked) is News.TAKEN:
                self._recording.note("snapshot", token)
                self._applied()
        except InvalidToken as error:
            raise self._subscription.refuse(error.why, error) from error
        except StatementError as error:
            raise self._subscription.refuse("unreadable", error) from error
        except RolledBack as error:
            if self._view.newest == newest:  # else the stream was faster, and there is a newer view
                self._subscription.refused["rolled_back"] += 1
                text = "the broker's snapshot is refused: it is older than one that was seen before"
                raise Unavailable(Code.ISSUER_UNAVAILABLE, text) from error
        if not self._view.is_fresh():
            text = "the broker's snapshot is already too old: an old copy, or the clocks differ"
            raise Unavailable(Code.VIEW_STALE, text)

    async def _poll_if_silent(self) -> None:
        if self._subscription.confirmed_ago() >= FOLLOWED_SECONDS:
            await self.poll()

    def _applied(self) -> None:
        self._acknowledging.applied()
        if self._view.is_fresh():
            self._first_view.set()

    # --- tokens -----------------------------------------------------------------------------------------------------

    def watch(self, verified: Verified, ended: Ended) -> Watch:
        """Hear at once, and once, when a token in use is good no more: revoked, expired, or nobody can say any more.

        ``ended`` is called on the event loop with ``TOKEN_REVOKED``, ``TOKEN_EXPIRED``, ``TOKEN_INVALID`` (the key that
        signed it is gone) or ``VIEW_STALE``; it must not block. Raises ``BrokerError`` if it is no good already.
        """
        claims = verified.claims
        token = VerifiedToken(claims, verified.kid, claims.facts(verified.kid))
        if self._check.killer(token) is not None:
            raise BrokerError(Code.TOKEN_REVOKED, "the token has been revoked")
        if claims.exp <= self._timing.wall():
            raise BrokerError(Code.TOKEN_EXPIRED, "the token has expired")
        self._view.require_fresh()
        return self._watches.add(token, ended)

    @asynccontextmanager
    async def while_good(self, verified: Verified) -> AsyncIterator[None]:
        """Return a context whose body is cancelled when the token is good no more.

        Then it raises ``BrokerError`` with the codes that :meth:`watch` tells.
        """
        async with Hanging() as hanging:
            hanging.on(partial(self.watch, verified))
            yield

    async def _assure(self, token: str, verified: VerifiedToken) -> None:  # noqa: ARG002 - the rules were looked at
        self._view.require_fresh()

    def _require_contact(self) -> None:
        self._view.require_fresh()
