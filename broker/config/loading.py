"""Reading settings: a TOML file and the environment, checked as a whole, into frozen values."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from broker.config.addresses import MAX_PORT, ORIGIN, is_loopback, issuer_problem, network_problem
from broker.config.anchors import AnchorSettings, read_anchor
from broker.config.backends import BackendSettings, read_backend
from broker.config.ledger_place import place_of, place_problem
from broker.config.problems import ConfigError, fail, key_of
from broker.config.settings import WEBHOOK_EVENTS, Config, FeedSettings, LeaseSettings, Limits, SettingsFile
from broker.core.propagation import LEAST_FORGETTING

MAX_FILE: Final = 256 * 1024
MAX_ASSERTION: Final = 600
"""The most seconds that a client assertion may be good for (protocol sheet B.5)."""

MAX_HEARTBEAT: Final = 30.0
"""The most seconds between heartbeats: verifiers refuse what they hear nothing about."""

MAX_DAYS: Final = 36_500

MAX_WORKERS: Final = 64
"""More processes than this would only wait for each other's turn at the ledger."""

SIX_MONTHS: Final = 183
"""The fewest days that entries are retained, unless the settings say that less is meant."""

PREFIX: Final = "BROKER_"
"""``BROKER_LISTEN_PORT=9000`` sets ``port`` in ``[listen]``; the environment wins over the file."""

_SHOWN: Final = 64


def load_config(path: Path, environment: Mapping[str, str] | None = None, *, port: int | None = None) -> Config:
    """Read the settings in ``path``. ``port`` overrides the port; a loopback development issuer follows it.

    Raises :class:`ConfigError` that names the key.
    """
    environment = os.environ if environment is None else environment
    data = _with_environment(_read(path), environment, path)
    try:
        raw = msgspec.convert(data, SettingsFile)
    except msgspec.ValidationError as error:
        fail(path, key_of(error))
    if port is not None:
        raw = _on_port(raw, port)
    _check(raw, path)
    folder = path.resolve().parent
    return _resolved(
        raw,
        folder,
        backends={name: read_backend(name, table, path, folder) for name, table in raw.backends.items()},
        anchors={name: read_anchor(name, table, path, folder) for name, table in raw.anchors.items()},
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE + 1)
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror})"
        raise ConfigError(msg) from error
    if len(text) > MAX_FILE:
        fail(path, f"longer than {MAX_FILE} bytes")
    try:
        return tomllib.loads(text.decode())
    except ValueError as error:
        fail(path, f"not valid TOML: {error}")


