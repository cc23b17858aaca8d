"""Reserving actions before they are done, and settling them after: budgets that hold, and a log of what was done."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Self, TypeVar
from uuid import uuid4

import msgspec

from broker.core.action import DONE, NOT_DONE
from broker.core.errors import BrokerError, Code, Pending, Unavailable
from broker.core.pacing import retry_after
from broker.core.visible import is_visible
from broker.outbound import Destination, Outbound, Reply, destination_of
from broker.verifier.source import BearerTokens, Credentials, TokenSource

SCOPE: Final = "actions:reserve"
MAX_TEXT: Final = 512

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)
_encode: Final = msgspec.json.Encoder().encode


class _Reserved(msgspec.Struct):
    action_id: str
    left: int | None = None


class _Problem(msgspec.Struct):
    code: str
    detail: str = ""
    auth_req_id: str | None = None
    expires_in: int = 0
    interval: int = 5


@dataclass(slots=True)
class Reservation:
    """An action that may be done now. Say :meth:`not_done` if it was not, so that it goes back into the budget.

    ``left`` is how many more of it the task may have done, None if that is not limited.
    """

    id: str
    left: int | None = None
    outcome: str = DONE
    result: str | None = None

    def not_done(self, why: str | None = None) -> None:
        """Nothing was done, and nothing can have happened: only then does the budget get it back.

        ``why`` is recorded, as ``result`` is otherwise: in a few words, no secrets.
        """
        self.outcome, self.result = NOT_DONE, why


class Actions:
    """Asks the broker before a resource server acts. Belongs to one event loop; close it, or use it as a context."""

    def __init__(
        self, issuer: str, *, credentials: Credentials | TokenSource, destination: Destination | None = None
    ) -> None:
        """``credentials`` are how this server authenticates to the broker; its agent needs ``actions:reserve``."""
        self._issuer = issuer
        self._credentials = BearerTokens(credentials) if callable(credentials) else credentials
        self._destination = destination_of(issuer) if destination is None else destination
        self._http = Outbound()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def __aenter__(self) -> Self:
        """Nothing is asked before the first action is."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    @asynccontextmanager
    async def acting(
        self,
        token: str,
        action: str,
        *,
        count: int = 1,
        scope: str | None = None,
        target: str | None = None,
        arguments: bytes | None = None,
        auth_req_id: str | None = None,
    ) -> AsyncIterator[Reservation]:
        """Reserve an action for the bearer of ``token``, have it done in the body, and settle it.

        ``scope`` is the scope of the token that the action falls under, if it is not the action's own name.
        ``arguments`` are recorded by digest only, ``target`` as printable text of 512 characters at most. Leaving the
        body settles as done, also by an exception: what failed half way may have happened.

        Raises ``BrokerError`` before the body: ``BUDGET_USED_UP``, ``TASK_NOT_OPEN``, ``INSUFFICIENT_SCOPE``,
        ``SUBJECT_TOKEN_INVALID``, ``APPROVAL_DENIED``, ``APPROVAL_EXPIRED``, ``APPROVAL_INVALID``, ``RATE_LIMITED``;
        ``Pending`` if a person can lift the budget: go on with its ``auth_req_id``; ``Unavailable`` if the broker
        cannot be asked, or does not let this server ask: then nothing may be done.
        """
        digest = None if arguments is None else "sha256:" + hashlib.sha256(arguments).hexdigest()
        wish = {"token": token, "action": action, "count": count, "scope": scope, "digest": digest}
        wish |= {"target": _shown(target), "auth_req_id": auth_req_id}
        reserved = await self._reserve({name: one for name, one in wish.items() if one is not None})
        reservation = Reservation(reserved.action_id, reserved.left)
        try:
            yield reservation
        except BaseException as error:
            reservation.result = reservation.result or f"failed: {type(error).__name__}"[:MAX_TEXT]
            raise
        finally:
            await self._settle(reservation)

    async def _reserve(self, wish: dict[str, Any]) -> _Reserved:
        # The key makes a repeated attempt the same reservation.
        reply = await self._post("/v1/actions", wish, {"Idempotency-Key": str(uuid4())}, attempts=2)
        if reply.status != HTTPStatus.CREATED:
            raise _refused(reply)
        return _read(reply, _Reserved)

    async def _settle(self, reservation: Reservation) -> None:
        """Settle; what cannot be settled counts as done, which the log of this process says.

        Whatever goes wrong, the body is over: its caller gets what the body said.
        """
        body = {"outcome": reservation.outcome, "result": _shown(reservation.result)}
        told = {name: one for name, one in body.items() if one is not None}
        try:
            reply = await self._post(f"/v1/actions/{reservation.id}/settle", told, {}, attempts=2)
        except BrokerError as error:
            _log.warning("settling the action %s failed: %s", reservation.id, error.code.value)
        except Exception as error:  # noqa: BLE001 - a credential source of any kind; only the type is safe to log
            _log.warning("settling the action %s failed: %s", reservation.id, type(error).__name__)
        else:
            if reply.status != HTTPStatus.OK:
                _log.warning("settling the action %s failed: the broker answers %d", reservation.id, reply.status)

    async def _post(self, path: str, body: dict[str, Any], more: dict[str, str], *, attempts: int) -> Reply:
        """Post, once more if the connection fails or the broker does not know our token any more."""
        url = self._issuer + path
        while True:
            attempts -= 1
            headers = {**await self._authorized(url), "Content-Type": "application/json", **more}
            try:
                reply = await self._http.post(url, _encode(body), self._destination, headers=headers)
            except Unavailable:
                if not attempts:
                    raise
                continue
            if reply.status != HTTPStatus.UNAUTHORIZED or not attempts:
                return reply
            self._credentials.invalidate(headers.get("Authorization", "").partition(" ")[2])

    async def _authorized(self, url: str) -> Mapping[str, str]:
        """Return what authorizes this server. That it may not ask is no fault of the agent whose token it holds."""
        try:
            return await self._credentials.authorize("POST", url, f"{self._issuer}/v1", (SCOPE,))
        except BrokerError as error:
            _log.warning("this server has no token to ask the broker with: %s", error.code.value)
            text = "the broker does not let this server ask about actions now"
            raise Unavailable(Code.ISSUER_UNAVAILABLE, text, retry_after=error.retry_after) from error


