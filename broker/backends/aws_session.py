"""Requests to AWS with the broker's own credentials: which those are, how they are renewed, and what may go wrong."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import boto3  # type: ignore[import-untyped]
from botocore import UNSIGNED, xform_name  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.credentials import (  # type: ignore[import-untyped]
    CredentialProvider,
    CredentialResolver,
    DeferredRefreshableCredentials,
)
from botocore.session import get_session  # type: ignore[import-untyped]

from broker.backends.aws_failures import EXPIRED, AwsFailed, failure
from broker.backends.aws_transport import bound_answers
from broker.backends.workers import SLACK_SECONDS, Workers
from broker.core.secret import Secret
from broker.ports import Clock

OwnToken = Callable[[str], Awaitable[Secret]]
"""Signs an identity token of the broker itself for an audience."""

AUDIENCE: Final = "sts.amazonaws.com"
"""The audience of identity tokens for AWS."""

OWN_SESSION: Final = "credential-broker"
"""The name of the broker's own session with AWS, which CloudTrail shows."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsAccount:
    """An AWS account as it is reached. ``endpoint`` is another URL than AWS's own.

    With ``web_identity_role``, the ARN of a role, the broker has no lasting key: it assumes that role with an identity
    token that it signs itself. Otherwise its credentials are those of the machine (boto3's own chain).
    """

    region: str
    endpoint: str | None = None
    web_identity_role: str | None = None
    concurrency: int = 16
    timeout_seconds: float = 10.0


class AwsSession:
    """Makes requests to AWS, each once: what failed is tried again by those who know whether it may be.

    There is one client for each service and region; all are made anew if AWS takes the broker's credentials no more.
    """

    def __init__(self, name: str, account: AwsAccount, *, clock: Clock, own_token: OwnToken) -> None:
        """Nothing is asked before the first request. ``name`` is the backend's."""
        self.name = name
        self._account = account
        self._clock = clock
        self._own_token = own_token
        self._workers = Workers(name, count=account.concurrency, seconds=account.timeout_seconds)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._renewing = threading.Lock()
        self._clients = self._fresh_clients()
        # At DEBUG these would log whole requests and answers, with all secrets in them.
        for logger in ("boto3", "botocore"):
            logging.getLogger(logger).setLevel(logging.WARNING)

    @property
    def region(self) -> str:
        """The region of the account's settings."""
        return self._account.region

    async def run(self, work: Callable[[], T], *, requests: int = 1) -> T:
        """Run what makes up to so many requests by :meth:`request`, in a thread. Raises ``BackendFailed`` only."""
        self._loop = asyncio.get_running_loop()
        return await self._workers.run(work, seconds=requests * self._account.timeout_seconds + SLACK_SECONDS)

    async def token(self) -> Secret:
        """Return an identity token of the broker for AWS. Raises ``BackendFailed``."""
        try:
            return await self._own_token(AUDIENCE)
        except Exception as error:  # noqa: BLE001 - whoever signs may fail as it likes
            failed = failure(self.name, "identity token", error)
        failed.uncertain = False
        raise failed

    def request(
        self,
        action: str,
        resource: str,
        parameters: dict[str, Any],
        *,
        region: str | None = None,
        signed: bool = True,
        effect: bool = True,
    ) -> dict[str, Any]:
        """Make one request, in a thread of :meth:`run`, and return AWS's answer. Raises ``AwsFailed``.

        ``action`` is written as IAM does, such as ``sts:AssumeRole``; ``resource`` is for the text of errors. Without
        ``effect`` it changes nothing, and no failure is uncertain.
        """
        clients = self._clients
        answer = self._once(clients, action, resource, parameters, region=region, signed=signed)
        if isinstance(answer, AwsFailed) and signed and answer.error in EXPIRED:
            clients = self._renewed(clients)
            answer = self._once(clients, action, resource, parameters, region=region)
        if isinstance(answer, AwsFailed):
            answer.uncertain = answer.uncertain and effect
            raise answer
        return answer

    async def close(self) -> None:
        """Take no more requests, and close idle connections."""
        await self._workers.close()
        self._clients.close()

    def _once(
        self,
        clients: _Clients,
        action: str,
        resource: str,
        parameters: dict[str, Any],
        *,
        region: str | None,
        signed: bool = True,
    ) -> dict[str, Any] | AwsFailed:
        service, _, operation = action.partition(":")
        try:
            client = clients.of(service, region or self._account.region, signed=signed)
            answer: dict[str, Any] = getattr(client, xform_name(operation))(**parameters)
        except Exception as error:  # noqa: BLE001 - boto raises what it likes, and some of it holds secrets
            return failure(self.name, f"{action} on {resource}", error)
        return answer

    def _renewed(self, stale: _Clients) -> _Clients:
        """Replace clients whose credentials are good no more, once for all who noticed."""
        with self._renewing:
            if self._clients is stale:
                self._clients = self._fresh_clients()
                stale.close()
            return self._clients

    def _fresh_clients(self) -> _Clients:
        own = None if self._account.web_identity_role is None else _WebIdentity(self._assume, self._now)
        return _Clients(self.name, self._account, own)

    def _assume(self) -> dict[str, str]:
        """Assume the broker's own role, and return its credentials as boto wants them. Runs in a thread."""
        role = self._account.web_identity_role or ""
        parameters = {"RoleArn": role, "RoleSessionName": OWN_SESSION, "WebIdentityToken": self._token_from_thread()}
        answer = self.request("sts:AssumeRoleWithWebIdentity", role, parameters, signed=False, effect=False)
        made = answer["Credentials"]
        return {
            "access_key": made["AccessKeyId"],
            "secret_key": made["SecretAccessKey"],
            "token": made["SessionToken"],
            "expiry_time": made["Expiration"].isoformat(),
        }

    def _token_from_thread(self) -> str:
        loop = self._loop
        if loop is None:
            raise AssertionError("requests are made in threads of run()")
        waiting = asyncio.run_coroutine_threadsafe(self.token(), loop)
        try:
            return waiting.result(self._account.timeout_seconds).reveal().decode()
        finally:
            waiting.cancel()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)


