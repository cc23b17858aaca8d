"""Checking tokens by asking the broker about each (RFC 7662), for those who want its word and no view of their own."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from typing import Final

import msgspec

from broker.core.access_token import VerifiedToken
from broker.core.errors import BrokerError, Code, Malformed, Unavailable
from broker.core.pacing import Timing
from broker.core.rules import RuleIndex
from broker.outbound import Destination, Outbound
from broker.timing import SYSTEM
from broker.verifier.broker_keys import BrokerKeys
from broker.verifier.following import follow
from broker.verifier.source import Credentials, Source, TokenSource
from broker.verifier.token_verifier import MAX_PROOFS, TokenVerifier
from broker.verifier.verifier import BACKOFF, KEYS_SECONDS

ASKING: Final = 16
"""How many questions are under way at a time; so many more may wait, times :data:`WAITING`."""

WAITING: Final = 16
MAX_REMEMBER: Final = 60.0
MAX_REMEMBERED: Final = 10_000
RETRY_SECONDS: Final = 1

_log: Final = logging.getLogger("broker.verifier")


class _Answer(msgspec.Struct):
    active: bool
    jti: str | None = None


class IntrospectingVerifier(TokenVerifier):
    """Asks the broker about each token, each time. One per process and audience; belongs to one event loop.

    The interface and the errors are those of :class:`~broker.verifier.Verifier`; ``VIEW_STALE`` says that the broker
    did not answer. It cannot watch tokens in use. Its agent must be one that serves the audience by the policy.
    Signature, audience and expiry are checked here first, so that strangers cannot make it ask. With ``remember``
    (seconds, 60 at most) a good answer counts for so long, and a revocation arrives so much later. The other settings
    are as there.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own, passed by name
        self,
        issuer: str,
        audience: str,
        *,
        credentials: Credentials | TokenSource,
        remember: float = 0.0,
        public_url: str | None = None,
        resource_metadata: str | None = None,
        destination: Destination | None = None,
        max_proofs: int = MAX_PROOFS,
        timing: Timing = SYSTEM,
    ) -> None:
        """See the class. Raises ``Malformed`` for settings that cannot work."""
        if not 0 <= remember <= MAX_REMEMBER:
            raise Malformed(f"remember: must be from 0 to {MAX_REMEMBER} seconds")
        self._http = Outbound()
        self._source = Source(
            issuer,
            credentials=credentials,
            http=self._http,
            destination=destination,
            timing=timing,
        )
        unrevoked = RuleIndex()
        super().__init__(
            issuer,
            audience,
            keys=BrokerKeys(self._source.keys, timing),
            rules=lambda: unrevoked,
            public_url=public_url,
            resource_metadata=resource_metadata,
            max_proofs=max_proofs,
            timing=timing,
        )
        self._remember = remember
        self._good_until: OrderedDict[bytes, float] = OrderedDict()
        self._places = asyncio.Semaphore(ASKING)
        self._asking = 0
        self._following: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Fetch the broker's keys, and again from time to time. A broker that is out of reach is no error here."""
        if self._following is None:
            self._following = asyncio.ensure_future(
                follow(
                    "fetching the broker's keys",
                    self._keys.refresh,
                    every=KEYS_SECONDS,
                    backoff=BACKOFF,
                    timing=self._timing,
                )
            )

    async def close(self) -> None:
        """Close all connections. Every token is refused from now on."""
        self._closed = True
        self._good_until.clear()
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._keys.close()
        await self._http.close()

    async def _assure(self, token: str, verified: VerifiedToken) -> None:
        digest = hashlib.sha256(token.encode()).digest()
        if self._timing.elapsed() < self._good_until.get(digest, 0.0):
            return
        self._good_until.pop(digest, None)
        asked = self._timing.elapsed()
        answer = await self._ask(token)
        if not answer.active or answer.jti != verified.claims.jti:
            raise BrokerError(Code.TOKEN_REVOKED, "the token has been revoked")
        if self._remember:
            self._good_until[digest] = asked + self._remember
            if len(self._good_until) > MAX_REMEMBERED:
                self._good_until.popitem(last=False)

    async def _ask(self, token: str) -> _Answer:
        if self._closed or self._asking >= ASKING * (1 + WAITING):
            raise _nobody_says()
        self._asking += 1
        try:
            async with self._places:
                body = await self._source.introspect(token)
            return msgspec.json.decode(body, type=_Answer)
        except (BrokerError, msgspec.DecodeError) as error:
            _log.warning("the broker was not heard about a token: %s", _reason(error))
            raise _nobody_says() from error
        finally:
            self._asking -= 1

    def _require_contact(self) -> None:
        raise _nobody_says()


def _nobody_says() -> Unavailable:
    text = "the broker cannot be asked about tokens now; try again"
    return Unavailable(Code.VIEW_STALE, text, retry_after=RETRY_SECONDS)


def _reason(error: Exception) -> str:
    return error.public if isinstance(error, BrokerError) else type(error).__name__
