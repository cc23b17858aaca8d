"""``broker policy``: checking, explaining, trying out and loading the policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from broker.cli import policy_advice
from broker.cli.options import DEFAULT_CONFIG, ConfigFile, Json, Port, settings
from broker.cli.outcome import ExitCode, unusable
from broker.cli.output import Facts, Table, show
from broker.cli.policy_reload import reload_parts
from broker.cli.session import call
from broker.core.identity import REGISTERED, federated_id
from broker.core.policy import Policy, PolicyError

app = typer.Typer(help="The policy: who may get what.", no_args_is_help=True)
app.command("advise")(policy_advice.command)

DEVELOPMENT_ISSUER: Final = "http://127.0.0.1:8640"
"""The broker that a policy is checked for when there are no settings: the one that ``broker init`` makes."""

_PolicyFile = Annotated[
    Path | None, typer.Option("--policy", metavar="FILE", help="A policy file; without it that of the settings.")
]


@app.command("check")
def check(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Without it: that of the settings.")] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Say everything that is wrong with a policy file. Needs no broker, and no settings if FILE is given."""
    path, issuer = _place(file, config)
    try:
        policy = _load(path, issuer)
    except PolicyError as error:
        show(_problems(path, error), *error.public.split("\n"), as_json=as_json)
        raise typer.Exit(ExitCode.REFUSED) from error
    answer = {
        "file": str(path),
        "valid": True,
        "policy": policy.digest,
        "issuers": len(policy.issuers),
        "audiences": len(policy.audiences),
        "tiers": len(policy.tiers),
        "roles": len(policy.roles),
    }
    counts = [(name, answer[name]) for name in ("issuers", "audiences", "tiers", "roles")]
    show(answer, Facts(f"{path} is sound", [*counts, ("digest", policy.digest)]), as_json=as_json)