class _Clients:
    """The clients of one set of credentials. Boto's sessions are for one thread at a time, its clients for many."""

    def __init__(self, name: str, account: AwsAccount, own: CredentialProvider | None) -> None:
        self._name = name
        self._account = account
        self._lock = threading.RLock()  # making a client may need another one, for credentials
        self._made: dict[tuple[str, str, bool], Any] = {}
        session = get_session()
        if own is not None:
            session.register_component("credential_provider", CredentialResolver([own]))
        self._session = boto3.Session(botocore_session=session, region_name=account.region)

    def of(self, service: str, region: str, *, signed: bool) -> Any:  # noqa: ANN401 - boto3's clients are untyped
        """Return the one client; the first caller makes it."""
        with self._lock:
            key = (service, region, signed)
            if key not in self._made:
                self._made[key] = self._make(service, region, signed=signed)
            return self._made[key]

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            for client in self._made.values():
                client.close()

    def _make(self, service: str, region: str, *, signed: bool) -> Any:  # noqa: ANN401
        seconds = self._account.timeout_seconds
        config = Config(
            connect_timeout=seconds,
            read_timeout=seconds,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=self._account.concurrency,
            **({} if signed else {"signature_version": UNSIGNED}),
        )
        client = self._session.client(service, region_name=region, endpoint_url=self._account.endpoint, config=config)
        bound_answers(client, self._name, seconds)
        return client


class _WebIdentity(CredentialProvider):  # type: ignore[misc]
    """Gives boto the credentials of the broker's own role, which it has renewed before they expire."""

    METHOD = "credential-broker"

    def __init__(self, assume: Callable[[], dict[str, str]], now: Callable[[], datetime]) -> None:
        super().__init__()
        self._assume = assume
        self._now = now

    def load(self) -> DeferredRefreshableCredentials:
        return DeferredRefreshableCredentials(self._assume, self.METHOD, self._now)
