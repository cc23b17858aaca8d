"""Composing the backends of leases that are configured. No logic."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

from broker.backends.local import LocalBackend
from broker.backends.secrets_file import PURPOSE as LOCAL_SECRETS
from broker.config import AwsSettings, BackendSettings, LocalSettings, VaultSettings
from broker.core.errors import Code, Unavailable
from broker.core.secret import Secret
from broker.lease_backends import GatedBackends
from broker.ports import Backend, Clock
from broker.signing.delivery import check_recipient, encrypted
from broker.signing.sealing import Sealer, derived_key
from broker.timing import SYSTEM

OwnToken = Callable[[str], Awaitable[Secret]]
"""Signs an identity token of the broker's own for an audience."""

OWN_CONCURRENCY: Final = 16
"""How many calls of a backend that is not configured run at once."""


class JweEnvelope:
    """Encrypts secrets to agents' own keys (port ``Envelope``)."""

    def check(self, jwk: object) -> str:
        """Return the thumbprint of a key that can be encrypted to. Raises ``Malformed``."""
        return check_recipient(jwk)

    def seal(self, data: Secret, jwk: object) -> str:
        """Return a compact JWE. Raises ``Malformed``."""
        return encrypted(data, jwk)


def open_backends(
    settings: Mapping[str, BackendSettings],
    own: Mapping[str, Backend],
    *,
    master_key: Secret,
    clock: Clock,
    own_token: OwnToken,
) -> GatedBackends:
    """Return the configured backends, and those of one's ``own``. None is asked for anything yet.

    Raises ``Unavailable`` with a text for the operator if the package that a backend needs is not installed.
    """
    made = {name: _backend(name, each, master_key, clock, own_token) for name, each in settings.items()}
    concurrency = {name: each.concurrency for name, each in settings.items()}
    every = {**dict.fromkeys(own, OWN_CONCURRENCY), **concurrency}
    return GatedBackends({**own, **made}, concurrency=every, timing=SYSTEM)


def _backend(name: str, settings: BackendSettings, master_key: Secret, clock: Clock, own_token: OwnToken) -> Backend:
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
        case VaultSettings():
            return _vault(name, settings, clock, own_token)
        case AwsSettings():
            return _aws(name, settings, clock, own_token)


def _vault(name: str, settings: VaultSettings, clock: Clock, own_token: OwnToken) -> Backend:
    try:
        from broker.backends.vault import VaultBackend  # noqa: PLC0415 - the package needs hvac only if it is used
        from broker.backends.vault_server import SignIn, VaultServer  # noqa: PLC0415 - as above
    except ImportError as error:
        raise _missing(name, "vault") from error
    sign_in = settings.sign_in
    server = VaultServer(
        address=settings.address,
        sign_in=SignIn(**{field: getattr(sign_in, field) for field in sign_in.__struct_fields__}),
        namespace=settings.namespace,
        ca_file=settings.ca_file,
        concurrency=settings.concurrency,
        timeout_seconds=settings.timeout_seconds,
    )
    try:
        return VaultBackend(name, server, clock=clock, own_token=own_token)
    except OSError as error:
        raise Unavailable(Code.INTERNAL, f"backends.{name}.ca_file: cannot be read") from error


def _aws(name: str, settings: AwsSettings, clock: Clock, own_token: OwnToken) -> Backend:
    try:
        from broker.backends.aws_secrets_manager import SecretsManagerBackend  # noqa: PLC0415 - only if it is used
        from broker.backends.aws_session import AwsAccount  # noqa: PLC0415 - as above
        from broker.backends.aws_sts import StsBackend  # noqa: PLC0415 - as above
    except ImportError as error:
        raise _missing(name, "aws") from error
    account = AwsAccount(
        region=settings.region,
        endpoint=settings.endpoint,
        web_identity_role=settings.web_identity_role,
        concurrency=settings.concurrency,
        timeout_seconds=settings.timeout_seconds,
    )
    kind = StsBackend if name.partition("/")[0] == "aws-sts" else SecretsManagerBackend
    return kind(name, account, clock=clock, own_token=own_token)


def _missing(name: str, extra: str) -> Unavailable:
    return Unavailable(Code.INTERNAL, f"backends.{name}: install credential-broker[{extra}]")
