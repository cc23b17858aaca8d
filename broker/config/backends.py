"""The backends of leases: their settings, by kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from broker.config.addresses import check_url
from broker.config.problems import fail, key_of


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


def read_backend(name: str, table: dict[str, Any], path: Path, folder: Path) -> BackendSettings:
    """Read the settings of one backend; paths in them are taken from the folder."""
    where = f"backends.{name}"
    kind, slash, instance = name.partition("/")
    if kind not in BACKEND_KINDS or (slash and not instance):
        fail(path, f"{where}: is named after its kind ({', '.join(BACKEND_KINDS)}), or as KIND/NAME")
    try:
        settings = msgspec.convert(table, BACKEND_KINDS[kind])
    except msgspec.ValidationError as error:
        fail(path, f"{where}.{key_of(error)}" if " - at " in str(error) else f"{where}: {error}")
    if settings.concurrency < 1 or not 0 < settings.timeout_seconds < math.inf:
        fail(path, f"{where}: concurrency and timeout_seconds must be above 0")
    replace = msgspec.structs.replace
    match settings:
        case VaultSettings():
            check_url(f"{where}.address", settings.address, path)
            _check_sign_in(where, settings.sign_in, path)
            sign_in, ca_file = settings.sign_in, settings.ca_file
            files = {key: getattr(sign_in, key) for key in ("token_file", "secret_id_file")}
            within = {key: str((folder / value).absolute()) for key, value in files.items() if value is not None}
            settings = replace(settings, sign_in=replace(sign_in, **within))
            return settings if ca_file is None else replace(settings, ca_file=str((folder / ca_file).absolute()))
        case AwsSettings():
            if settings.endpoint is not None:
                check_url(f"{where}.endpoint", settings.endpoint, path)
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
            fail(path, f"{where}.sign_in.{field.name}: is needed for the method {sign_in.method}")
        if given and field.name not in {"method", *needed, *optional}:
            fail(path, f"{where}.sign_in.{field.name}: has no meaning for the method {sign_in.method}")
