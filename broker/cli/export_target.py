"""Where ``broker ledger export`` sends entries: the options that say so, checked, and the receiver they come to."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from yarl import URL

from broker.cli.outcome import unusable
from broker.config.addresses import is_loopback
from broker.core.errors import BrokerError
from broker.core.exporting import Format
from broker.delivery.http import ANSWER_SECONDS, HttpReceiver, HttpTarget, TokenSource, http_url
from broker.delivery.receiver import Receiver
from broker.delivery.syslog import SyslogSender, SyslogTarget, Transport, syslog_target
from broker.delivery.syslog_receiver import SyslogReceiver
from broker.outbound import Outbound, destination_of
from broker.timing import SYSTEM

To = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="URL",
        help="Send to this receiver: https://…, syslog+tls://…, +tcp://, +udp://, or syslog:PATH.",
    ),
]
TokenFile = Annotated[Path | None, typer.Option(metavar="PATH", help="The receiver's token is in this file.")]
TokenVariable = Annotated[str | None, typer.Option(metavar="NAME", help="The receiver's token is in this variable.")]
CaFile = Annotated[Path | None, typer.Option(metavar="PATH", help="Roots (PEM) to trust instead of the system's.")]
ServerName = Annotated[str | None, typer.Option(metavar="NAME", help="Whom a syslog receiver's certificate is for.")]
Certificate = Annotated[Path | None, typer.Option(metavar="PATH", help="Our certificate (PEM) for syslog over TLS.")]
Key = Annotated[Path | None, typer.Option(metavar="PATH", help="Its private key (PEM).")]
AllowPlain = Annotated[bool, typer.Option("--allow-plain", help="Send to another machine without TLS.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was said of a receiver."""

    url: str
    token_file: Path | None
    token_variable: str | None
    ca_file: Path | None
    server_name: str | None
    certificate: Path | None
    key: Path | None
    allow_plain: bool


def target_of(options: Options, form: Format) -> SyslogTarget | HttpTarget:
    """Return the receiver that the options name. Raises ``Failure`` if they do not fit each other."""
    if (options.certificate is None) != (options.key is None):
        raise unusable("--certificate and --key: give both or neither")
    try:
        if options.url.startswith(("https:", "http:")):
            return _http(options, form)
        return _syslog(options)
    except BrokerError as error:
        raise unusable(f"--to: {error.public}") from error
    except OSError as error:
        raise unusable(f"--ca-file, --certificate or --key: cannot be used ({error.strerror})") from error


@asynccontextmanager
async def receiver_at(target: SyslogTarget | HttpTarget, form: Format) -> AsyncIterator[Receiver]:
    """Be ready to send to a receiver."""
    async with AsyncExitStack() as stack:
        match target:
            case SyslogTarget():
                yield SyslogReceiver(await stack.enter_async_context(SyslogSender(target)))
            case HttpTarget():
                outbound = await stack.enter_async_context(Outbound(total_seconds=ANSWER_SECONDS))
                yield HttpReceiver(target, form, outbound, wall=SYSTEM.wall)


def _http(options: Options, form: Format) -> HttpTarget:
    _without(options, "server_name", "certificate")
    url = http_url(options.url, form)
    destination = destination_of(url, ca_file=_text(options.ca_file))
    if options.allow_plain:
        destination = replace(destination, allow_http=True)
    if URL(url).scheme == "http" and not destination.allow_http:
        raise _plain()
    ssl.create_default_context(cafile=destination.ca_file)  # so that a file that cannot be used is told now
    token = None
    if options.token_file is not None or options.token_variable is not None:
        if options.token_file is not None and options.token_variable is not None:
            raise unusable("--token-file and --token-variable: give one of them")
        token = TokenSource(file=options.token_file, variable=options.token_variable)
        token.read()
    return HttpTarget(url=url, destination=destination, token=token)


def _syslog(options: Options) -> SyslogTarget:
    _without(options, "token_file", "token_variable")
    target = syslog_target(options.url)
    if target.transport is not Transport.TLS:
        _without(options, "ca_file", "server_name", "certificate")
        if target.transport is not Transport.LOCAL and not is_loopback(target.place) and not options.allow_plain:
            raise _plain()
        return target
    target = replace(
        target,
        ca_file=_text(options.ca_file),
        server_name=options.server_name,
        certificate=_text(options.certificate),
        key=_text(options.key),
    )
    SyslogSender(target)  # so that a file that cannot be used is told now
    return target


def _without(options: Options, *names: str) -> None:
    """Raise ``Failure`` if something was said that has no meaning for the receiver."""
    for name in names:
        if getattr(options, name) is not None:
            raise unusable(f"--{name.replace('_', '-')}: has no meaning for this receiver")


def _plain() -> Exception:
    return unusable("--to: leads to another machine without TLS; if that is meant, add --allow-plain")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
