"""The anchors of the ledger: their settings, by kind."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from broker.config.addresses import check_url
from broker.config.problems import fail, key_of

NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""How an anchor may be called: it is a label of metrics, and stands in entries."""


class FileAnchorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file that only grows, on another mount than the ledger's."""

    path: str
    every_seconds: float = 60.0
    alarm_seconds: float = 900.0
    timeout_seconds: float = 10.0


class S3AnchorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A bucket of S3 with object lock; without ``web_identity_role`` with the credentials of the machine.

    ``mode`` is how objects are locked, for ``retain_days``. ``endpoint`` is another URL than AWS's own: https, or http
    on a loopback address.
    """

    bucket: str
    region: str
    retain_days: int
    prefix: str = ""
    mode: Literal["compliance", "governance"] = "compliance"
    endpoint: str | None = None
    web_identity_role: str | None = None
    every_seconds: float = 60.0
    alarm_seconds: float = 900.0
    timeout_seconds: float = 10.0


class WitnessAnchorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A witness (C2SP tlog-witness): ``url`` is its submission prefix, ``vkey`` its verifier key.

    ``allow_http`` and ``allow_private`` let it be a service inside.
    """

    url: str
    vkey: str
    allow_http: bool = False
    allow_private: bool = False
    ca_file: str | None = None
    every_seconds: float = 60.0
    alarm_seconds: float = 900.0


class SyslogAnchorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A syslog receiver: ``syslog+tls://HOST:PORT``, ``syslog+tcp://…``, ``syslog+udp://…`` or ``syslog:PATH``.

    The rest is for TLS only: the roots to trust, the name that its certificate must be for, and our own certificate.
    """

    url: str
    ca_file: str | None = None
    server_name: str | None = None
    certificate: str | None = None
    key: str | None = None
    every_seconds: float = 60.0
    alarm_seconds: float = 900.0


AnchorSettings = FileAnchorSettings | S3AnchorSettings | WitnessAnchorSettings | SyslogAnchorSettings

ANCHOR_KINDS: Final[Mapping[str, type[AnchorSettings]]] = {
    "file": FileAnchorSettings,
    "s3": S3AnchorSettings,
    "witness": WitnessAnchorSettings,
    "syslog": SyslogAnchorSettings,
}
"""The settings of each kind of anchor."""


def read_anchor(name: str, table: dict[str, Any], path: Path, folder: Path) -> AnchorSettings:
    """Read the settings of one anchor; paths in them are taken from the folder."""
    where = f"anchors.{name}"
    if not NAME.fullmatch(name):
        fail(path, f"{where}: a name has lower-case letters, digits and hyphens, 63 at most")
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in ANCHOR_KINDS:
        fail(path, f"{where}.kind: must be one of {', '.join(ANCHOR_KINDS)}")
    rest = {key: value for key, value in table.items() if key != "kind"}
    try:
        settings = msgspec.convert(rest, ANCHOR_KINDS[kind])
    except msgspec.ValidationError as error:
        fail(path, f"{where}.{key_of(error)}" if " - at " in str(error) else f"{where}: {error}")
    _check_times(where, settings, path)
    return _checked(where, settings, path, folder)


def kind_of(settings: AnchorSettings) -> str:
    """Return the name of a kind by its settings."""
    return next(kind for kind, struct in ANCHOR_KINDS.items() if type(settings) is struct)


def _check_times(where: str, settings: AnchorSettings, path: Path) -> None:
    if not 1 <= settings.every_seconds < math.inf:
        fail(path, f"{where}.every_seconds: must be 1 at least")
    if not settings.every_seconds < settings.alarm_seconds < math.inf:
        fail(path, f"{where}.alarm_seconds: must be above every_seconds")
    if isinstance(settings, FileAnchorSettings | S3AnchorSettings) and not 0 < settings.timeout_seconds < math.inf:
        fail(path, f"{where}.timeout_seconds: must be above 0")


def _checked(where: str, settings: AnchorSettings, path: Path, folder: Path) -> AnchorSettings:
    replace = msgspec.structs.replace
    match settings:
        case FileAnchorSettings():
            if not settings.path:
                fail(path, f"{where}.path: must not be empty")
            return replace(settings, path=str((folder / settings.path).absolute()))
        case S3AnchorSettings():
            _check_s3(where, settings, path)
            return settings
        case WitnessAnchorSettings():
            if not settings.url.startswith(("https://", "http://") if settings.allow_http else "https://"):
                fail(path, f"{where}.url: must be https://, or http:// with allow_http = true")
            return replace(settings, **_within(folder, ca_file=settings.ca_file))
        case SyslogAnchorSettings():
            _check_syslog(where, settings, path)
            files = _within(folder, ca_file=settings.ca_file, certificate=settings.certificate, key=settings.key)
            return replace(settings, **files)


def _check_s3(where: str, settings: S3AnchorSettings, path: Path) -> None:
    if not settings.bucket or settings.retain_days < 1:
        fail(path, f"{where}: bucket must not be empty, and retain_days be 1 at least")
    if settings.prefix and not settings.prefix.endswith("/"):
        fail(path, f"{where}.prefix: must end in a slash, so that none is the beginning of another")
    if settings.endpoint is not None:
        check_url(f"{where}.endpoint", settings.endpoint, path)


def _check_syslog(where: str, settings: SyslogAnchorSettings, path: Path) -> None:
    if (settings.certificate is None) != (settings.key is None):
        fail(path, f"{where}.certificate and key: give both or neither")
    for_tls = (settings.ca_file, settings.server_name, settings.certificate)
    if not settings.url.startswith("syslog+tls:") and any(value is not None for value in for_tls):
        fail(path, f"{where}: ca_file, server_name and certificate have a meaning for syslog+tls:// only")


def _within(folder: Path, **files: str | None) -> dict[str, str]:
    """Return the paths that are given, taken from the folder."""
    return {name: str((folder / file).absolute()) for name, file in files.items() if file is not None}
