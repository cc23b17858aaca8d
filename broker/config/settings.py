"""The settings of a broker as values: what the file says, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from broker.config.anchors import AnchorSettings
from broker.config.backends import BackendSettings
from broker.ports import Place

WEBHOOK_EVENTS: Final = ("requested", "approved", "denied", "break_glass", "reviewed")
"""What a webhook can be told of requests for approval."""


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

    def metrics_address(self) -> tuple[str, int]:
        """Return host and port of the private listener, which there must be."""
        host, _, port = (self.metrics or "").rpartition(":")
        return host.strip("[]"), int(port)


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many processes serve, on one host and one ledger."""

    count: int = 1


class LedgerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the ledger is: a SQLite file at ``path``, or a PostgreSQL database at ``url``, which has no password.

    ``index_in_answers`` tells agents the place of each token's entry in it. After ``personal_days`` what is personal in
    an entry is erased. The broker goes through ``check_entries_per_second`` to check itself. Entries older than
    ``retain_days`` may be removed once they are archived; none may by default. The law in places demands six months
    (EU AI Act, articles 19 and 26): less needs ``retain_less_than_six_months``.

    Of a PostgreSQL ledger: ``connect_seconds`` and ``statement_seconds`` bound connecting and each statement; after
    ``max_staleness_seconds`` without a look at the database nothing is judged; with a clock that differs by more than
    ``max_clock_difference_seconds`` from the database's, nothing is issued. ``allow_unsafe_server`` is for tests.
    """

    path: str | None = None
    url: str | None = None
    connect_seconds: float = 5.0
    statement_seconds: float = 30.0
    max_staleness_seconds: float = 1.0
    max_clock_difference_seconds: float = 5.0
    allow_unsafe_server: bool = False
    index_in_answers: bool = False
    personal_days: int | None = None
    check_entries_per_second: float = 1700.0
    retain_days: int | None = None
    retain_less_than_six_months: bool = False


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


class LeaseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How hard it is tried to end leases: ``attempts``, then they are stuck; pauses in seconds, doubling in between."""

    attempts: int = 10
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 300.0


class FeedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The stream of revocation rules: how often it says that there are none, and how many may follow it.

    Whoever acknowledged rules and then is silent for ``forget_seconds`` is forgotten.
    """

    heartbeat_seconds: float = 1.0
    streams: int = 2048
    streams_per_agent: int = 1024
    forget_seconds: float = 900.0


class SettingsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file as it is written; the tables of backends and anchors are read by kind."""

    issuer: str
    policy: str = "policy.yaml"
    tls_ends_in_front: bool = False
    dpop_nonces: bool = False
    listen: Listen = Listen()
    workers: WorkerSettings = WorkerSettings()
    ledger: LedgerSettings = LedgerSettings()
    master_key: MasterKey = MasterKey(file="master.key")
    limits: Limits = Limits()
    log: Log = Log()
    operator: OperatorSettings = OperatorSettings()
    webhooks: tuple[Webhook, ...] = ()
    leases: LeaseSettings = LeaseSettings()
    feed: FeedSettings = FeedSettings()
    backends: dict[str, dict[str, Any]] = {}
    anchors: dict[str, dict[str, Any]] = {}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Checked settings. All paths are absolute, relative ones having been taken from the file's folder.

    ``dpop_nonces`` says that the token endpoint demands a nonce of its own in every DPoP proof (RFC 9449, 8).
    """

    issuer: str
    dpop_nonces: bool
    policy: Path
    listen: Listen
    workers: WorkerSettings
    ledger: Place
    index_in_answers: bool
    personal_days: int | None = None
    check_entries_per_second: float
    retain_days: int | None
    master_key: MasterKey
    limits: Limits
    log: Log
    operator: OperatorSettings
    webhooks: tuple[Webhook, ...] = ()
    leases: LeaseSettings = LeaseSettings()
    feed: FeedSettings = FeedSettings()
    backends: Mapping[str, BackendSettings] = msgspec.field(default_factory=dict)
    anchors: Mapping[str, AnchorSettings] = msgspec.field(default_factory=dict)

    @property
    def api_audience(self) -> str:
        """The broker's own API as a resource."""
        return f"{self.issuer}/v1"
