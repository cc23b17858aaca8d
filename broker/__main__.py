"""The ``broker`` command, and ``python -m broker``."""

from __future__ import annotations

import sys
from typing import Final

_SERVER_PACKAGES: Final = frozenset(
    {"alembic", "prometheus_client", "rich", "sqlalchemy", "structlog", "typer", "ulid", "uvloop", "yaml"}
)
_MISSING: Final = (
    "broker: server_not_installed: the broker command needs the package {name}, which comes with the server extra:"
    " pip install 'credential-broker[server]'"
)
_USAGE_STATUS: Final = 2


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        from broker.cli.app import run  # noqa: PLC0415 - may be absent: broker.client and broker.verifier need less
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in _SERVER_PACKAGES:
            raise
        print(_MISSING.format(name=name), file=sys.stderr)  # noqa: T201 - the only way to tell
        sys.exit(_USAGE_STATUS)
    sys.exit(run())


if __name__ == "__main__":
    main()