def _shown(text: str | None) -> str | None:
    """Return text as the broker takes it: printable, and not too long; nothing if there is none."""
    if not text:
        return None
    return "".join(character if is_visible(character) else "?" for character in text[:MAX_TEXT])


def _read(reply: Reply, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except msgspec.DecodeError as error:
        raise Unavailable(Code.ISSUER_UNAVAILABLE, f"the broker answers {reply.status} without a reason") from error


def _refused(reply: Reply) -> BrokerError:
    problem = _read(reply, _Problem)
    after = retry_after(reply.headers.get("Retry-After"), 0)
    seconds = None if after is None else int(after)
    try:
        code = Code(problem.code)
    except ValueError:
        return Unavailable(Code.ISSUER_UNAVAILABLE, f"the broker answers {reply.status}", retry_after=seconds)
    if problem.auth_req_id is not None:
        return Pending(
            code,
            problem.detail,
            auth_req_id=problem.auth_req_id,
            expires_in=problem.expires_in,
            interval=problem.interval,
        )
    # A challenge is about the token of this server itself, which the agent can do nothing about.
    if reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR or "WWW-Authenticate" in reply.headers:
        _log.warning("the broker refuses to reserve an action: %d (%s)", reply.status, code.value)
        text = f"the broker answers {reply.status} ({code.value})"
        return Unavailable(Code.ISSUER_UNAVAILABLE, text, retry_after=seconds)
    return BrokerError(code, problem.detail, retry_after=seconds)
