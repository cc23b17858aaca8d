"""What Vault is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from broker.backends.vault_failures import busy, forwarded, server_failed, unreadable

REDIRECTS: Final = range(300, 400)
"""The statuses whose answers are not read: nobody is followed."""

_OK: Final = range(200, 300)
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
    """A request: a path below ``/v1/``, and in which namespace. ``body`` is sent as JSON, ``query`` in the URL.

    ``often`` is for a POST with a body that is made by the thousand in a revocation: it is sent at less cost.
    """

    method: str
    path: str
    namespace: str | None = None
    body: Mapping[str, object] | None = None
    query: Mapping[str, str] | None = None
    often: bool = False

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


def answer_of(name: str, path: str, status: int, retry_after: str | None, text: bytes) -> Answer:
    """Read an answer of the backend ``name`` to what was asked of a path; ``retry_after`` is the header.

    Raises ``BackendFailed`` if its status is neither 2xx nor 4xx, or 429, or if it is no answer of Vault's.
    """
    if status in REDIRECTS:
        raise forwarded(name)
    body = _decoded(name, status, text)
    if status == _TOO_MANY:
        raise busy(name, retry_after)
    if status >= _FAILED:
        raise server_failed(name, path, status, tuple(body.errors or ()))
    return Answer(status, body)


def _decoded(name: str, status: int, text: bytes) -> _Body:
    """Decode an answer; errors that come from something in front of Vault need not be JSON."""
    if not text:
        return _Body()
    try:
        return msgspec.json.decode(text, type=_Body)
    except (msgspec.MsgspecError, RecursionError) as error:
        if status in _OK:
            raise unreadable(name) from error
    return _Body()
