"""Requests to Vault: bounded in time and size, sent once, never redirected, and nothing about them is logged."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Sequence
from http.cookiejar import DefaultCookiePolicy
from typing import Final

import requests
import urllib3
from hvac.adapters import RawAdapter  # type: ignore[import-untyped]
from requests.adapters import HTTPAdapter

from broker.backends.vault_direct import VaultDirect
from broker.backends.vault_failures import (
    MAX_BYTES,
    not_to_be_sent,
    said_no,
    too_long,
    too_slow,
    undelivered,
    unreadable,
)
from broker.backends.vault_messages import REDIRECTS, Answer, Ask, answer_of
from broker.backends.vault_server import CONNECT_SECONDS, USER_AGENT, VaultServer
from broker.backends.workers import Workers
from broker.core.errors import BackendFailed
from broker.core.secret import Secret

_CHUNK: Final = 64 * 1024
_HEADER_TEXT: Final = re.compile(r"[!-~]{1,4096}")


class VaultHttp:
    """Sends requests to one server: in one of the threads that belong to it, or directly if there are many of them."""

    def __init__(self, name: str, server: VaultServer, workers: Workers) -> None:
        """``name`` is the backend's. Raises ``OSError`` if the server's ``ca_file`` cannot be read."""
        self.name = name
        self._server = server
        self._workers = workers
        self._direct = VaultDirect(name, server)
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
        if ask.often:
            return await self._direct.send(ask, sent)
        return await self._workers.run(lambda: self._send(ask, sent))

    def refusal(self, ask: Ask, answer: Answer, *, known: Sequence[str] = ()) -> BackendFailed:
        """Return what an answer that is not ``ok`` means; ``known`` are secrets that the request held."""
        place = ask.path if ask.namespace is None else f"{ask.path} in the namespace {ask.namespace}"
        return said_no(self.name, ask.method, place, answer.status, answer.errors, known=known)

    async def close(self) -> None:
        """Close idle connections."""
        self._session.close()
        await self._direct.close()

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
        text = b"" if status in REDIRECTS else self._read(response, deadline)
        return answer_of(self.name, ask.path, status, response.headers.get("Retry-After"), text)

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise unreadable(self.name)
        read = bytearray()
        announced = response.headers.get("Content-Length", "0")
        if announced.isdecimal() and int(announced[:20]) > MAX_BYTES:
            raise too_long(self.name)
        while chunk := response.raw.read1(_CHUNK, decode_content=False):
            read += chunk
            if len(read) > MAX_BYTES:
                raise too_long(self.name)
            if time.monotonic() > deadline:
                raise too_slow(self.name)
        return bytes(read)


class _Session(requests.Session):
    """Keeps no cookies, follows nothing, and takes nothing from the environment."""

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.headers.update({"Accept-Encoding": "identity", "User-Agent": USER_AGENT})
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
