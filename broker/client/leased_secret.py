"""A leased secret to work with: taken at the start of a block, renewed while it runs, given back at its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from broker.client.errors import LeaseRefused
from broker.client.lease_answers import LeaseWant, Taken, Term
from broker.client.leases import Leases
from broker.core.errors import BrokerError, Code
from broker.core.pacing import Backoff, Timing

RENEW_AT: Final = 2 / 3
"""The part of a lease's life after which it is renewed."""

FASTEST: Final = 1.0
"""Seconds between two renewals at least; a renewal that gains less than this gains nothing."""

OnWarning = Callable[[str], object]
"""Told in words what went wrong with a lease while it is in use. What it returns does not matter."""

_RETRY: Final = Backoff(first=1.0, longest=30.0)
_log: Final = logging.getLogger("broker.client")


class LeasedSecret:
    """A secret from a backend, for one ``async with`` block; :meth:`broker.client.Client.lease` makes it.

    Within the block ``data`` is the secret. When the block ends, however it ends, the lease is given back, and the
    secret is good for nothing any more, if its backend can end it (``revocable``).
    """

    def __init__(
        self,
        leases: Leases,
        want: LeaseWant,
        *,
        auth_req_id: str | None,
        on_warning: OnWarning | None,
        timing: Timing,
    ) -> None:
        """``on_warning`` is told when the lease cannot be renewed or given back; by default it is logged."""
        self._leases = leases
        self._want = want
        self._auth_req_id = auth_req_id
        self._on_warning = on_warning
        self._timing = timing
        self._taken: Taken | None = None
        self._term: Term | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._over = False

    @property
    def secret(self) -> str:
        """The name of the secret in the policy."""
        return self._want.secret

    @property
    def id(self) -> str:
        """The lease's id. Raises ``RuntimeError`` before it was taken."""
        return self._had.id

    @property
    def task(self) -> str | None:
        """The task that it belongs to, and ends with."""
        return self._had.task

    @property
    def data(self) -> Mapping[str, Any]:
        """The secret itself: use it, and nothing else. Raises ``RuntimeError`` before and after the lease."""
        if self._over:
            raise RuntimeError("the lease is over")
        data: dict[str, Any] = msgspec.json.decode(self._had.data.reveal())
        return data

    @property
    def expires_at(self) -> datetime | None:
        """When it ends unless it is renewed, by the broker's clock; None if it does not end by itself."""
        return self._lasts.expires_at

    @property
    def renewable(self) -> bool:
        """Whether it can be renewed."""
        return self._lasts.renewable

    @property
    def revocable(self) -> bool:
        """Whether its backend can end the secret before it expires."""
        return self._had.revocable

    @property
    def is_over(self) -> bool:
        """Whether it was given back."""
        return self._over

    async def take(self) -> None:
        """Take it, without renewing it and giving it back as the block does.

        Raises ``LeaseRefused``, ``LeaseUnavailable``, ``TokenPending`` if nobody decided in time, and what else getting
        a token raises.
        """
        self._taken = await self._leases.take(self._want, self._auth_req_id)
        self._term = self._taken.term

    async def renew(self) -> None:
        """Let it go on, for as long as at first, as far as tier, task and backend allow. Raises as :meth:`take`."""
        self._term = await self._leases.renew(self.id, self._want)

    async def give_back(self) -> None:
        """End it; again changes nothing. Raises as :meth:`take`; being cancelled once does not interrupt it."""
        if self._over:
            return
        try:
            await self._leases.to_the_end(self._leases.give_back(self.id, self._want))
        except BrokerError as error:
            if error.code is not Code.TASK_NOT_OPEN:  # which ended all leases in it
                raise
        self._over = True

    async def __aenter__(self) -> Self:
        """Take it, and renew it from now on."""
        await self.take()
        self._renewing = asyncio.ensure_future(self._renew_in_time())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back. If that fails, the block's own outcome stands: the lease ends by itself."""
        await self.end()

    async def end(self) -> None:
        """Stop renewing it and give it back; that this fails is only told, since it ends by itself."""
        if self._renewing is not None:
            self._renewing.cancel()
            self._renewing = None
        try:
            await self.give_back()
        except BrokerError as failed:
            self._warn(f"could not be given back ({failed}); it ends {self._until()}")
        finally:
            self._over = True

    def __repr__(self) -> str:
        """Name the secret and the lease, and show nothing else."""
        return f"LeasedSecret({self.secret!r}, id={None if self._taken is None else self._taken.id!r})"

    # --- renewal ----------------------------------------------------------------------------------------------------

    async def _renew_in_time(self) -> None:
        """Renew it again and again, until there is nothing to gain, or nothing to renew any more."""
        failures = 0
        while (ends := self._lasts.ends) is not None and self._lasts.renewable:
            delay = self._until_due() if failures == 0 else _RETRY.delay(failures - 1, self._timing.spread())
            await self._timing.sleep(max(FASTEST, delay))
            if self._timing.elapsed() >= ends:
                return
            try:
                await self.renew()
            except BrokerError as error:
                if isinstance(error, LeaseRefused) and error.code is not Code.BACKEND_UNAVAILABLE:
                    self._warn(f"cannot be renewed ({error}); it ends {self._until()}")
                    return
                if failures == 0:
                    self._warn(f"could not be renewed yet ({error}); it ends {self._until()}")
                failures += 1
                continue
            failures = 0
            if self._lasts.ends is not None and self._lasts.ends < ends + FASTEST:
                self._warn(f"has reached its longest life; it ends {self._until()}")
                return

    def _until_due(self) -> float:
        term = self._lasts
        return term.asked_at + RENEW_AT * (term.seconds or 0) - self._timing.elapsed()

    def _until(self) -> str:
        moment = self._lasts.expires_at
        return "when its backend says so" if moment is None else f"at {moment:%Y-%m-%dT%H:%M:%SZ}"

    def _warn(self, text: str) -> None:
        message = f"the lease {self.id} of {self.secret} {text}"
        if self._on_warning is None:
            _log.warning("%s", message)
            return
        try:
            self._on_warning(message)
        except Exception as error:  # noqa: BLE001 - the caller's own code; only the error's type is safe to log
            _log.error("on_warning failed: %s", type(error).__name__)

    @property
    def _had(self) -> Taken:
        if self._taken is None:
            raise RuntimeError("the lease was not taken yet: use it with async with")
        return self._taken

    @property
    def _lasts(self) -> Term:
        return self._had.term if self._term is None else self._term
