"""Composing what leases need: the configured backends, those who take and hold leases, and the reaper. No logic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

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


OWN_CONCURRENCY: Final = 16
"""How many calls of a backend that is not configured run at once."""


def open_backends(
    settings: Mapping[str, BackendSettings], own: Mapping[str, Backend], *, master_key: Secret, clock: Clock
) -> GatedBackends:
    """Return the configured backends, and those of one's ``own``. None is asked for anything yet.

    Raises ``Unavailable`` with a text for the operator if the package that a backend needs is not installed.
    """
    made = {name: _backend(name, each, master_key, clock) for name, each in settings.items()}
    concurrency = {name: each.concurrency for name, each in settings.items()}
    every = {**dict.fromkeys(own, OWN_CONCURRENCY), **concurrency}
    return GatedBackends({**own, **made}, concurrency=every, timing=SYSTEM)


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
