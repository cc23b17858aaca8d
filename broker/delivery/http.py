"""A receiver that is asked by HTTP: a batch is a POST, and its answer the acknowledgement."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from yarl import URL

from broker.core.errors import Code, Malformed, Unavailable
from broker.core.exporting import Format
from broker.core.pacing import retry_after
from broker.core.secret import Secret
from broker.delivery.receiver import Accepted, Later, Line, NotAccepted, Outcome, PartlyAccepted, TooLarge
from broker.outbound import Destination, Outbound, Reply

ANSWER_SECONDS: Final = 30.0
"""How long a receiver may take to answer."""

MAX_TOKEN: Final = 8192
MAX_WHY: Final = 200

_TOKEN: Final = re.compile(rb"[!-~]{1,%d}" % MAX_TOKEN)

_ABOUT_CONTENT: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})
"""Statuses that are about what was sent. All others may end by what somebody does, so that nothing is ever left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSource:
    """Where the receiver's token is: in a file or an environment variable. It is read again for each request."""

    file: Path | None = None
    variable: str | None = None

    def read(self) -> Secret:
        """Return the token. Raises ``Unavailable`` if there is none that could stand in a header."""
        token = self._text().strip()
        if _TOKEN.fullmatch(token) is None:
            raise Unavailable(
                Code.INTERNAL, f"the token is empty, longer than {MAX_TOKEN} bytes, or no printable ASCII"
            )
        return Secret(token)

    def _text(self) -> bytes:
        if self.file is None:
            return os.environ.get(self.variable or "", "").encode("utf-8", "surrogateescape")
        try:
            with self.file.open("rb") as file:
                return file.read(MAX_TOKEN + 2)  # one more than there may be, after a line end
        except OSError as error:
            raise Unavailable(Code.INTERNAL, f"the token's file cannot be read ({error.strerror})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTarget:
    """Where to send, what is allowed on the way there, and who we are."""

    url: str
    destination: Destination
    token: TokenSource | None = None


def http_url(url: str, form: Format) -> str:
    """Return the URL to send a format to: without a path, the one where its receivers listen. Raises ``Malformed``."""
    try:
        target = URL(url)
    except ValueError as error:
        raise Malformed("not the URL of a receiver") from error
    if target.scheme not in {"https", "http"} or not target.host or target.user is not None or target.fragment:
        raise Malformed("the URL of a receiver is https://HOST, perhaps with a port and a path, and without a user")
    return str(target.with_path(form.path) if target.path in {"", "/"} and form.path else target)


class HttpReceiver:
    """Sends batches to a URL. Belongs to the event loop of ``outbound``."""

    window: Final = 0
    broken: Final = False

    def __init__(self, target: HttpTarget, form: Format, outbound: Outbound, *, wall: Callable[[], float]) -> None:
        """``wall`` is Unix time, for receivers that name one to come back at."""
        self._target = target
        self._form = form
        self._outbound = outbound
        self._wall = wall

    async def send(self, lines: Sequence[Line]) -> Outcome:
        """See the port."""
        body = self._form.batch([line.text for line in lines]).encode()
        try:
            headers = {"Content-Type": self._form.media_type, **self._authorization()}
            reply = await self._outbound.post(self._target.url, body, self._target.destination, headers=headers)
        except Unavailable as error:
            return Later(error.public)
        return self._outcome(reply)

    async def finish(self) -> bool:
        """Return True: what was accepted was acknowledged."""
        return True

    def _authorization(self) -> dict[str, str]:
        if self._target.token is None:
            return {}
        return {"Authorization": f"{self._form.scheme} {self._target.token.read().reveal().decode()}"}

    def _outcome(self, reply: Reply) -> Outcome:
        if HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES:
            refused, why = self._form.refused(reply.body)
            return PartlyAccepted(refused, why[:MAX_WHY]) if refused > 0 else Accepted()
        if reply.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return TooLarge()
        why = f"it answers {reply.status}"
        if reply.status in _ABOUT_CONTENT:
            return NotAccepted(why)
        return Later(why, retry_after(reply.headers.get("Retry-After"), self._wall()))
