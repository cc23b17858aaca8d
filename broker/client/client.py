"""The client of an agent: tokens when they are needed, the headers that carry them, tasks to work in, and leases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from broker.client.api import Api
from broker.client.cache import TokenCache
from broker.client.dpop import DpopKey, Nonces
from broker.client.endpoint import TokenEndpoint
from broker.client.errors import (
    ApiRefused,
    ApiUnavailable,
    LeaseRefused,
    LeaseUnavailable,
    TaskRefused,
    TaskUnavailable,
    TokenRefused,
)
from broker.client.identity import Identity
from broker.client.lease_answers import LeaseWant
from broker.client.leased_secret import LeasedSecret, OnWarning
from broker.client.leases import ASKING_SECONDS, Leases
from broker.client.receipts import Receipt, ask_receipt
from broker.client.task import OpenTask
from broker.client.token import Details, SubjectTokenType, Token, Want, subject_of, want, want_identity
from broker.client.waiting import OnPending, Waiting
from broker.core.errors import Code
from broker.core.lifetime import format_duration
from broker.core.pacing import Timing
from broker.outbound import Destination, Outbound, destination_of
from broker.timing import SYSTEM

PATIENCE_SECONDS: Final = 30.0
APPROVAL_SECONDS: Final = 600.0
MAX_TOKENS: Final = 1_000
IDENTITY_SCOPE: Final = "identity:issue"


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
        under way; where a person has to decide first, ``approval_seconds`` more (0: not at all). ``on_pending`` is told
        of each request that waits for people: its id, and in how many seconds it ends; it must not block.
        ``destination`` says how the broker may be reached (its own root certificates); by default over https, or plain
        http on this machine.
        """
        self.issuer = issuer
        self._key = DpopKey.generate() if dpop is True else dpop or None
        self._nonces = Nonces()
        self._timing = timing
        self._http = Outbound()
        self._waiting = Waiting(timing, approval_seconds, on_pending)
        there = destination if destination is not None else destination_of(issuer)
        self._endpoint = TokenEndpoint(
            issuer,
            identity,
            key=self._key,
            nonces=self._nonces,
            http=self._http,
            waiting=self._waiting,
            destination=there,
            timing=timing,
            patience=patience,
        )
        self._cache = TokenCache(self._endpoint.obtain, timing, size=max_tokens)
        self._slow = Outbound(total_seconds=ASKING_SECONDS)

        def api(refused: type[ApiRefused], unavailable: type[ApiUnavailable], http: Outbound) -> Api:
            return Api(
                issuer,
                self,
                refused=refused,
                unavailable=unavailable,
                http=http,
                destination=there,
                timing=timing,
                patience=patience,
            )

        self._tasks = api(TaskRefused, TaskUnavailable, self._http)
        self._receipts = api(ApiRefused, ApiUnavailable, self._http)
        self._leases = Leases(api(LeaseRefused, LeaseUnavailable, self._slow), self._waiting, timing, patience=patience)

    # --- tokens -----------------------------------------------------------------------------------------------------

    async def token(
        self,
        audience: str,
        scopes: Iterable[str] = (),
        task: str | None = None,
        *,
        details: Details | None = None,
        may_act: str | None = None,
        break_glass: str | None = None,
        auth_req_id: str | None = None,
    ) -> Token:
        """Return a token for a resource, from the cache while it is good.

        ``scopes`` empty means the agent's default; ``task`` is the id of one that was opened. ``details`` are
        ``authorization_details`` (RFC 9396); ``may_act`` is the id of the only agent that may exchange the token;
        ``break_glass`` is the reason to go ahead without the approval that it would need, where the policy lets.
        ``auth_req_id`` goes on with a request for approval that another process made, for exactly the same.

        Tokens are renewed ahead of their end, in the background, unless a person had to agree. Where one has to, this
        waits for it; everybody who asks for the same waits for the same decision. Raises ``TokenRefused`` when the
        broker or a person says no, ``TokenPending`` when nobody decided in time (asking again goes on with the same
        request), ``TokenUnavailable`` when the broker cannot be asked in time.
        """
        wanted = want(audience, scopes, task, details=details, may_act=may_act, break_glass=break_glass)
        return await self._get(wanted, auth_req_id)

    async def exchange(  # noqa: PLR0913 - as above
        self,
        subject_token: Token | str,
        audience: str,
        scopes: Iterable[str] = (),
        task: str | None = None,
        *,
        subject_token_type: SubjectTokenType = "access_token",
        details: Details | None = None,
        may_act: str | None = None,
        break_glass: str | None = None,
        auth_req_id: str | None = None,
    ) -> Token:
        """Return a token of one's own that comes of another agent's token (RFC 8693), for a part of what that may do.

        ``subject_token_type`` is ``id_token`` or ``jwt`` for the token of an issuer that the policy trusts. ``scopes``
        empty means all that both agents may have; ``task`` can be a task below that of the other token. It ends with
        the other token at the latest, dies with it, and is not renewed in the background. Everything else is as with
        :meth:`token`.
        """
        wanted = want(
            audience,
            scopes,
            task,
            subject=subject_of(subject_token, subject_token_type),
            details=details,
            may_act=may_act,
            break_glass=break_glass,
        )
        return await self._get(wanted, auth_req_id)

    async def identity_token(
        self, audience: str, task: str | None = None, *, subject_token: Token | str | None = None
    ) -> Token:
        """Return an identity token, by which the agent signs in at ``audience``: AWS, Vault, Kubernetes.

        It comes of a token of one's own for the broker's API with the scope ``identity:issue``, which the agent's role
        needs, or of a ``subject_token`` with that scope which one was handed. It cannot be revoked: use it at once, and
        keep what one gets for it no longer than needed. Raises what :meth:`token` raises.
        """
        if subject_token is not None:
            return await self._cache.get(want_identity(audience, task, subject_token))
        own = await self.token(f"{self.issuer}/v1", (IDENTITY_SCOPE,), task)
        try:
            return await self._cache.get(want_identity(audience, task, own))
        except TokenRefused as refused:
            if refused.code is not Code.SUBJECT_TOKEN_INVALID:
                raise
        self.invalidate(own)  # which was revoked since it was got, so it is of no use to anybody
        own = await self.token(f"{self.issuer}/v1", (IDENTITY_SCOPE,), task)
        return await self._cache.get(want_identity(audience, task, own))

    async def authorize(
        self,
        method: str,
        url: str,
        audience: str,
        scopes: Iterable[str] = (),
        task: str | None = None,
        *,
        subject_token: Token | str | None = None,
    ) -> dict[str, str]:
        """Return the headers that authorize one request to ``url``: the token, and a proof of its key if it has one.

        With a ``subject_token`` the token is one that comes of that (:meth:`exchange`). A proof is for one request: ask
        again for the next. Raises what :meth:`token` raises.
        """
        subject = None if subject_token is None else subject_of(subject_token)
        token = await self._cache.get(want(audience, scopes, task, subject=subject))
        access_token = token.access_token
        headers = {"Authorization": f"{token.token_type} {access_token}"}
        if self._key is not None:
            now, nonce = self._timing.wall(), self._nonces.of(url)
            headers["DPoP"] = self._key.proof(method, url, now=now, access_token=access_token, nonce=nonce)
        return headers

    async def _get(self, wanted: Want, auth_req_id: str | None) -> Token:
        if auth_req_id is not None and not self._cache.has(wanted):
            self._waiting.remember(wanted, auth_req_id, expires_in=0)
        return await self._cache.get(wanted)

    def invalidate(self, token: Token | str) -> None:
        """Forget a token that a resource refused (401): the next call asks the broker for a new one."""
        self._cache.drop(token.access_token if isinstance(token, Token) else token)

    def remember_nonce(self, url: str, nonce: str | None) -> bool:
        """Take the ``DPoP-Nonce`` header of an answer from ``url``; whether it is new, so that trying again helps."""
        return self._nonces.remember(url, nonce)

    async def receipt(self, of: Token | str, *, scope: str = "") -> Receipt:
        """Return the ledger's entry of a token, or of any other id that the ledger has about this agent, with receipt.

        An id is that of a token, a lease, a task or a refusal. ``scope`` is any that the agent's role has for the
        broker's API, such as ``tasks:open``; without it, the default. Raises ``ApiRefused`` (``NOT_FOUND``) if the
        ledger has no such entry about this agent, ``ApiUnavailable`` when the broker cannot be asked in time, and what
        :meth:`token` raises.
        """
        return await ask_receipt(self._receipts, of, scope)

    # --- tasks ------------------------------------------------------------------------------------------------------

    def open_task(  # noqa: PLR0913 - what a task can be, passed by name
        self,
        purpose: str,
        *,
        ttl: int | str | None = None,
        scopes: Mapping[str, Sequence[str]] | None = None,
        secrets: Sequence[str] | None = None,
        budget: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        idle_timeout: int | str | None = None,
        parent: str | None = None,
        subject_token: Token | str | None = None,
    ) -> OpenTask:
        """Return a task to be used with ``async with``: opened at the start, kept alive, closed at the end.

        ``purpose`` says what the work is for. ``ttl`` and ``idle_timeout`` are seconds, or texts such as ``15m``;
        ``scopes`` is the ceiling by audience; ``budget`` may name ``tokens``, ``leases`` and ``actions`` (how many of
        each); ``parent`` is the id of the task that it is a part of. What is left out, the role says. The agent's role
        needs ``tasks:open`` and ``tasks:close`` for the broker's own API; a sub-agent that opens a part of somebody
        else's task uses a ``subject_token`` for that API which it was handed.
        """
        wish = {
            "purpose": purpose,
            "ttl": ttl,
            "scopes": None if scopes is None else {audience: list(names) for audience, names in scopes.items()},
            "secrets": None if secrets is None else list(secrets),
            "budget": None if budget is None else dict(budget),
            "labels": None if labels is None else dict(labels),
            "idle_timeout": idle_timeout,
            "parent": parent,
        }
        asked = {name: value for name, value in wish.items() if value is not None}
        return OpenTask(self._tasks, asked, self._cache.drop_task, subject_token=subject_token, timing=self._timing)

    # --- leases -----------------------------------------------------------------------------------------------------

    def lease(  # noqa: PLR0913 - what a lease can be, passed by name
        self,
        secret: str,
        *,
        task: str | None = None,
        ttl: int | str | None = None,
        encrypted: bool = False,
        break_glass: str | None = None,
        auth_req_id: str | None = None,
        subject_token: Token | str | None = None,
        on_warning: OnWarning | None = None,
    ) -> LeasedSecret:
        """Return a leased secret to be used with ``async with``: taken at the start, renewed, given back at the end.

        ``secret`` is its name in the policy; ``task`` the id of one that was opened, which the lease ends with. ``ttl``
        is how long it lasts when nobody renews it: seconds, or a text such as ``5m``; without it, as long as it may.
        With ``encrypted`` it comes encrypted to a key that lives for this one delivery; people who agree to it agree to
        that key, so no other process can go on with their approval. Else ``break_glass`` and ``auth_req_id`` are as
        with :meth:`token`. ``on_warning`` is told in words when the lease cannot be renewed or
        given back; otherwise that is logged. The agent's role needs ``leases:take`` for the broker's own API; a
        sub-agent that works with what it was handed uses a ``subject_token`` for that API.
        """
        wanted = LeaseWant(
            secret=secret,
            task=task,
            ttl=format_duration(ttl) if isinstance(ttl, int) else ttl,
            subject=None if subject_token is None else subject_of(subject_token),
            break_glass=break_glass,
            encrypted=encrypted,
        )
        return LeasedSecret(self._leases, wanted, auth_req_id=auth_req_id, on_warning=on_warning, timing=self._timing)

    # --- life -------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop renewing and waiting, and close all connections."""
        await self._leases.close()
        await self._cache.close()
        await self._endpoint.close()
        await self._slow.close()
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
