"""The client of an agent: tokens when they are needed, and the headers that carry them."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

from broker.client.cache import TokenCache
from broker.client.dpop import DpopKey, Nonces
from broker.client.endpoint import OnPending, TokenEndpoint
from broker.client.identity import Identity
from broker.client.token import Token, want
from broker.core.pacing import Timing
from broker.outbound import Destination, Outbound, destination_of
from broker.timing import SYSTEM

PATIENCE_SECONDS: Final = 30.0
APPROVAL_SECONDS: Final = 600.0
MAX_TOKENS: Final = 1_000


class Client:
    """Gets tokens from one broker as one agent. Belongs to one event loop; close it, or use it as a context."""

    def __init__(  # noqa: PLR0913 - each is a setting of its own, passed by name
        self,
        issuer: str,
        *,
        identity: Identity,
        dpop: bool | DpopKey = False,
        patience: float = PATIENCE_SECONDS,
        approval_seconds: float = APPROVAL_SECONDS,
        on_pending: OnPending | None = None,
        max_tokens: int = MAX_TOKENS,
        destination: Destination | None = None,
        timing: Timing = SYSTEM,
    ) -> None:
        """``issuer`` is the broker's issuer URL, exactly as its metadata states it.

        ``identity`` is a :class:`~broker.client.KeyIdentity` or a :class:`~broker.client.PlatformIdentity`. With
        ``dpop`` every token is bound to a key (RFC 9449): to the one given, or, if True, to one that is made now and
        never leaves this process. One call waits ``patience`` seconds for the broker, and for the attempt that is then
        under way; where a person has to decide first, ``approval_seconds`` more, and ``on_pending`` is told the id of
        the request and in how many seconds it ends.
        ``destination`` says how the broker may be reached (its own root certificates); by default over https, or plain
        http on this machine.
        """
        self.issuer = issuer
        self._key = DpopKey.generate() if dpop is True else dpop or None
        self._nonces = Nonces()
        self._timing = timing
        self._http = Outbound()
        endpoint = TokenEndpoint(
            issuer,
            identity,
            key=self._key,
            nonces=self._nonces,
            http=self._http,
            destination=destination if destination is not None else destination_of(issuer),
            timing=timing,
            patience=patience,
            approval_seconds=approval_seconds,
            on_pending=on_pending,
        )
        self._cache = TokenCache(endpoint.obtain, timing, size=max_tokens)

    async def token(
        self, audience: str, scopes: Iterable[str] = (), task: str | None = None, **more: str | None
    ) -> Token:
        """Return a token for a resource, from the cache while it is good.

        ``scopes`` empty means the agent's default; ``more`` are ``details``, ``may_act`` and ``break_glass`` (see
        :class:`~broker.client.token.Want`). Tokens are renewed ahead of their end, in the background, unless a person
        had to agree. Raises ``TokenRefused`` when the broker says no, ``TokenUnavailable`` when it cannot be had in
        time, ``TokenPending`` when a person did not decide in time.
        """
        return await self._cache.get(want(audience, scopes, task, **more))

    async def exchange(
        self,
        subject_token: str,
        audience: str,
        scopes: Iterable[str] = (),
        task: str | None = None,
        **more: str | None,
    ) -> Token:
        """Return a token of one's own that comes of another agent's token (RFC 8693), for a part of what that may do.

        ``scopes`` empty means all that both agents may have; ``task`` can be a sub-task. It ends with the other token
        at the latest, and dies with it. Raises what :meth:`token` raises.
        """
        return await self._cache.get(want(audience, scopes, task, subject_token=subject_token, **more))

    async def authorize(
        self, method: str, url: str, audience: str, scopes: Iterable[str] = (), task: str | None = None
    ) -> dict[str, str]:
        """Return the headers that authorize one request to ``url``: the token, and a proof of its key if it has one.

        A proof is for one request: ask again for the next. Raises what :meth:`token` raises.
        """
        token = await self.token(audience, scopes, task)
        access_token = token.access_token
        headers = {"Authorization": f"{token.token_type} {access_token}"}
        if self._key is not None:
            now, nonce = self._timing.wall(), self._nonces.of(url)
            headers["DPoP"] = self._key.proof(method, url, now=now, access_token=access_token, nonce=nonce)
        return headers

    def invalidate(self, token: Token | str) -> None:
        """Forget a token that a resource refused (401): the next call asks the broker for a new one."""
        self._cache.drop(token.access_token if isinstance(token, Token) else token)

    def remember_nonce(self, url: str, nonce: str | None) -> bool:
        """Take the ``DPoP-Nonce`` header of an answer from ``url``; whether it is new, so that trying again helps."""
        return self._nonces.remember(url, nonce)

    async def close(self) -> None:
        """Stop renewing and close all connections."""
        await self._cache.close()
        await self._http.close()

    async def __aenter__(self) -> Self:
        """Nothing is asked before the first token is."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    def __repr__(self) -> str:
        """Name the broker only."""
        return f"Client({self.issuer!r})"
