"""What a supervisor starts as a worker: ``python -m broker.cli.worker``. It is no command, and not for use by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from broker.cli.app import told
from broker.cli.options import settings
from broker.cli.output import show_failure
from broker.cli.serve import running
from broker.workers.station import Station
from broker.workers.worker import work


def main() -> None:
    """Serve in the place that the argument names, and end the process with the exit code of ``broker serve``."""
    try:
        station = Station.from_text(sys.argv[1])
        config = settings(Path(station.config), station.port)
        workers = msgspec.structs.replace(config.workers, count=station.workers)
        config = msgspec.structs.replace(config, workers=workers)
        running(config, work(config, station))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last net: a traceback could hold anything
        failure = told(error)
        show_failure(failure, as_json=False)
        sys.exit(failure.exit_code)


if __name__ == "__main__":
    main()
