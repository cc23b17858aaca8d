"""The settings of a broker: a TOML file and the environment, checked as a whole, into frozen values."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import msgspec

MAX_FILE: Final = 256 * 1024
MAX_ASSERTION: Final = 600
"""The most seconds that a client assertion may be good for (protocol sheet B.5)."""

PREFIX: Final = "BROKER_"
"""``BROKER_LISTEN_PORT=9000`` sets ``port`` in ``[listen]``; the environment wins over the file."""

WEBHOOK_EVENTS: Final = ("requested", "approved", "denied", "break_glass", "reviewed")
"""What a webhook can be told of requests for approval."""

_MAX_PORT: Final = 65_535
_SHOWN: Final = 64
_ISSUER: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?"
)


class ConfigError(Exception):
    """The settings cannot be used; the text names the file and the key."""


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the broker listens. With ``certificate`` and ``key`` (PEM files) it speaks TLS.

    ``metrics`` is ``HOST:PORT`` of a separate listener for ``/metrics``; without it metrics are not served.
    ``trusted_proxies`` are the networks whose ``X-Forwarded-For`` is believed; nobody's is when it is empty.
    """

    host: str = "127.0.0.1"
    port: int = 8640
    certificate: str | None = None
    key: str | None = None
    metrics: str | None = None
    trusted_proxies: tuple[str, ...] = ()


class LedgerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the ledger is: a SQLite file."""

    path: str = "ledger.db"


class MasterKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the key that seals the broker's private keys comes from: exactly one of a file, a variable, a command."""

    file: str | None = None
    environment: str | None = None
    command: tuple[str, ...] | None = None


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of the HTTP server; times in seconds. ``unauthenticated_per_minute`` counts failures per address.

    ``assertion_seconds`` is how far ahead a client assertion may expire; it is remembered as used for as long.
    """

    connections: int = 4096
    header_bytes: int = 16_384
    body_bytes: int = 65_536
    header_seconds: float = 10.0
    request_seconds: float = 30.0
    keep_alive_seconds: float = 75.0
    stop_seconds: float = 20.0
    unauthenticated_per_minute: int = 600
    assertion_seconds: int = 300


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is logged: JSON lines on standard error. ``access`` adds a line per request."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    access: bool = True


class OperatorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the command line signs in: a registered agent and its private key file."""

    agent: str = "operator"
    key: str = "operator.pem"


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is told of requests for approval: a URL, and the secret that signs what it is sent.

    The secret (``whsec_`` and base64, as Standard Webhooks has it) is in exactly one of a file and a variable.
    ``events`` limits what is sent. ``allow_http`` and ``allow_private`` let it be a receiver inside.
    """

    url: str
    secret_file: str | None = None
    secret_environment: str | None = None
    events: tuple[str, ...] = ()
    allow_http: bool = False
    allow_private: bool = False
    ca_file: str | None = None


class VaultSignIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the broker signs in to Vault or OpenBao.

    ``token``: with the token in ``token_file``. ``approle``: with ``role_id`` and the secret id in ``secret_id_file``.
    ``kubernetes``: as ``role``, with the service account's token in ``token_file``. ``jwt``: as ``role``, with an
    identity token that the broker signs for ``audience`` itself, so that there is nothing to keep. ``mount`` is where
    the method is enabled, if not under its own name. Files are read again whenever the broker signs in.
    """

    method: Literal["token", "approle", "kubernetes", "jwt"]
    mount: str | None = None
    role: str | None = None
    role_id: str | None = None
    secret_id_file: str | None = None
    token_file: str | None = None
    audience: str | None = None


class VaultSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A Vault or OpenBao server. ``address`` is its URL: https, or http on a loopback address.

    ``concurrency`` is how many requests are made to it at once, ``timeout_seconds`` how long each may take.
    """

    address: str
    sign_in: VaultSignIn
    namespace: str | None = None
    ca_file: str | None = None
    concurrency: int = 16
    timeout_seconds: float = 10.0


class AwsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An AWS account. Without ``web_identity_role`` the credentials are those of the machine (boto3's own chain).

    ``web_identity_role`` is the ARN of a role that the broker assumes with an identity token that it signs itself.
    ``endpoint`` is another URL than AWS's own, such as that of a proxy: https, or http on a loopback address.
    """

    region: str
    endpoint: str | None = None
    web_identity_role: str | None = None
    concurrency: int = 16
    timeout_seconds: float = 10.0


class LocalSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Secrets in an encrypted file beside the broker, for development and demonstrations."""

    path: str = "secrets.sealed"
    concurrency: int = 4
    timeout_seconds: float = 10.0


BackendSettings = VaultSettings | AwsSettings | LocalSettings

BACKEND_KINDS: Final[Mapping[str, type[BackendSettings]]] = {
    "vault": VaultSettings,
    "aws-secrets-manager": AwsSettings,
    "aws-sts": AwsSettings,
    "local": LocalSettings,
}
"""The settings of each kind of backend. A backend is named after its kind, or its kind, a slash and a name."""


class LeaseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How hard it is tried to end leases: ``attempts``, then they are stuck; pauses in seconds, doubling in between."""

    attempts: int = 10
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 300.0


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    issuer: str
    policy: str = "policy.yaml"
    tls_ends_in_front: bool = False
    dpop_nonces: bool = False
    listen: Listen = Listen()
    ledger: LedgerSettings = LedgerSettings()
    master_key: MasterKey = MasterKey(file="master.key")
    limits: Limits = Limits()
    log: Log = Log()
    operator: OperatorSettings = OperatorSettings()
    webhooks: tuple[Webhook, ...] = ()
    leases: LeaseSettings = LeaseSettings()
    backends: dict[str, dict[str, Any]] = {}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Checked settings. All paths are absolute, relative ones having been taken from the file's folder.

    ``dpop_nonces`` says that the token endpoint demands a nonce of its own in every DPoP proof (RFC 9449, 8).
    """

    issuer: str
    dpop_nonces: bool
    policy: Path
    listen: Listen
    ledger: Path
    master_key: MasterKey
    limits: Limits
    log: Log
    operator: OperatorSettings
    webhooks: tuple[Webhook, ...] = ()
    leases: LeaseSettings = LeaseSettings()
    backends: Mapping[str, BackendSettings] = msgspec.field(default_factory=dict)

    @property
    def api_audience(self) -> str:
        """The broker's own API as a resource."""
        return f"{self.issuer}/v1"


def load_config(path: Path, environment: Mapping[str, str] | None = None, *, port: int | None = None) -> Config:
    """Read the settings in ``path``. ``port`` overrides the port; a loopback development issuer follows it.

    Raises :class:`ConfigError` that names the key.
    """
    environment = os.environ if environment is None else environment
    data = _with_environment(_read(path), environment, path)
    try:
        raw = msgspec.convert(data, _File)
    except msgspec.ValidationError as error:
        _fail(path, _key_of(error))
    if port is not None:
        raw = _on_port(raw, port)
    _check(raw, path)
    folder = path.resolve().parent
    return _resolved(raw, folder, {name: _backend(name, table, path, folder) for name, table in raw.backends.items()})


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE + 1)
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror})"
        raise ConfigError(msg) from error
    if len(text) > MAX_FILE:
        _fail(path, f"longer than {MAX_FILE} bytes")
    try:
        return tomllib.loads(text.decode())
    except ValueError as error:
        _fail(path, f"not valid TOML: {error}")