def _with_environment(data: dict[str, Any], environment: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Lay ``BROKER_SECTION_KEY`` variables over the file's values, in the type that the key has."""
    for section, struct in (("", SettingsFile), *((f.name, f.type) for f in msgspec.structs.fields(SettingsFile))):
        if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
            continue
        for field in msgspec.structs.fields(struct):
            name = f"{PREFIX}{section}_{field.name}".replace("__", "_").upper()
            nested = isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
            if name not in environment or nested:
                continue
            target = data if not section else data.setdefault(section, {})
            if not isinstance(target, dict):
                fail(path, f"{section}: must be a table")
            try:
                target[field.name] = msgspec.convert(environment[name], field.type, strict=False)
            except msgspec.ValidationError as error:
                fail(path, f"{name} in the environment: {error}")
    return data


def _on_port(raw: SettingsFile, port: int) -> SettingsFile:
    listen = msgspec.structs.replace(raw.listen, port=port)
    match = ORIGIN.fullmatch(raw.issuer)
    issuer = raw.issuer
    if match is not None and match["scheme"] == "http" and is_loopback(match["host"]):
        issuer = f"http://{match['host']}:{port}"
    return msgspec.structs.replace(raw, listen=listen, issuer=issuer)


def _check(raw: SettingsFile, path: Path) -> None:
    problem = issuer_problem(raw.issuer, tls_ends_in_front=raw.tls_ends_in_front)
    if problem is not None:
        fail(path, f"issuer: {problem}")
    _check_listen(raw, path)
    if not 1 <= raw.workers.count <= MAX_WORKERS:
        fail(path, f"workers.count: must be 1 to {MAX_WORKERS}")
    _check_ledger(raw, path)
    _check_webhooks(raw, path)
    _check_retention(raw, path)
    source = raw.master_key
    given = [value for value in (source.file, source.environment, source.command) if value is not None]
    if len(given) != 1 or not all(given):
        fail(path, "master_key: give exactly one of file, environment, command")
    _check_numbers(raw, path)
    if raw.feed.heartbeat_seconds > MAX_HEARTBEAT:
        fail(path, f"feed.heartbeat_seconds: must be {MAX_HEARTBEAT:g} at most")
    if raw.feed.forget_seconds < LEAST_FORGETTING:
        fail(path, f"feed.forget_seconds: must be {LEAST_FORGETTING:g} at least")
    if raw.limits.assertion_seconds > MAX_ASSERTION:
        fail(path, f"limits.assertion_seconds: must be {MAX_ASSERTION} at most")
    named = {
        "policy": raw.policy,
        "operator.agent": raw.operator.agent,
        "operator.key": raw.operator.key,
    }
    for name, value in named.items():
        if not value:
            fail(path, f"{name}: must not be empty")


def _check_numbers(raw: SettingsFile, path: Path) -> None:
    numbers = {f"limits.{field.name}": getattr(raw.limits, field.name) for field in msgspec.structs.fields(Limits)}
    numbers |= {f"leases.{f.name}": getattr(raw.leases, f.name) for f in msgspec.structs.fields(LeaseSettings)}
    numbers |= {f"feed.{field.name}": getattr(raw.feed, field.name) for field in msgspec.structs.fields(FeedSettings)}
    for key in ("check_entries_per_second", "connect_seconds", "statement_seconds", "max_clock_difference_seconds"):
        numbers[f"ledger.{key}"] = getattr(raw.ledger, key)
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            fail(path, f"{name}: must be a number above 0")


def _check_listen(raw: SettingsFile, path: Path) -> None:
    listen = raw.listen
    if not 0 <= listen.port <= MAX_PORT:
        fail(path, f"listen.port: must be 0 to {MAX_PORT}")
    if (listen.certificate is None) != (listen.key is None):
        fail(path, "listen.certificate and listen.key: give both or neither")
    if listen.certificate is None and not (is_loopback(listen.host) or raw.tls_ends_in_front):
        text = "listen.host: without a certificate only a loopback address, unless tls_ends_in_front = true"
        fail(path, text)
    if listen.metrics is not None:
        host, _, port = listen.metrics.rpartition(":")
        if not host or not (port.isascii() and port.isdigit()) or int(port[:6]) > MAX_PORT:
            fail(path, "listen.metrics: must be HOST:PORT")
    for text in listen.trusted_proxies:
        problem = network_problem(text)
        if problem is not None:
            fail(path, f"listen.trusted_proxies: {text[:_SHOWN]!r}: {problem}")


def _check_ledger(raw: SettingsFile, path: Path) -> None:
    problem = place_problem(raw.ledger)
    if problem is not None:
        fail(path, problem)
    days = raw.ledger.personal_days
    if days is not None and not 0 < days <= MAX_DAYS:
        fail(path, f"ledger.personal_days: must be 1 to {MAX_DAYS}")


def _check_retention(raw: SettingsFile, path: Path) -> None:
    days = raw.ledger.retain_days
    if days is not None and days < (1 if raw.ledger.retain_less_than_six_months else SIX_MONTHS):
        text = f"ledger.retain_days: must be at least {SIX_MONTHS}, unless retain_less_than_six_months = true (then 1)"
        fail(path, text)


def _check_webhooks(raw: SettingsFile, path: Path) -> None:
    for place, hook in enumerate(raw.webhooks):
        where = f"webhooks[{place}]"
        if (hook.secret_file is None) == (hook.secret_environment is None):
            fail(path, f"{where}: give exactly one of secret_file, secret_environment")
        if not hook.url.startswith("https://") and not (hook.allow_http and hook.url.startswith("http://")):
            fail(path, f"{where}.url: must be https://, or http:// with allow_http = true")
        unknown = [event for event in hook.events if event not in WEBHOOK_EVENTS]
        if unknown:
            fail(path, f"{where}.events: they are {', '.join(WEBHOOK_EVENTS)}")


def _resolved(
    raw: SettingsFile, folder: Path, *, backends: Mapping[str, BackendSettings], anchors: Mapping[str, AnchorSettings]
) -> Config:
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
        workers=raw.workers,
        ledger=place_of(raw.ledger, folder),
        index_in_answers=raw.ledger.index_in_answers,
        personal_days=raw.ledger.personal_days,
        check_entries_per_second=raw.ledger.check_entries_per_second,
        retain_days=raw.ledger.retain_days,
        master_key=replace(raw.master_key, file=maybe(raw.master_key.file)),
        limits=raw.limits,
        log=raw.log,
        operator=replace(raw.operator, key=absolute(raw.operator.key)),
        webhooks=tuple(
            replace(hook, secret_file=maybe(hook.secret_file), ca_file=maybe(hook.ca_file)) for hook in raw.webhooks
        ),
        leases=raw.leases,
        feed=raw.feed,
        backends=backends,
        anchors=anchors,
    )