@app.command("test")
def try_cases(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files with cases.")],
    policy: _PolicyFile = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Try a policy on written cases of what it must grant and deny. Needs no broker."""
    from broker.policy_cases import load_cases, run_cases  # noqa: PLC0415 - loads YAML, which few commands need

    tried = _load(*_place(policy, config))
    results = [(path, result) for path in files for result in run_cases(tried, load_cases(path, tried))]
    told = [
        {"file": str(path), "case": result.case.name, "passed": result.passed, "differences": result.differences}
        for path, result in results
    ]
    failed = [result for result in told if not result["passed"]]
    show(
        {"passed": len(told) - len(failed), "failed": len(failed), "cases": told},
        Table(("file", "case", "result"), [(each["file"], each["case"], _result(each)) for each in told], "No cases."),
        f"{len(told) - len(failed)} passed, {len(failed)} failed",
        as_json=as_json,
    )
    if failed:
        raise typer.Exit(ExitCode.REFUSED)


@app.command("explain")
def explain(
    *,
    agent: Annotated[str | None, typer.Option(metavar="ID", help="The agent's id.")] = None,
    issuer: Annotated[
        str | None, typer.Option(metavar="NAME", help="The issuer that vouches, as in the policy.")
    ] = None,
    subject: Annotated[str | None, typer.Option(metavar="TEXT", help="The agent in that issuer's words.")] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(metavar="K=V", help="A verified claim: NAME=TEXT, or NAME:=JSON. May be given more than once."),
    ] = None,
    audience: Annotated[str | None, typer.Option(metavar="URL", help="The resource asked for.")] = None,
    scope: Annotated[list[str] | None, typer.Option(metavar="S", help="A scope asked for; repeatable.")] = None,
    secret: Annotated[str | None, typer.Option(metavar="NAME", help="The secret asked for, instead.")] = None,
    encrypted: Annotated[bool, typer.Option("--encrypted", help="It is to be encrypted to the agent's key.")] = False,
    proof: Annotated[bool, typer.Option("--proof", help="The agent proves possession of a key.")] = False,
    details: Annotated[str | None, typer.Option(metavar="JSON", help="The authorization_details asked for.")] = None,
    delegated_by: Annotated[
        str | None, typer.Option(metavar="ROLE", help="The role of a token that the agent exchanges.")
    ] = None,
    break_glass: Annotated[bool, typer.Option("--break-glass", help="The agent gives a reason to go ahead.")] = False,
    refusal: Annotated[str | None, typer.Option(metavar="ID", help="Explain a past refusal instead.")] = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Say, role by role, why the policy in force gives an agent a token or a secret, or does not."""
    identity = any(value is not None for value in (agent, issuer, subject)) or bool(claim)
    if refusal is not None:
        asked = any(value is not None for value in (audience, secret, details, delegated_by))
        if identity or asked or scope or proof or encrypted or break_glass:
            raise unusable("--refusal: stands alone; the ledger knows who asked for what")
        body: dict[str, Any] = {"refusal": refusal}
    else:
        ask = {
            "audience": audience,
            "scopes": scope or None,
            "secret": secret,
            "encrypted": encrypted,
            "proof": proof,
            "details": None if details is None else _json("--details", details),
            "delegated_by": delegated_by,
            "break_glass": break_glass,
        }
        body = {"agent": _agent(agent, issuer, subject, claim or []), "ask": ask}
    path = "/v1/policy/explain"
    answer = call(settings(config, port), lambda session: session.post(path, "operator:read", body))
    show(answer, *_refused(answer["refusal"]), *answer["text"], as_json=as_json)


@app.command("reload")
def reload(
    *,
    preview: Annotated[
        bool, typer.Option("--preview", help="Say what that would narrow, and what is alive of it; change nothing.")
    ] = False,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Have the broker load its policy file anew. A file with errors changes nothing."""
    body = {"preview": True} if preview else {}
    answer = call(settings(config, port), lambda session: session.post("/v1/policy/reload", "policy:write", body))
    show(answer, *reload_parts(answer), as_json=as_json)
    if not answer["complete"]:
        not_made = any(effect["failure"] is not None for effect in answer["narrowing"])
        raise typer.Exit(ExitCode.UNAVAILABLE if not_made else ExitCode.NOT_DURABLE)


def _place(file: Path | None, config: Path | None) -> tuple[Path, str]:
    """Return the policy file to look at, and the issuer of the broker it is for."""
    if file is not None and config is None and not DEFAULT_CONFIG.exists():
        return file, DEVELOPMENT_ISSUER
    loaded = settings(config)
    return (loaded.policy if file is None else file), loaded.issuer


def _load(path: Path, issuer: str) -> Policy:
    from broker.policy_file import load_policy  # noqa: PLC0415 - loads YAML, which few commands need

    return load_policy(path, issuer)


def _problems(path: Path, error: PolicyError) -> dict[str, Any]:
    told = [{"line": each.line, "path": each.path, "reason": each.reason} for each in error.problems]
    return {"file": str(path), "valid": False, "problems": told}


def _result(told: dict[str, Any]) -> str:
    return "passed" if told["passed"] else "FAILED: " + "; ".join(told["differences"])


def _agent(agent: str | None, issuer: str | None, subject: str | None, claims: list[str]) -> dict[str, Any]:
    """Return who is asked about; a registered agent by its name, any other as its issuer would vouch for it."""
    if issuer is None:
        if agent is None:
            raise unusable("--agent: name the agent (or --issuer with --subject, or --refusal)")
        named, slash, rest = agent.partition("/")
        issuer, subject = (named, subject or rest) if slash else (REGISTERED, subject or agent)
    if subject is None and agent is None:
        raise unusable("--subject: name the agent in its issuer's words (or --agent)")
    try:
        identity = agent or federated_id(issuer, subject or "")
    except ValueError as error:
        raise unusable(f"--subject: {error}") from error
    attributes = dict(map(_claim, claims))
    return {"id": identity, "issuer": issuer, "subject": subject or identity, "attributes": attributes}


def _claim(text: str) -> tuple[str, str | int | bool | list[str]]:
    name, equals, value = text.partition("=")
    if not equals or not name.removesuffix(":"):
        raise unusable("--claim: must be NAME=TEXT, or NAME:=JSON for a number, true, false or a list")
    if not name.endswith(":"):
        return name, value
    parsed = _json("--claim", value)
    if isinstance(parsed, list) and all(isinstance(item, str) for item in parsed):
        return name[:-1], parsed
    if isinstance(parsed, str | int):
        return name[:-1], parsed
    raise unusable("--claim: must be text, a whole number, true, false, or a list of texts")


def _json(option: str, text: str) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return json.loads(text)
    except ValueError as error:
        raise unusable(f"{option}: is not JSON") from error


def _refused(refusal: dict[str, Any] | None) -> list[Facts]:
    """Return what the ledger recorded of a past refusal; what follows is what the policy in force says to it now."""
    if refusal is None:
        return []
    entry = refusal["entry"]
    told = ("agent", "code", "reason", "audience", "scope", "secret", "role", "task")
    return [Facts(f"Refusal {entry['ref']}, entry {refusal['seq']}", [(name, entry.get(name)) for name in told])]
