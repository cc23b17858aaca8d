"""What can go wrong with Vault, in words for an operator, and never with a secret in them."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import requests
import urllib3

from broker.core.errors import BackendFailed, Code
from broker.outbound import Fault

RETRY_SECONDS: Final = 5
"""After how many seconds to try again, unless the server said."""

MAX_BYTES: Final = 1024 * 1024
"""The longest answer that is read."""

_MAX_REASON: Final = 200
_MAX_RETRY: Final = 60
_NOT_PRINTABLE: Final = re.compile(r"[^ -~]+")
_SPACE: Final = re.compile(r"\s+")
_TELLING: Final = (
    re.compile(r"\b(?:hv[bsr]|[bsr])\.[A-Za-z0-9_-]{16,}"),  # tokens
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+)*"),  # JWTs
    re.compile(r"(?<=://)[^\s/@]*@"),  # the user and password of a URL
    re.compile(r"(?i)\b(?:password|passwd|pwd|secret|secret_id|token)\s*[=:]\s*\S+"),
    re.compile(r"(?i)\bpassword\s+(?:'[^']*'|\"[^\"]*\")"),  # SQL
    re.compile(r"-----BEGIN.*"),
)


def reason(errors: Sequence[str], *, known: Sequence[str] = ()) -> str:
    """Return Vault's words: 200 printable characters at most, without ``known`` secrets and what looks like one."""
    text = "; ".join(errors)
    for secret in known:
        text = text.replace(secret, "…") if secret else text
    for pattern in _TELLING:
        text = pattern.sub("[hidden]", text)
    return _SPACE.sub(" ", _NOT_PRINTABLE.sub(" ", text)).strip()[:_MAX_REASON]


def refused(text: str, *, uncertain: bool = False) -> BackendFailed:
    """Return the failure that somebody must change something."""
    return BackendFailed(Code.BACKEND_REFUSED, text, uncertain=uncertain)


def unavailable(text: str, *, uncertain: bool = False, retry_after: int = RETRY_SECONDS) -> BackendFailed:
    """Return the failure that it may work later; ``retry_after`` is in seconds."""
    return BackendFailed(Code.BACKEND_UNAVAILABLE, text, uncertain=uncertain, retry_after=retry_after)


def certain(failure: BackendFailed) -> BackendFailed:
    """Return the same failure of something that came before what the caller asked for, which was not begun."""
    failure.uncertain = False
    return failure


# --- no answer ------------------------------------------------------------------------------------------------------


def undelivered(name: str, error: Exception) -> BackendFailed:
    """Say why a request got no complete answer, and whether it may have been carried out."""
    causes = tuple(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return untrusted(name)
    if any(isinstance(cause, urllib3.exceptions.NewConnectionError | requests.ConnectTimeout) for cause in causes):
        return unreachable(name)
    if any(isinstance(cause, urllib3.exceptions.TimeoutError | requests.Timeout | TimeoutError) for cause in causes):
        return too_slow(name)
    return broken(name)


def unanswered(name: str, fault: Fault) -> BackendFailed:
    """Say the same of a request that was sent through the outbound client."""
    return _BY_FAULT[fault](name)


def untrusted(name: str) -> BackendFailed:
    """Nothing was sent to whoever that is."""
    return refused(f"the certificate of {name} is not trusted here: ca_file must name the roots that it chains to")


def unreachable(name: str) -> BackendFailed:
    """Nobody was asked."""
    return unavailable(f"{name} cannot be reached")


def broken(name: str) -> BackendFailed:
    """The connection ended before the answer did."""
    return unavailable(f"the connection to {name} broke", uncertain=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Go through an error and all that it was made of."""
    waiting, seen = [error], set()
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        inner = (found.__cause__, found.__context__, getattr(found, "reason", None), *found.args)
        waiting += [item for item in inner if isinstance(item, BaseException)]


def not_to_be_sent(name: str) -> BackendFailed:
    """The request holds what HTTP cannot say."""
    return refused(f"the request to {name} cannot be sent: a namespace or token has characters that HTTP does not take")


def too_slow(name: str) -> BackendFailed:
    """The answer did not come, or did not come to its end, in time."""
    return unavailable(f"{name} did not answer in time", uncertain=True)


# --- answers that are none ------------------------------------------------------------------------------------------


def forwarded(name: str) -> BackendFailed:
    """Vault's standby nodes redirect if they cannot forward."""
    return refused(f"{name} answered with a redirect, and none is followed: name the address of the active server")


def too_long(name: str) -> BackendFailed:
    """The rest was not read."""
    return refused(f"the answer of {name} is longer than {MAX_BYTES} bytes", uncertain=True)


def unreadable(name: str) -> BackendFailed:
    """It may have been carried out; nobody can tell from what was said."""
    return refused(f"the answer of {name} is not one of Vault's API", uncertain=True)


def busy(name: str, retry_after: str | None) -> BackendFailed:
    """A rate limit of the server's."""
    seconds = int(retry_after[:4]) if retry_after is not None and retry_after.isdecimal() else RETRY_SECONDS
    return unavailable(f"{name} asks for fewer requests", retry_after=min(max(seconds, 1), _MAX_RETRY))


def server_failed(name: str, path: str, status: int, errors: Sequence[str]) -> BackendFailed:
    """Say that the server failed; a sealed one, or one that was never initialised, has done nothing."""
    words = " ".join(errors).lower()
    if "sealed" in words:
        return unavailable(f"{name} is sealed")
    if "not initialized" in words or "not yet initialized" in words:
        return unavailable(f"{name} is not initialised")
    said = reason(errors)
    return unavailable(f"{name} failed at {path} (HTTP {status})" + (f": {said}" if said else ""), uncertain=True)


_BY_FAULT: Final[Mapping[Fault, Callable[[str], BackendFailed]]] = {
    Fault.FORBIDDEN: unreachable,
    Fault.UNTRUSTED: untrusted,
    Fault.UNREACHABLE: unreachable,
    Fault.SLOW: too_slow,
    Fault.BROKEN: broken,
    Fault.REDIRECT: forwarded,
    Fault.ENCODED: unreadable,
    Fault.TOO_LONG: too_long,
}


# --- answers that say no --------------------------------------------------------------------------------------------

_FORBIDDEN: Final = frozenset({401, 403})
_NOT_FOUND: Final = frozenset({404, 405})


def said_no(
    name: str, method: str, path: str, status: int, errors: Sequence[str], *, known: Sequence[str] = ()
) -> BackendFailed:
    """Say why Vault refused a request, and what it most likely lacks. ``known`` are secrets that it held."""
    if status in _FORBIDDEN:
        return refused(f"{name} refused {path}: {needs(method, path)}")
    said = reason(errors, known=known)
    if status in _NOT_FOUND:
        return refused(f"{name} has nothing at {path}" + (f": {said}" if said else ""))
    return refused(f"{name} refused {path}: {said or f'HTTP {status}'}")


def needs(method: str, path: str, *, sudo: bool = False) -> str:
    """Return what the broker's Vault policy most likely lacks, in the policy's own language."""
    capability = '"read"' if method == "GET" else '"update"'
    capabilities = f'{capability}, "sudo"' if sudo else capability
    return f'its policy for the broker needs path "{path}" {{ capabilities = [{capabilities}] }}'
