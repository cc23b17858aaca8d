"""Where the settings say that the ledger is, and what is not accepted there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from broker.config.addresses import is_loopback
from broker.config.settings import LedgerSettings
from broker.ports import Place, Server

LEAST_STALENESS: Final = 0.2
MOST_STALENESS: Final = 30.0

_FILE: Final = "ledger.db"
_BESIDE: Final = "ledger"
"""How the notes are called that a broker makes for itself about a ledger that is in a database."""

_SECRET: Final = ("password", "sslpassword")


def place_of(settings: LedgerSettings, folder: Path) -> Place:
    """Return where the ledger is; relative paths are taken from the folder of the settings."""
    if settings.url is None:
        return (folder / (settings.path or _FILE)).absolute()
    return Server(
        url=settings.url,
        beside=folder / _BESIDE,
        connect_seconds=settings.connect_seconds,
        statement_seconds=settings.statement_seconds,
        max_staleness=settings.max_staleness_seconds,
        max_clock_difference=settings.max_clock_difference_seconds,
        allow_unsafe=settings.allow_unsafe_server,
    )


def place_problem(settings: LedgerSettings) -> str | None:
    """Return what is wrong with where the ledger is said to be, with the key; never the URL, which may be secret."""
    if settings.path is not None and settings.url is not None:
        return "ledger: give one of path and url"
    if settings.path is not None and not settings.path:
        return "ledger.path: must not be empty"
    if not LEAST_STALENESS <= settings.max_staleness_seconds <= MOST_STALENESS:
        return f"ledger.max_staleness_seconds: must be {LEAST_STALENESS:g} to {MOST_STALENESS:g}"
    problem = None if settings.url is None else _url_problem(settings.url)
    return None if problem is None else f"ledger.url: {problem}"


def _url_problem(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        given = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        return "not a URL"
    if "#" in url or "@" in parts.path:  # libpq reads these in another way, and a password could go by unnoticed
        return "write # as %23 and @ as %40 in names"
    if parts.scheme not in {"postgresql", "postgres"}:
        return "must begin with postgresql://"
    if ":" in parts.netloc.rpartition("@")[0] or any(name in given for name in _SECRET):
        return "must not hold a password: put it into a password file (passfile=, ~/.pgpass) or a service file"
    if "sslmode" not in given and "service" not in given and not all(map(_is_local, _hosts(parts, given))):
        return "say how the server is recognised: sslmode=verify-full with sslrootcert=, or another sslmode"
    return None


def _hosts(parts: SplitResult, given: dict[str, list[str]]) -> Sequence[str]:
    """Return the hosts of a URL as libpq reads them: those of the query replace those before the path."""
    if "hostaddr" in given:
        return given["hostaddr"][-1].split(",")
    if "host" in given:
        return given["host"][-1].split(",")
    places = parts.netloc.rpartition("@")[2].split(",")
    return [unquote(each.rpartition(":")[0] if _has_port(each) else each) for each in places]


def _has_port(place: str) -> bool:
    return ":" in place and not place.endswith("]")


def _is_local(host: str) -> bool:
    """Whether a host is this one: a folder of sockets, nothing at all (libpq's own socket), or a loopback address."""
    return not host or host.startswith(("/", "@")) or is_loopback(host.strip("[]"))
