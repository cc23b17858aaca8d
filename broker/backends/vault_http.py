"""Requests to Vault: bounded in time and size, sent once, never redirected, and nothing about them is logged."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final

import msgspec
import requests
import urllib3
from hvac.adapters import RawAdapter  # type: ignore[import-untyped]
from requests.adapters import HTTPAdapter

from broker.backends.vault_failures import (
    busy,
    forwarded,
    not_to_be_sent,
    said_no,
    server_failed,
    too_long,
    too_slow,
    undelivered,
    unreadable,
)
from broker.backends.vault_server import VaultServer
from broker.backends.workers import Workers
from broker.core.errors import BackendFailed
from broker.core.secret import Secret

MAX_BYTES: Final = 1024 * 1024
"""The longest answer that is read."""

CONNECT_SECONDS: Final = 5.0

_CHUNK: Final = 64 * 1024
_HEADER_TEXT: Final = re.compile(r"[!-~]{1,4096}")
_OK: Final = range(200, 300)
_REDIRECTS: Final = range(300, 400)
_TOO_MANY: Final = 429
_FAILED: Final = 500


class Auth(msgspec.Struct, frozen=True):
    """A token that Vault made. ``lease_duration`` is in seconds; 0: it does not end."""

    client_token: str
    accessor: str = ""
    lease_duration: int = 0
    renewable: bool = False

    def __repr__(self) -> str:
        return "Auth(…)"


class _Body(msgspec.Struct, frozen=True):
    lease_id: str = ""
    lease_duration: int = 0
    renewable: bool = False
    data: dict[str, Any] | None = None
    auth: Auth | None = None
    errors: list[str] | None = None

    def __repr__(self) -> str:
        return "_Body(…)"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request: a path below ``/v1/``, and in which namespace. ``body`` is sent as JSON, ``query`` in the URL."""

    method: str
    path: str
    namespace: str | None = None
    body: Mapping[str, object] | None = None
    query: Mapping[str, str] | None = None

    def __repr__(self) -> str:
        return f"Ask({self.method} {self.path})"


class Answer:
    """An answer with status 2xx or 4xx. ``errors`` are Vault's words; they may quote what it was asked."""

    __slots__ = ("auth", "data", "errors", "lease_duration", "lease_id", "renewable", "status")

    def __init__(self, status: int, body: _Body) -> None:
        """Take what was decoded."""
        self.status = status
        self.lease_id = body.lease_id
        self.lease_duration = body.lease_duration
        self.renewable = body.renewable
        self.data = body.data
        self.auth = body.auth
        self.errors = tuple(body.errors or ())

    @property
    def ok(self) -> bool:
        """Whether Vault did what it was asked."""
        return self.status in _OK

    def says(self, *texts: str) -> bool:
        """Whether Vault's words contain one of these texts."""
        words = " ".join(self.errors).lower()
        return any(text in words for text in texts)


class VaultHttp:
    """Sends requests to one server, each in one of the threads that belong to it."""

    def __init__(self, name: str, server: VaultServer, workers: Workers) -> None:
        """``name`` is the backend's. Raises ``OSError`` if the server's ``ca_file`` cannot be read."""
        self.name = name
        self._server = server
        self._workers = workers
        self._session = _Session(ssl.create_default_context(cafile=server.ca_file), server.concurrency)

    async def send(self, ask: Ask, *, token: Secret | None) -> Answer:
        """Send a request and return the answer, if its status is 2xx or 4xx.

        Raises ``BackendFailed``: ``BACKEND_UNAVAILABLE`` if the server cannot be reached, is sealed, overloaded or
        broken, ``BACKEND_REFUSED`` if its certificate is not trusted, or if what it says is no answer of Vault's;
        ``uncertain`` if the request may have been carried out. Nothing is ever sent twice.
        """
        sent = None if token is None else token.reveal().decode("ascii", "replace")
        if not all(_HEADER_TEXT.fullmatch(text) for text in (sent, ask.namespace) if text is not None):
            raise not_to_be_sent(self.name)  # here, since what requests raises would quote it
        return await self._workers.run(lambda: self._send(ask, sent))

    def refusal(self, ask: Ask, answer: Answer, *, known: Sequence[str] = ()) -> BackendFailed:
        """Return what an answer that is not ``ok`` means; ``known`` are secrets that the request held."""
        place = ask.path if ask.namespace is None else f"{ask.path} in the namespace {ask.namespace}"
        return said_no(self.name, ask.method, place, answer.status, answer.errors, known=known)

    def close(self) -> None:
        """Close idle connections."""
        self._session.close()

    # --- in a thread ------------------------------------------------------------------------------------------------

    def _send(self, ask: Ask, token: str | None) -> Answer:
        seconds = self._server.timeout_seconds
        deadline = time.monotonic() + seconds
        adapter = RawAdapter(
            base_uri=self._server.address,
            token=token,
            session=self._session,
            namespace=ask.namespace,
            allow_redirects=False,
            timeout=urllib3.Timeout(total=seconds, connect=min(seconds, CONNECT_SECONDS)),
        )
        try:
            response: requests.Response = adapter.request(
                ask.method,
                f"/v1/{ask.path}",
                raise_exception=False,
                stream=True,
                json=None if ask.body is None else dict(ask.body),
                params=ask.query,
            )
            with response:
                return self._complete(ask, response, deadline)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise undelivered(self.name, error) from error

    def _complete(self, ask: Ask, response: requests.Response, deadline: float) -> Answer:
        status = response.status_code
        if status in _REDIRECTS:
            raise forwarded(self.name)
        body = self._decoded(status, self._read(response, deadline))
        if status == _TOO_MANY:
            raise busy(self.name, response.headers.get("Retry-After"))
        if status >= _FAILED:
            raise server_failed(self.name, ask.path, status, tuple(body.errors or ()))
        return Answer(status, body)

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise unreadable(self.name)
        read = bytearray()
        announced = response.headers.get("Content-Length", "0")
        if announced.isdecimal() and int(announced[:20]) > MAX_BYTES:
            raise too_long(self.name, MAX_BYTES)
        while chunk := response.raw.read1(_CHUNK, decode_content=False):
            read += chunk
            if len(read) > MAX_BYTES:
                raise too_long(self.name, MAX_BYTES)
            if time.monotonic() > deadline:
                raise too_slow(self.name)
        return bytes(read)

    def _decoded(self, status: int, text: bytes) -> _Body:
        """Decode an answer; errors that come from something in front of Vault need not be JSON."""
        if not text:
            return _Body()
        try:
            return msgspec.json.decode(text, type=_Body)
        except (msgspec.MsgspecError, RecursionError) as error:
            failure: BackendFailed = unreadable(self.name)
            if status in _OK:
                raise failure from error
        return _Body()


class _Session(requests.Session):
    """Keeps no cookies, follows nothing, and takes nothing from the environment."""

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.headers.update({"Accept-Encoding": "identity", "User-Agent": "credential-broker"})
        adapter = _Connections(context, connections)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Follow none; by default, the body of an answer that redirects would be read whole."""


class _Connections(HTTPAdapter):
    """Connections that trust what one TLS context trusts, not the roots that come with requests. Nothing is retried."""

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        super().__init__(max_retries=0)
        self.poolmanager = urllib3.PoolManager(1, maxsize=connections, ssl_context=context)

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, *_: object, **__: object
    ) -> urllib3.HTTPConnectionPool:
        """Return the connections to the request's host."""
        connections: urllib3.HTTPConnectionPool = self.poolmanager.connection_from_url(request.url or "")
        return connections

    def cert_verify(self, *_: object, **__: object) -> None:
        """Leave the connection as the context made it."""
