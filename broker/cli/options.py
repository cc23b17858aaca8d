"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from broker.cli.outcome import unusable
from broker.config import Config, ConfigError, issuer_problem, load_config

DEFAULT_CONFIG: Final = Path("broker.toml")
MAX_INPUT: Final = 64 * 1024

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar="BROKER_CONFIG",
        show_envvar=True,
        help="The broker's settings; without it ./broker.toml.",
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        metavar="N",
        envvar="BROKER_PORT",
        show_envvar=True,
        min=0,
        max=65535,
        help="The port instead of the one in the settings (a loopback issuer follows it).",
    ),
]
LedgerFile = Annotated[
    Path | None, typer.Option("--file", metavar="LEDGER", help="Read this ledger file; needs no broker.")
]
IssuerUrl = Annotated[
    str | None,
    typer.Option(
        "--issuer-url",
        metavar="URL",
        envvar="BROKER_ISSUER",
        show_envvar=True,
        help="The broker's address; without it the one in the settings.",
    ),
]


def settings(config: Path | None, port: int | None = None) -> Config:
    """Load the settings. Raises ``Failure`` that says where they were looked for, or which key is wrong."""
    path = config or DEFAULT_CONFIG
    if not path.exists():
        raise unusable(
            f"no settings at {path}; name them with --config or BROKER_CONFIG, or make them with: broker init DIR",
            "config_missing",
        )
    try:
        return load_config(path, port=port)
    except ConfigError as error:
        raise unusable(str(error), "config_invalid") from error


def issuer_of(issuer_url: str | None, config: Path | None, port: int | None) -> str:
    """Return the broker's address for an agent: as given, or from the settings. Raises ``Failure``."""
    if issuer_url is None:
        return settings(config, port).issuer
    # A broker's own listener may well be reached at a port: the rule for ports is the broker's, not its callers'.
    problem = issuer_problem(issuer_url, tls_ends_in_front=issuer_url.startswith("https://"))
    if problem is not None:
        raise unusable(f"--issuer-url: {problem}")
    return issuer_url


def or_input(value: str, what: str) -> str:
    """Return ``value``, or, for ``-``, one line of standard input: secrets on a command line are seen by others."""
    if value != "-":
        return value
    line = typer.get_text_stream("stdin").readline(MAX_INPUT).strip()
    if not line:
        raise unusable(f"{what}: - means standard input, which is empty")
    return line
