"""``broker init``: make everything that a new broker needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from broker.cli.options import Json
from broker.cli.output import Facts, show

_MEANING = {
    "broker.toml": "the settings",
    "policy.yaml": "who may get what",
    "master.key": "seals the broker's private keys; keep a copy in a safe place",
    "ledger.db": "the record of everything, and the only store",
    "operator.pem": "the key of the first operator, the agent operator",
}


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make; it may exist.")],
    ledger_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Make the ledger in this PostgreSQL database instead of a file in DIR."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make settings, policy, master key, ledger and the first operator's key in DIR. Overwrites nothing."""
    from broker.cli.folder import make_folder  # noqa: PLC0415 - loads the ledger, which few commands need

    config = make_folder(folder, ledger_url)
    made = {name: means for name, means in _MEANING.items() if ledger_url is None or name != "ledger.db"}
    settings = folder / "broker.toml"
    show(
        {
            "folder": str(folder.resolve()),
            "config": str(settings.resolve()),
            "issuer": config.issuer,
            "operator": config.operator.agent,
            "files": sorted(made),
        },
        Facts(f"A new broker in {folder}", list(made.items())),
        f"Next:  broker serve --config {settings}",
        f"Then:  broker agent list --config {settings}",
        as_json=as_json,
    )
