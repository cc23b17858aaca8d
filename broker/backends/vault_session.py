"""Signing in to Vault, and staying signed in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker.backends.vault_failures import certain, reason, refused, unavailable
from broker.backends.vault_http import VaultHttp
from broker.backends.vault_messages import Answer, Ask, Auth
from broker.backends.vault_server import VaultServer
from broker.backends.workers import Workers
from broker.core.errors import BackendFailed, BrokerError
from broker.core.secret import Secret
from broker.ports import Clock

OwnToken = Callable[[str], Awaitable[Secret]]
"""Signs an identity token of the broker itself for an audience."""

MAX_FILE: Final = 64 * 1024
"""Bytes of the longest file with a token or a secret id."""

RETRY_SECONDS: Final = 5.0
"""After a failed renewal, a token that is still good is used for so many seconds before the next try."""

_FORBIDDEN: Final = 403


@dataclass(frozen=True, slots=True)
class _Own:
    """The broker's own token, since when it is held (Unix seconds), and for how long it is good (0: without end)."""

    token: Secret
    since: float
    seconds: int
    renewable: bool

    def is_due(self, now: float) -> bool:
        """Whether two thirds of its life are over; a clock that was set back says so, too."""
        return self.seconds > 0 and not 0 <= now - self.since < self.seconds * 2 / 3

    def is_over(self, now: float) -> bool:
        """Whether it is good no more."""
        return self.seconds > 0 and not 0 <= now - self.since < self.seconds


