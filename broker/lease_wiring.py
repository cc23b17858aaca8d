"""Composing what leases need: the configured backends, those who take and hold leases, and the reaper. No logic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from broker.backends.local import LocalBackend
from broker.backends.secrets_file import PURPOSE as LOCAL_SECRETS
from broker.config import BackendSettings, LocalSettings
from broker.core.errors import Code, Unavailable
from broker.core.secret import Secret
from broker.lease_backends import GatedBackends
from broker.ports import Backend, Clock
from broker.signing.delivery import check_recipient, encrypted
from broker.signing.sealing import Sealer, derived_key
from broker.timing import SYSTEM


class JweEnvelope:
    """Encrypts secrets to agents' own keys (port ``Envelope``)."""

    def check(self, jwk: object) -> str:
        """Return the thumbprint of a key that can be encrypted to. Raises ``Malformed``."""
        return check_recipient(jwk)

    def seal(self, data: Secret, jwk: object) -> str:
        """Return a compact JWE. Raises ``Malformed``."""
        return encrypted(data, jwk)


def open_backends(settings: Mapping[str, BackendSettings], *, master_key: Secret, clock: Clock) -> GatedBackends:
    """Return the configured backends. None is asked for anything yet.

    Raises ``Unavailable`` with a text for the operator if the package that a backend needs is not installed.
    """
    made = {name: _backend(name, each, master_key, clock) for name, each in settings.items()}
    return GatedBackends(made, concurrency={name: each.concurrency for name, each in settings.items()}, timing=SYSTEM)


def _backend(name: str, settings: BackendSettings, master_key: Secret, clock: Clock) -> Backend:
    match settings:
        case LocalSettings():
            return LocalBackend(
                name,
                Path(settings.path),
                seal=Sealer(derived_key(master_key, LOCAL_SECRETS)),
                clock=clock,
                concurrency=settings.concurrency,
                timeout_seconds=settings.timeout_seconds,
            )
        case _:
            raise Unavailable(Code.INTERNAL, f"backends.{name}: this kind is not available")
