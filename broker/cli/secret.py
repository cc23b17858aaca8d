"""``broker secret``: the values that an operator stores in the file of a ``local`` backend. Needs no broker."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from broker.cli.options import ConfigFile, Json, settings
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.output import Table, moment, show
from broker.clock import SystemClock
from broker.config import LocalSettings
from broker.core.errors import BackendFailed, Code

if TYPE_CHECKING:
    from broker.backends.secrets_file import Contents, SecretsFile

app = typer.Typer(help="Values that are stored in the file of a local backend.", no_args_is_help=True)

MAX_VALUE: Final = 32 * 1024
"""Bytes of the longest value."""

_PATIENCE: Final = 10.0
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name, as in the policy's stored.")]
_Backend = Annotated[str, typer.Option("--backend", metavar="NAME", help="The backend, as in the settings.")]

T = TypeVar("T")


@app.command("set")
def put(name: _Name, backend: _Backend = "local", config: ConfigFile = None, as_json: Json = False) -> None:
    """Store a value, which is read from standard input or asked for; another one of that name is replaced."""
    if _NAME.fullmatch(name) is None:
        raise unusable("NAME: letters, digits, and . _ / - in between; 128 characters at most")
    file = _file(backend, config)
    _used(file.read)  # what cannot be opened is told before a secret is typed
    value = _value(name)

    def edit(contents: Contents) -> bool:
        from broker.backends.secrets_file import Stored  # noqa: PLC0415 - one command needs it

        before = contents.stored.get(name)
        now = int(SystemClock().now())
        # Later than the one before in any case: that is how a lease knows its value from the next one.
        contents.stored[name] = Stored(value, now if before is None else max(now, before.at + 1))
        return before is not None

    replaced = _used(lambda: file.change(edit))
    told = f"{name} is {'replaced' if replaced else 'stored'} in {backend}"
    show({"backend": backend, "name": name, "replaced": replaced}, told, as_json=as_json)


@app.command("list")
def index(backend: _Backend = "local", config: ConfigFile = None, as_json: Json = False) -> None:
    """List the names of the stored values and when each was stored; never a value."""
    contents = _used(_file(backend, config).read)
    told = [{"name": name, "stored_at": moment(stored.at)} for name, stored in sorted(contents.stored.items())]
    rows = [(each["name"], each["stored_at"]) for each in told]
    empty = f"{backend} has no stored values."
    show({"backend": backend, "secrets": told}, Table(("name", "stored"), rows, empty), as_json=as_json)


@app.command("remove")
def remove(name: _Name, backend: _Backend = "local", config: ConfigFile = None, as_json: Json = False) -> None:
    """Forget a stored value. Where it is used, it is as good as before."""
    file = _file(backend, config)
    if not _used(lambda: file.change(lambda contents: contents.stored.pop(name, None) is not None)):
        raise Failure(ExitCode.REFUSED, Code.NOT_FOUND.value, f"{backend} has no stored value of that name")
    show({"backend": backend, "name": name, "removed": True}, f"{name} is removed from {backend}", as_json=as_json)


def _file(backend: str, config: Path | None) -> SecretsFile:
    """Return the file of a backend of the settings, ready to be read. Raises ``Failure``."""
    from broker.backends.secrets_file import PURPOSE, SecretsFile  # noqa: PLC0415 - few commands need it
    from broker.signing.master_key import MasterKeyError, load_master_key  # noqa: PLC0415
    from broker.signing.sealing import Sealer, derived_key  # noqa: PLC0415
    from broker.wiring import master_key_source  # noqa: PLC0415

    loaded = settings(config)
    chosen = loaded.backends.get(backend)
    if chosen is None:
        raise unusable(f"--backend: the settings have none of that name; add: [backends.{backend}]", "no_backend")
    if not isinstance(chosen, LocalSettings):
        raise unusable("--backend: only a local backend stores values; others are kept where they are", "no_backend")
    try:
        master_key = load_master_key(master_key_source(loaded.master_key))
    except MasterKeyError as error:
        raise unusable(str(error), "master_key_unusable") from error
    return SecretsFile(backend, Path(chosen.path), Sealer(derived_key(master_key, PURPOSE)), patience=_PATIENCE)


def _used(call: Callable[[], T]) -> T:
    """Do something with the file. Raises ``Failure`` if it cannot be used, or not now."""
    try:
        return call()
    except BackendFailed as error:
        later = error.code is Code.BACKEND_UNAVAILABLE
        raise Failure(ExitCode.UNAVAILABLE if later else ExitCode.USAGE, error.code.value, error.public) from error


def _value(name: str) -> str:
    """Return the value to store: asked for, unseen, at a terminal; else the whole of standard input.

    One line end at its end is not part of it: ``echo`` and editors put it there.
    """
    if sys.stdin.isatty():
        # Typed unseen, so typed twice.
        return _checked(typer.prompt(f"Value of {name}", hide_input=True, confirmation_prompt=True, err=True).encode())
    given = typer.get_binary_stream("stdin").read(MAX_VALUE + 3)
    return _checked(given.removesuffix(b"\r\n" if given.endswith(b"\r\n") else b"\n"))


def _checked(value: bytes) -> str:
    if not 0 < len(value) <= MAX_VALUE:
        raise unusable(f"the value must have 1 to {MAX_VALUE} bytes", "value_unusable")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise unusable("the value must be text in UTF-8; encode what is not, as base64", "value_unusable") from None
