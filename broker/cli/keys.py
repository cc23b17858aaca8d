"""``broker keys``: the broker's own signing keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from broker.cli.options import ConfigFile, Json, Port, settings
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.output import Facts, Part, Table, show
from broker.cli.session import call
from broker.core.jwk import parse_jwk

app = typer.Typer(help="The broker's own signing keys.", no_args_is_help=True)

_COLUMNS = ("kid", "use", "alg", "signs from", "retires", "revoked")


@app.command("list")
def index(config: ConfigFile = None, port: Port = None, as_json: Json = False) -> None:
    """List every key of the broker, revoked ones included. Public parts only."""
    loaded = settings(config, port)
    answer = call(loaded, lambda session: session.get("/v1/keys", "operator:read"))
    vkeys = vkeys_of(answer["keys"], ledger_name(loaded.issuer))
    told = [f"To verify signatures of the ledger's checkpoints:  broker ledger verify --vkey {vkey}" for vkey in vkeys]
    show({**answer, "vkeys": vkeys}, _table(answer["keys"]), *told, as_json=as_json)


@app.command("rotate")
def rotate(
    emergency: Annotated[
        bool, typer.Option("--emergency", help="Replace all keys at once, and end every token they have signed.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why; an emergency needs one.")] = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Make new signing keys: published now, signing when every verifier knows them. Tokens live on."""
    if emergency and reason is None:
        raise unusable("--emergency: give a --reason, which is recorded")
    if reason is not None and not emergency:
        raise unusable("--reason: goes with --emergency")
    body = {"emergency": True, "reason": reason} if emergency else {}
    answer = call(settings(config, port), lambda session: session.post("/v1/keys/rotate", "keys:write", body))
    revoked = answer["revocations"]
    show(answer, _table(answer["keys"]), *(_revocation(outcome) for outcome in revoked), as_json=as_json)
    if not all(outcome["durable"] for outcome in revoked):
        raise typer.Exit(ExitCode.NOT_DURABLE)


def _table(keys: list[dict[str, Any]]) -> Table:
    rows = [
        (key["kid"], key["use"], key["alg"], key["active_at"], key["retires_at"] or "-", key["revoked"]) for key in keys
    ]
    return Table(_COLUMNS, rows, "The broker has no keys.")


def vkeys_of(keys: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """Return the verifier keys (C2SP signed notes) of the keys that sign checkpoints, under their name."""
    from broker.signing.checkpoint import verifier_key  # noqa: PLC0415 - few commands need it

    found = [key["public_jwk"] for key in keys if key["use"] == "checkpoint" and not key["revoked"]]
    return [verifier_key(name, _ed25519(jwk)) for jwk in found]


def ledger_name(issuer: str) -> str:
    """Return the name of the ledger of a broker, which is that of the keys that sign its checkpoints."""
    from broker.signing.ledger_identity import origin  # noqa: PLC0415 - as above

    return origin(issuer)


def _ed25519(jwk: Mapping[str, Any]) -> Ed25519PublicKey:
    public = parse_jwk(jwk).key
    if not isinstance(public, Ed25519PublicKey):
        raise Failure(ExitCode.UNAVAILABLE, "bad_answer", "the key of checkpoints is not an Ed25519 key")
    return public


def _revocation(outcome: dict[str, Any]) -> Part:
    hits = outcome["hits"]
    tokens = "being counted" if hits is None else f"{hits['tokens']:,}"
    values = [("key", outcome["selector"].get("key")), ("tokens ended", tokens), ("durable", outcome["durable"])]
    return Facts(f"Rule {outcome['rule'] or outcome['id']}", values)
