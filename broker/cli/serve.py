"""``broker serve``: run a broker."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Callable, Coroutine
from ssl import SSLError
from typing import Annotated, Any, Final, TypeVar

import msgspec
import typer

from broker.cli.options import DEFAULT_CONFIG, ConfigFile, Json, Port, settings
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.output import note, show
from broker.config import MAX_WORKERS, Config
from broker.ports import Server

_BINDING: Final = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM})

T = TypeVar("T")

Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        max=MAX_WORKERS,
        help="How many processes serve, instead of the number in the settings.",
    ),
]


def command(config: ConfigFile = None, port: Port = None, workers: Workers = None, as_json: Json = False) -> None:
    """Run a broker until it is stopped (Ctrl-C, SIGTERM). SIGHUP reloads policy and certificate. Logs go to stderr.

    With several workers, SIGUSR2 replaces them one by one.
    """
    loaded = settings(config, port)
    if workers is not None:
        count = msgspec.structs.replace(loaded.workers, count=workers)
        loaded = msgspec.structs.replace(loaded, workers=count)
    if loaded.workers.count > 1 and isinstance(loaded.ledger, Server):
        text = "workers share a ledger file; on a database ([ledger] url) run several brokers instead"
        raise unusable(text, "workers_need_a_file")
    if as_json:
        show({"issuer": loaded.issuer, "port": loaded.listen.port, "process": os.getpid()}, as_json=True)
        sys.stdout.flush()
    elif sys.stderr.isatty():
        note(f"The broker of {loaded.issuer}; its log follows. Stop it with Ctrl-C.")
    if loaded.workers.count == 1:
        serve(loaded)
        return
    from broker.workers.supervising import supervise  # noqa: PLC0415 - like the server

    code = running(loaded, supervise(loaded, config or DEFAULT_CONFIG, port))
    if code:
        raise typer.Exit(code)


def serve(config: Config) -> None:
    """Serve with one process until told to stop. Raises ``Failure`` when the broker cannot start."""
    # The whole server is imported here, and by no other command.
    from broker import serving  # noqa: PLC0415

    running(config, serving.serve(config))


def running(config: Config, work: Coroutine[Any, Any, T]) -> T:
    """Run what serves until it ends, on the fastest event loop there is. Raises ``Failure`` when it cannot start."""
    from broker.signing.master_key import MasterKeyError  # noqa: PLC0415
    from broker.signing.sealing import SealingError  # noqa: PLC0415

    try:
        with asyncio.Runner(loop_factory=_fast_loop()) as runner:
            return runner.run(work)
    except SSLError as error:
        text = f"listen.certificate and listen.key: cannot be used ({error.reason or type(error).__name__})"
        raise unusable(text, "certificate_unusable") from error
    except OSError as error:
        raise _not_listening(config, error) from error
    except (MasterKeyError, SealingError) as error:
        raise unusable(str(error), "master_key_unusable") from error


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the maker of uvloop's event loop where there is one."""
    try:
        import uvloop  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def _not_listening(config: Config, error: OSError) -> Failure:
    why = os.strerror(error.errno) if error.errno is not None else type(error).__name__
    if error.errno not in _BINDING:
        named = "a file that the settings name" if error.filename is None else str(error.filename)
        return unusable(f"{named}: cannot be used ({why})", "file_unusable")
    place = f"{config.listen.host} port {config.listen.port}"
    text = f"cannot serve on {place}: {why}. Does another broker run there? Choose another port with --port"
    return Failure(ExitCode.UNAVAILABLE, "cannot_listen", text)
