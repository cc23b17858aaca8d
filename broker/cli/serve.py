"""``broker serve``: run a broker."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Callable
from ssl import SSLError
from typing import Final

from broker.cli.options import ConfigFile, Json, Port, settings
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.output import note, show
from broker.config import Config

_BINDING: Final = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM})


def command(config: ConfigFile = None, port: Port = None, as_json: Json = False) -> None:
    """Run a broker until it is stopped (Ctrl-C, SIGTERM). SIGHUP reloads policy and certificate. Logs go to stderr."""
    loaded = settings(config, port)
    if as_json:
        show({"issuer": loaded.issuer, "port": loaded.listen.port, "process": os.getpid()}, as_json=True)
        sys.stdout.flush()
    elif sys.stderr.isatty():
        note(f"The broker of {loaded.issuer}; its log follows. Stop it with Ctrl-C.")
    serve(loaded)


def serve(config: Config) -> None:
    """Serve until told to stop. Raises ``Failure`` when the broker cannot start."""
    # The whole server is imported here, and by no other command.
    from broker import serving  # noqa: PLC0415
    from broker.signing.master_key import MasterKeyError  # noqa: PLC0415
    from broker.signing.sealing import SealingError  # noqa: PLC0415

    try:
        with asyncio.Runner(loop_factory=_fast_loop()) as runner:
            runner.run(serving.serve(config))
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