class VaultSession:
    """Makes requests with the broker's own token, which it has, renews and replaces when a request needs it.

    Signing in happens once for all who need it at the same time. Belongs to one event loop.
    """

    def __init__(
        self, http: VaultHttp, server: VaultServer, workers: Workers, *, clock: Clock, own_token: OwnToken
    ) -> None:
        """Nothing is asked before the first request. ``own_token`` is for the method ``jwt``."""
        self._http = http
        self._server = server
        self._workers = workers
        self._clock = clock
        self._own_token = own_token
        self._own: _Own | None = None
        self._retry_at = 0.0
        self._signing: asyncio.Task[_Own] | None = None

    async def send(self, ask: Ask) -> Answer:
        """Send a request with the broker's own token. Raises like :meth:`VaultHttp.send`, and if it cannot sign in.

        If the token turns out to be dead, the broker signs in anew and asks once more; a request that is refused for
        lack of permission is not repeated.
        """
        own = await self._current()
        answer = await self._http.send(ask, token=own.token)
        if answer.status != _FORBIDDEN or not await self._is_dead(own):
            return answer
        own = await self._replaced(own)
        return await self._http.send(ask, token=own.token)

    async def close(self) -> None:
        """End a sign-in that is under way."""
        if self._signing is not None:
            self._signing.cancel()
            await asyncio.gather(self._signing, return_exceptions=True)

    # --- the token --------------------------------------------------------------------------------------------------

    async def _current(self) -> _Own:
        own, now = self._own, self._clock.now()
        if own is None or own.is_over(now) or (own.is_due(now) and now >= self._retry_at):
            return await self._joined()
        return own

    async def _replaced(self, dead: _Own) -> _Own:
        """Return another token than one that is dead; perhaps somebody else has replaced it already."""
        if self._own is dead:
            self._own = None
        return await self._current()

    async def _is_dead(self, own: _Own) -> bool:
        """Whether Vault knows a token no more; it answers the same to one that lacks a permission."""
        try:
            answer = await self._http.send(Ask("GET", "auth/token/lookup-self", self._namespace), token=own.token)
        except BackendFailed as error:
            raise certain(error) from error
        return answer.status == _FORBIDDEN

    async def _joined(self) -> _Own:
        """Sign in, together with all who want to now; a caller that goes away leaves it to the others."""
        if self._signing is None:
            self._signing = asyncio.create_task(self._signed_in(), name=f"signing in to {self._http.name}")
            self._signing.add_done_callback(self._finished)
        try:
            return await asyncio.shield(self._signing)
        except BackendFailed as error:
            raise certain(error) from error

    def _finished(self, signing: asyncio.Task[_Own]) -> None:
        self._signing = None
        if not signing.cancelled():
            signing.exception()  # whoever waited for it has it

    async def _signed_in(self) -> _Own:
        """Renew the token if it can be renewed, or get another one; keep it if neither works and it is still good."""
        held, now = self._own, self._clock.now()
        if held is not None and held.is_over(now):
            held = None
        try:
            renewed = await self._renewed(held) if held is not None and held.renewable else None
            self._own = renewed or await self._fresh()
        except BackendFailed:
            if held is None:
                raise
            self._retry_at = now + RETRY_SECONDS
            return held
        return self._own

    async def _renewed(self, held: _Own) -> _Own | None:
        """Renew a token. None if that does not gain a third of what it had: its greatest age is near."""
        answer = await self._http.send(Ask("POST", "auth/token/renew-self", self._namespace, body={}), token=held.token)
        if not answer.ok or answer.auth is None or answer.auth.lease_duration * 3 <= held.seconds:
            return None
        return self._held(answer.auth)

    def _held(self, auth: Auth) -> _Own:
        return _Own(Secret(auth.client_token), self._clock.now(), max(auth.lease_duration, 0), auth.renewable)

    # --- signing in -------------------------------------------------------------------------------------------------

    @property
    def _namespace(self) -> str | None:
        return self._server.namespace

    async def _fresh(self) -> _Own:
        sign_in = self._server.sign_in
        match sign_in.method:
            case "token":
                return await self._looked_up(Secret(await self._read("token_file", sign_in.token_file)))
            case "approle":
                secret_id = await self._read("secret_id_file", sign_in.secret_id_file)
                return await self._login({"role_id": sign_in.role_id or "", "secret_id": secret_id})
            case "kubernetes":
                token = await self._read("token_file", sign_in.token_file)
                return await self._login({"role": sign_in.role or "", "jwt": token})
            case "jwt":
                return await self._login({"role": sign_in.role or "", "jwt": await self._signed()})

    async def _login(self, body: dict[str, str]) -> _Own:
        method = self._server.sign_in.method
        ask = Ask("POST", f"auth/{self._server.sign_in.mount or method}/login", self._namespace, body=body)
        answer = await self._http.send(ask, token=None)
        if not answer.ok or answer.auth is None or not answer.auth.client_token:
            said = reason(answer.errors, known=tuple(body.values())) or f"HTTP {answer.status}"
            raise refused(f"{self._http.name} did not let the broker sign in by {method} ({ask.path}): {said}")
        return self._held(answer.auth)

    async def _looked_up(self, token: Secret) -> _Own:
        """Take a token that somebody else made; what it is worth, Vault says."""
        answer = await self._http.send(Ask("GET", "auth/token/lookup-self", self._namespace), token=token)
        if not answer.ok or answer.data is None:
            raise refused(f"{self._http.name} does not accept the token in token_file")
        ttl, renewable = answer.data.get("ttl"), answer.data.get("renewable")
        seconds = ttl if isinstance(ttl, int) and ttl > 0 else 0
        return _Own(token, self._clock.now(), seconds, renewable is True and seconds > 0)

    async def _signed(self) -> str:
        try:
            token = await self._own_token(self._server.sign_in.audience or self._server.address)
        except BrokerError as error:
            raise unavailable(f"the broker could not sign an identity token for {self._http.name}") from error
        return token.reveal().decode()

    async def _read(self, member: str, path: str | None) -> str:
        """Read what a file holds. The text of a failure names the setting, not the path."""

        def read() -> bytes:
            with Path(path or "").open("rb") as file:
                return file.read(MAX_FILE + 1)

        try:
            content = (await self._workers.run(read)).decode("ascii").strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "not text"
            raise refused(f"the {member} of {self._http.name} cannot be read ({why})") from error
        if not content or len(content) > MAX_FILE:
            raise refused(f"the {member} of {self._http.name} is empty or too long")
        return content
