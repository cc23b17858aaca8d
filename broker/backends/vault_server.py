"""What the operator says about one Vault or OpenBao server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

CONNECT_SECONDS: Final = 5.0
"""How long it may take to connect, if a request may take as long."""

USER_AGENT: Final = "credential-broker"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignIn:
    """How the broker signs in; ``mount`` is where the method is enabled, if not under its own name.

    ``token``: with the token in ``token_file``. ``approle``: with ``role_id`` and the secret id in ``secret_id_file``.
    ``kubernetes``: as ``role``, with the service account's token in ``token_file``. ``jwt``: as ``role``, with an
    identity token that the broker signs for ``audience`` (the server's address if None). Paths are absolute, and files
    are read again whenever the broker signs in.
    """

    method: Literal["token", "approle", "kubernetes", "jwt"]
    mount: str | None = None
    role: str | None = None
    role_id: str | None = None
    secret_id_file: str | None = None
    token_file: str | None = None
    audience: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultServer:
    """A server. ``address`` is its URL, without a path; ``ca_file`` a PEM file of roots to trust, not the system's.

    ``namespace`` is where the broker signs in and makes its tokens. ``concurrency`` is how many requests are made at
    once, ``timeout_seconds`` how long each may take.
    """

    address: str
    sign_in: SignIn
    namespace: str | None = None
    ca_file: str | None = None
    concurrency: int = 16
    timeout_seconds: float = 10.0