def _with_environment(data: dict[str, Any], environment: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Lay ``BROKER_SECTION_KEY`` variables over the file's values, in the type that the key has."""
    for section, struct in (("", _File), *((f.name, f.type) for f in msgspec.structs.fields(_File))):
        if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
            continue
        for field in msgspec.structs.fields(struct):
            name = f"{PREFIX}{section}_{field.name}".replace("__", "_").upper()
            nested = isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
            if name not in environment or nested:
                continue
            target = data if not section else data.setdefault(section, {})
            if not isinstance(target, dict):
                _fail(path, f"{section}: must be a table")
            try:
                target[field.name] = msgspec.convert(environment[name], field.type, strict=False)
            except msgspec.ValidationError as error:
                _fail(path, f"{name} in the environment: {error}")
    return data


def _on_port(raw: _File, port: int) -> _File:
    listen = msgspec.structs.replace(raw.listen, port=port)
    match = _ISSUER.fullmatch(raw.issuer)
    issuer = raw.issuer
    if match is not None and match["scheme"] == "http" and _is_loopback(match["host"]):
        issuer = f"http://{match['host']}:{port}"
    return msgspec.structs.replace(raw, listen=listen, issuer=issuer)


def _check(raw: _File, path: Path) -> None:
    problem = issuer_problem(raw.issuer, tls_ends_in_front=raw.tls_ends_in_front)
    if problem is not None:
        _fail(path, f"issuer: {problem}")
    _check_listen(raw, path)
    _check_webhooks(raw, path)
    source = raw.master_key
    given = [value for value in (source.file, source.environment, source.command) if value is not None]
    if len(given) != 1 or not all(given):
        _fail(path, "master_key: give exactly one of file, environment, command")
    for field in msgspec.structs.fields(Limits):
        if not 0 < getattr(raw.limits, field.name) < math.inf:
            _fail(path, f"limits.{field.name}: must be a number above 0")
    for field in msgspec.structs.fields(LeaseSettings):
        if not 0 < getattr(raw.leases, field.name) < math.inf:
            _fail(path, f"leases.{field.name}: must be a number above 0")
    if raw.limits.assertion_seconds > MAX_ASSERTION:
        _fail(path, f"limits.assertion_seconds: must be {MAX_ASSERTION} at most")
    named = {
        "policy": raw.policy,
        "ledger.path": raw.ledger.path,
        "operator.agent": raw.operator.agent,
        "operator.key": raw.operator.key,
    }
    for name, value in named.items():
        if not value:
            _fail(path, f"{name}: must not be empty")


def _check_listen(raw: _File, path: Path) -> None:
    listen = raw.listen
    if not 0 <= listen.port <= _MAX_PORT:
        _fail(path, f"listen.port: must be 0 to {_MAX_PORT}")
    if (listen.certificate is None) != (listen.key is None):
        _fail(path, "listen.certificate and listen.key: give both or neither")
    if listen.certificate is None and not (_is_loopback(listen.host) or raw.tls_ends_in_front):
        text = "listen.host: without a certificate only a loopback address, unless tls_ends_in_front = true"
        _fail(path, text)
    if listen.metrics is not None:
        host, _, port = listen.metrics.rpartition(":")
        if not host or not (port.isascii() and port.isdigit()) or int(port[:6]) > _MAX_PORT:
            _fail(path, "listen.metrics: must be HOST:PORT")
    for text in listen.trusted_proxies:
        problem = _network_problem(text)
        if problem is not None:
            _fail(path, f"listen.trusted_proxies: {text[:_SHOWN]!r}: {problem}")


def _check_webhooks(raw: _File, path: Path) -> None:
    for place, hook in enumerate(raw.webhooks):
        where = f"webhooks[{place}]"
        if (hook.secret_file is None) == (hook.secret_environment is None):
            _fail(path, f"{where}: give exactly one of secret_file, secret_environment")
        if not hook.url.startswith("https://") and not (hook.allow_http and hook.url.startswith("http://")):
            _fail(path, f"{where}.url: must be https://, or http:// with allow_http = true")
        unknown = [event for event in hook.events if event not in WEBHOOK_EVENTS]
        if unknown:
            _fail(path, f"{where}.events: they are {', '.join(WEBHOOK_EVENTS)}")


def _backend(name: str, table: dict[str, Any], path: Path, folder: Path) -> BackendSettings:
    """Read the settings of one backend; paths in them are taken from the folder."""
    where = f"backends.{name}"
    kind, slash, instance = name.partition("/")
    if kind not in BACKEND_KINDS or (slash and not instance):
        _fail(path, f"{where}: is named after its kind ({', '.join(BACKEND_KINDS)}), or as KIND/NAME")
    try:
        settings = msgspec.convert(table, BACKEND_KINDS[kind])
    except msgspec.ValidationError as error:
        _fail(path, f"{where}.{_key_of(error)}" if " - at " in str(error) else f"{where}: {error}")
    if settings.concurrency < 1 or not 0 < settings.timeout_seconds < math.inf:
        _fail(path, f"{where}: concurrency and timeout_seconds must be above 0")
    replace = msgspec.structs.replace
    match settings:
        case VaultSettings():
            _check_url(f"{where}.address", settings.address, path)
            _check_sign_in(where, settings.sign_in, path)
            sign_in, ca_file = settings.sign_in, settings.ca_file
            files = {key: getattr(sign_in, key) for key in ("token_file", "secret_id_file")}
            within = {key: str((folder / value).absolute()) for key, value in files.items() if value is not None}
            settings = replace(settings, sign_in=replace(sign_in, **within))
            return settings if ca_file is None else replace(settings, ca_file=str((folder / ca_file).absolute()))
        case AwsSettings():
            if settings.endpoint is not None:
                _check_url(f"{where}.endpoint", settings.endpoint, path)
            return settings
        case LocalSettings():
            return replace(settings, path=str((folder / settings.path).absolute()))


_SIGN_IN: Final = {
    "token": ("token_file",),
    "approle": ("role_id", "secret_id_file"),
    "kubernetes": ("role", "token_file"),
    "jwt": ("role",),
}


def _check_sign_in(where: str, sign_in: VaultSignIn, path: Path) -> None:
    needed = _SIGN_IN[sign_in.method]
    optional = {"token": (), "jwt": ("mount", "audience")}.get(sign_in.method, ("mount",))
    for field in msgspec.structs.fields(VaultSignIn):
        given = getattr(sign_in, field.name) is not None
        if field.name in needed and not getattr(sign_in, field.name):
            _fail(path, f"{where}.sign_in.{field.name}: is needed for the method {sign_in.method}")
        if given and field.name not in {"method", *needed, *optional}:
            _fail(path, f"{where}.sign_in.{field.name}: has no meaning for the method {sign_in.method}")


def _check_url(where: str, url: str, path: Path) -> None:
    match = _ISSUER.fullmatch(url)
    if match is None or (match["scheme"] == "http" and not _is_loopback(match["host"])):
        _fail(path, f"{where}: must be https:// and a host, perhaps with a port; http:// on loopback addresses only")


def _network_problem(text: str) -> str | None:
    """Return what is wrong with a network whose hosts are to be trusted, or None."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return "must be an IP address or network, such as 10.0.0.5 or 10.0.0.0/24, without host bits"
    if network.prefixlen == 0:
        return "would trust everybody"
    if "%" in text:
        return "must not have a zone"
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        return "write it as an IPv4 network"  # IPv4 peers are compared as IPv4, so this one would never match
    return None


def issuer_problem(issuer: str, *, tls_ends_in_front: bool = False) -> str | None:
    """Return what is wrong with an issuer URL (protocol sheet B.1), or None.

    https, lower-case host, no path, query, fragment, user or trailing slash. Plain http and a port are for loopback
    addresses only, or when TLS ends in front of the broker.
    """
    match = _ISSUER.fullmatch(issuer)
    if match is None:
        return "must be https:// and a lower-case host only: no path, query, fragment, user or trailing slash"
    if match["port"] is not None and int(match["port"]) > _MAX_PORT:
        return f"the port must be 0 to {_MAX_PORT}"
    loopback = _is_loopback(match["host"])
    if match["scheme"] == "http" and not (loopback or tls_ends_in_front):
        return "plain http is for loopback addresses only, unless tls_ends_in_front = true"
    if match["port"] is not None and not (loopback or tls_ends_in_front):
        return "must not have a port"
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return host == "localhost"


def _resolved(raw: _File, folder: Path, backends: Mapping[str, BackendSettings]) -> Config:
    def absolute(name: str) -> str:
        return str((folder / name).absolute())

    def maybe(name: str | None) -> str | None:
        return None if name is None else absolute(name)

    replace = msgspec.structs.replace
    return Config(
        issuer=raw.issuer,
        dpop_nonces=raw.dpop_nonces,
        policy=Path(absolute(raw.policy)),
        listen=replace(raw.listen, certificate=maybe(raw.listen.certificate), key=maybe(raw.listen.key)),
        ledger=Path(absolute(raw.ledger.path)),
        master_key=replace(raw.master_key, file=maybe(raw.master_key.file)),
        limits=raw.limits,
        log=raw.log,
        operator=replace(raw.operator, key=absolute(raw.operator.key)),
        webhooks=tuple(
            replace(hook, secret_file=maybe(hook.secret_file), ca_file=maybe(hook.ca_file)) for hook in raw.webhooks
        ),
        leases=raw.leases,
        backends=backends,
    )


def _key_of(error: msgspec.ValidationError) -> str:
    text, _, where = str(error).partition(" - at `$.")
    return f"{where.rstrip('`')}: {text}" if where else text


def _fail(path: Path, problem: str) -> NoReturn:
    msg = f"{path}: {problem}"
    raise ConfigError(msg)
