"""The ``broker`` command, and ``python -m broker``."""

from __future__ import annotations

import sys
from io import TextIOWrapper

from broker.cli.outcome import package_missing


def main() -> None:
    """Run the command line and end the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that cannot show a character must not make a command fail after it has done its work.
            stream.reconfigure(errors="backslashreplace")
    try:
        from broker.cli.app import run  # noqa: PLC0415 - may be impossible: broker.client and broker.verifier need less
    except ModuleNotFoundError as error:
        failure = package_missing(error)
        if failure is None:
            raise
        print(f"broker: {failure.code}: {failure.text}", file=sys.stderr)  # noqa: T201 - the rest needs the packages
        sys.exit(failure.exit_code)
    sys.exit(run())


if __name__ == "__main__":
    main()
