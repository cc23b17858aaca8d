"""``broker agent``: agents that sign in with keys of their own."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Annotated, Any, Final

import jwt
import typer

from broker.cli.keyfile import PrivateKey, create_private_key, load_private_key, load_public_jwk, signing_algorithm
from broker.cli.options import ConfigFile, IssuerUrl, Json, Port, issuer_of, or_input, settings
from broker.cli.output import Facts, Table, show
from broker.cli.session import JSON, answer_of, call, path_part, unreachable
from broker.core.enrollment_proof import TYPE, code_id
from broker.core.errors import BrokerError
from broker.core.jwk import public_jwk
from broker.outbound import Outbound, destination_of

app = typer.Typer(help="Agents that sign in with keys of their own.", no_args_is_help=True)

PROOF_SECONDS: Final = 60

_COLUMNS = ("name", "key", "registered", "by")
_Name = Annotated[str, typer.Argument(metavar="NAME", help="The agent's name; in the policy: {agent: NAME}")]


@app.command("add")
def add(
    name: _Name,
    public_key: Annotated[
        Path, typer.Option("--public-key", metavar="FILE", help="The agent's public key, in PEM or as a JWK.")
    ],
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Register an agent by its public key."""
    body = {"name": name, "jwk": load_public_jwk(public_key)}
    answer = call(settings(config, port), lambda session: session.post("/v1/agents", "agents:write", body))
    show(answer, _registered(answer), as_json=as_json)


@app.command("list")
def index(config: ConfigFile = None, port: Port = None, as_json: Json = False) -> None:
    """List the registered agents."""
    answer = call(settings(config, port), lambda session: session.get("/v1/agents", "operator:read"))
    rows = [(agent["name"], agent["key"], agent["created_at"], agent["created_by"]) for agent in answer["agents"]]
    show(answer, Table(_COLUMNS, rows, "No agents are registered."), as_json=as_json)


@app.command("enroll")
def enroll(name: _Name, config: ConfigFile = None, port: Port = None, as_json: Json = False) -> None:
    """Make a one-time code with which an agent registers a key of its own, so that the key never travels."""
    body = {"name": name}
    answer = call(settings(config, port), lambda session: session.post("/v1/enrollments", "agents:write", body))
    show(
        answer,
        Facts(
            f"Enrolment of {answer['name']}",
            [("code", answer["code"]), ("good until", answer["expires_at"])],
        ),
        "Where the agent runs:  broker agent redeem CODE --key FILE",
        as_json=as_json,
    )


@app.command("redeem")
def redeem(
    code: Annotated[str, typer.Argument(metavar="CODE", help="The enrolment code; - reads it from standard input.")],
    key: Annotated[
        Path, typer.Option("--key", metavar="FILE", help="The agent's private key (PEM); made if it is not there.")
    ],
    issuer_url: IssuerUrl = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Register this agent's own key with an enrolment code. For the agent's side: needs no operator."""
    issuer = issuer_of(issuer_url, config, port)
    code = or_input(code, "CODE")
    private = load_private_key(key) if key.exists() else create_private_key(key)
    answer = asyncio.run(_redeem(issuer, code, private))
    show(answer, _registered(answer), as_json=as_json)


@app.command("remove")
def remove(name: _Name, config: ConfigFile = None, port: Port = None, as_json: Json = False) -> None:
    """Forget an agent: it can sign in no more. Its tokens live on until they end or are revoked."""
    path = f"/v1/agents/{path_part(name, 'NAME')}"
    call(settings(config, port), lambda session: session.delete(path, "agents:write"))
    show(
        {"removed": name},
        f"Removed {name}. To end the tokens it has:  broker revoke --agent {name} --reason TEXT",
        as_json=as_json,
    )


async def _redeem(issuer: str, code: str, key: PrivateKey) -> Any:  # noqa: ANN401 - JSON
    jwk = public_jwk(key.public_key())
    now = int(time.time())
    claims = {"aud": issuer, "iat": now, "exp": now + PROOF_SECONDS, "jti": code_id(code)}
    proof = jwt.encode(claims, key, algorithm=signing_algorithm(key), headers={"typ": TYPE})
    async with Outbound() as http:
        url, body = f"{issuer}/v1/enrollments/redeem", {"code": code, "jwk": jwk, "proof": proof}
        try:
            reply = await http.post(url, json.dumps(body).encode(), destination_of(issuer), headers=JSON)
        except BrokerError as error:
            raise await unreachable(issuer, http, error) from error
    return answer_of(reply)


def _registered(agent: dict[str, Any]) -> Facts:
    values = [("key", agent["key"]), ("by", agent["created_by"]), ("in the policy", f"{{agent: {agent['name']}}}")]
    return Facts(f"Registered {agent['name']}", values)
