"""What the paths of Vault are: such as make leases, static values with versions, and certificates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from broker.backends.vault_failures import refused
from broker.backends.vault_messages import Answer, Ask
from broker.core.secret import Secret

LEASE: Final = "lease"
KV2: Final = "kv2"
PKI: Final = "pki"

_PATH: Final = re.compile(r"[A-Za-z0-9._~@:+-]+(?:/[A-Za-z0-9._~@:+-]+)+")
_PREFIX: Final = re.compile(r"[A-Za-z0-9._~@:+-]+(?:/[A-Za-z0-9._~@:+-]+)*")
_ISSUES: Final = re.compile(r"(?P<mount>.+?)(?:/issuer/[^/]+)?/(?:issue|sign)/[^/]+")


@dataclass(frozen=True, slots=True)
class VaultSecret:
    """A secret as the policy describes it.

    ``parameters`` are sent to the path; None: it is read without any. ``mount`` is where the engine of a static value
    or of a certificate is enabled.
    """

    engine: str
    path: str
    mount: str = ""
    namespace: str | None = None
    parameters: Mapping[str, object] | None = None
    version: int | None = None
    key: str | None = None

    def ask(self, ttl: int) -> Ask:
        """Return the request that makes or reads the secret. ``ttl`` is in seconds, unless the parameters have one."""
        match self.engine:
            case "kv2":
                query = None if self.version is None else {"version": str(self.version)}
                rest = self.path.removeprefix(f"{self.mount}/")
                return Ask("GET", f"{self.mount}/data/{rest}", self.namespace, query=query)
            case _ if self.parameters is None:
                return Ask("GET", self.path, self.namespace)
            case _:
                return Ask("POST", self.path, self.namespace, body={"ttl": f"{ttl}s", **self.parameters})


def secret_of(settings: Mapping[str, object], namespace: str | None) -> VaultSecret:
    """Read the members that a secret has in the policy; ``namespace`` is the server's, if the secret has none.

    Raises ``BackendFailed`` (``BACKEND_REFUSED``) for a path that its engine cannot have.
    """
    known: dict[str, Any] = dict(settings)
    engine, path = known.get("engine", LEASE), known["path"]
    if _PATH.fullmatch(path) is None or _climbs(path):
        raise refused("the secret's path is not one of Vault's: at least two parts, none empty, and no dots alone")
    mount = ""
    if engine == KV2:
        mount = path.partition("/")[0]
    elif engine == PKI:
        match = _ISSUES.fullmatch(path)
        if match is None:
            raise refused(f"{path} issues no certificates: a path with engine: pki is such as pki/issue/ROLE")
        mount = match["mount"]
    return VaultSecret(
        engine=engine,
        path=path,
        mount=mount,
        namespace=known.get("namespace", namespace),
        parameters=known.get("parameters"),
        version=known.get("version"),
        key=known.get("key"),
    )


def prefix_of(path: str) -> str:
    """Return a path below which leases are to be revoked. Raises ``BackendFailed`` if it is none."""
    prefix = path.strip("/")
    if _PREFIX.fullmatch(prefix) is None or _climbs(prefix):
        raise refused("the prefix is not a path of Vault's: no part may be empty, and no dots alone")
    return prefix


def _climbs(path: str) -> bool:
    return not {".", ".."}.isdisjoint(path.split("/"))


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that was issued. ``expires_at`` is in Unix seconds."""

    serial: str
    expires_at: int


def leased(secret: VaultSecret, answer: Answer) -> Secret:
    """Return what a path that makes leases made. Raises ``BackendFailed`` if it is no lease."""
    if not answer.lease_id or answer.lease_duration < 1 or answer.data is None:
        text = f"{secret.path} gave an answer without a lease; static values and certificates have engines of their own"
        raise refused(text)
    return _encoded(answer.data)


def static(secret: VaultSecret, answer: Answer) -> Secret:
    """Return a static value, or the one member of it that the policy names."""
    value = None if answer.data is None else answer.data.get("data")
    if not isinstance(value, dict):
        raise refused(f"{secret.path} holds no value with versions (KV version 2)")
    if secret.key is None:
        return _encoded(value)
    if secret.key not in value:
        raise refused(f"the value at {secret.path} has no member {secret.key}")
    return _encoded({secret.key: value[secret.key]})


def certificate(secret: VaultSecret, answer: Answer) -> tuple[Secret, Certificate]:
    """Return a certificate with its key, and what it is revoked by."""
    data = answer.data or {}
    serial, expires_at = data.get("serial_number"), data.get("expiration")
    if not isinstance(serial, str) or not serial or not isinstance(expires_at, int):
        raise refused(f"{secret.path} gave an answer without a certificate that could be revoked")
    return _encoded(data), Certificate(serial, expires_at)


def _encoded(data: Mapping[str, Any]) -> Secret:
    return Secret(msgspec.json.encode(data))
