"""Resource servers and agents do not carry the broker's server along."""

import subprocess
import sys

import pytest

HEAVY = {
    "alembic",
    "joserfc",
    "prometheus_client",
    "rich",
    "sqlalchemy",
    "structlog",
    "typer",
    "ulid",
    "uvloop",
    "yaml",
    "broker.ports",
    "broker.ledger",
    "broker.http",
    "fastapi",
    "mcp",
    "starlette",
}


@pytest.mark.parametrize(
    "module",
    [
        "broker.verifier",
        "broker.verifier.aiohttp",
        "broker.verifier.asgi",
        "broker.verifier.mcp",
        "broker.client",
        "broker.client.aiohttp",
    ],
)
def test_a_library_import_stays_light(module: str) -> None:
    """Importing it loads none of the server's dependencies or parts, nor the other library."""
    program = f"import sys, {module}; print(*sys.modules, sep='\\n')"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.split())
    other = "broker.client" if module.startswith("broker.verifier") else "broker.verifier"
    assert loaded.isdisjoint(HEAVY | {other})
    assert module in loaded
