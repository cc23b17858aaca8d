"""A real OpenBao takes identity tokens of a real ``broker serve``, of agents and of the broker itself; no others."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest

from broker.cli.keyfile import load_private_key
from broker.client import Client, KeyIdentity, TokenRefused
from broker.core.errors import Code
from tests.support.openbao import OpenBao, OpenBaoRefused
from tests.support.running_broker import RunningBroker

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "sign-in-to-vault-and-clouds.md"
AUDIENCE = "vault"
OWN = "vault-broker"
TICKETS = "https://tickets.internal"
POLICY = f"""
version: 1
audiences:
  {TICKETS}: {{scopes: {{"tickets:read": {{tier: read}}}}}}
secrets:
  note: {{backend: vault, tier: read, engine: kv2, path: secret/note, key: text}}
tiers: {{read: {{max_ttl: 15m}}}}
roles:
  triage:
    members: [{{agent: triage}}, {{agent: other}}, {{agent: broker}}]
    allow:
      - {{audience: {TICKETS}, scopes: ["tickets:read"]}}
      - {{audience: broker, scopes: ["identity:issue", "leases:take", "tasks:open", "tasks:close"]}}
      - {{secret: note}}
      - {{identity_token: {AUDIENCE}, claims: {{env: prod}}, groups: [agents]}}
      - {{identity_token: {OWN}}}
      - {{identity_token: brief, max_ttl: 1s}}
    limits: {{tokens_per_minute: 100000}}
    may_delegate_to: [helpers]
  helpers:
    members: [{{agent: helper}}]
    allow: [{{identity_token: {AUDIENCE}, claims: {{env: prod}}}}]
  operators:
    members: [{{agent: operator}}]
    allow: [{{audience: broker, scopes: ["agents:write", "operator:read", "revocations:write", "keys:write"]}}]
"""
SIGN_IN = (
    f'\n[backends.vault]\naddress = "ADDRESS"\nsign_in = {{method = "jwt", role = "broker", audience = "{OWN}"}}\n'
)


@dataclass
class Ground:
    """A broker, an OpenBao that trusts it, and the agents' keys."""

    broker: RunningBroker
    bao: OpenBao
    keys: dict[str, Path]

    def client(self, agent: str) -> Client:
        """Return an agent's client."""
        return Client(self.broker.issuer, identity=KeyIdentity(agent, load_private_key(self.keys[agent])))

    def login(self, token: str, role: str = "triage") -> dict[str, Any]:
        """Sign in to OpenBao with a token. Raises ``OpenBaoRefused``."""
        answer = self.bao.call("POST", "auth/agents/login", {"role": role, "jwt": token}, token="")
        found: dict[str, Any] = answer["auth"]
        return found

    def role(self, name: str, **members: Any) -> None:  # noqa: ANN401 - JSON
        """Make a role of the method that agents sign in by."""
        usual = {"role_type": "jwt", "user_claim": "agent", "bound_audiences": [AUDIENCE], "clock_skew_leeway": -1}
        more = {"expiration_leeway": -1, "token_policies": ["triage"], "token_ttl": "5m"}
        self.bao.call("POST", f"auth/agents/role/{name}", {**usual, **more, **members})


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Start them, and let one trust the other by its issuer URL alone."""
    broker = RunningBroker(tmp_path_factory.mktemp("broker"), POLICY)
    with OpenBao() as bao:
        broker.initialise()
        with broker.config.open("a") as file:
            file.write(SIGN_IN.replace("ADDRESS", bao.url))
        broker.start()
        keys = {name: broker.agent(name) for name in ("triage", "other", "helper", "broker")}
        bao.with_broker_policy()
        bao.with_values({"note": {"text": "for agents only"}})
        bao.with_jwt(broker.issuer, audience=OWN, subject="broker")
        bao.write_policy("triage", 'path "secret/data/note" { capabilities = ["read"] }')
        bao.call("POST", "sys/auth/agents", {"type": "jwt"})
        bao.call("POST", "auth/agents/config", {"oidc_discovery_url": broker.issuer})
        made = Ground(broker, bao, keys)
        claims = {"agent": "triage", "env": "prod"}
        made.role("triage", bound_claims=claims, claim_mappings={"task": "task", "sub": "on_behalf_of"})
        yield made
        assert broker.stop() == 0


async def test_an_agent_signs_in(ground: Ground) -> None:
    """OpenBao, set up with nothing but the issuer's URL, knows agent and task, and lets in as its policy says."""
    async with ground.client("triage") as client, client.open_task("read the note") as task:
        token = await client.identity_token(AUDIENCE, task.id)
        auth = ground.login(token.access_token)
    assert auth["metadata"] == {"role": "triage", "task": task.id, "on_behalf_of": "triage"}
    data = ground.bao.call("GET", "secret/data/note", token=auth["client_token"])["data"]["data"]
    assert data == {"text": "for agents only"}
    with pytest.raises(OpenBaoRefused):
        ground.bao.call("GET", "sys/policies/acl", token=auth["client_token"])


async def test_the_role_that_the_page_shows(ground: Ground) -> None:
    """What the guide says to write into Vault works, for the agent that it names."""
    (shown,) = re.findall(r"<<'EOF'\n(.*?)EOF", PAGE.read_text(), re.DOTALL)
    role = json.loads(shown.replace("prod-cluster/support/triage", "triage"))
    ground.bao.call("POST", "auth/agents/role/shown", role)
    async with ground.client("triage") as client, ground.client("other") as other:
        assert ground.login((await client.identity_token(AUDIENCE)).access_token, "shown")["lease_duration"] == 300
        stranger = (await other.identity_token(AUDIENCE)).access_token
    with pytest.raises(OpenBaoRefused, match="agent"):
        ground.login(stranger, "shown")


async def test_the_command_line_does_as_well(ground: Ground) -> None:
    """What ``broker token`` prints is all that OpenBao needs."""
    key = str(ground.keys["triage"])
    printed = ground.broker.command("token", "--agent", "triage", "--key", key, "--identity-token", AUDIENCE)
    assert ground.login(printed.strip())["metadata"]["role"] == "triage"


async def test_only_the_agent_that_is_bound(ground: Ground) -> None:
    """``bound_claims`` tell agents apart: another agent of the same role, and one that acts for this one, stay out."""
    async with ground.client("other") as other, ground.client("helper") as helper, ground.client("triage") as triage:
        for_helper = await triage.token(f"{ground.broker.issuer}/v1", ["identity:issue"])
        tokens = [
            await other.identity_token(AUDIENCE),
            await helper.identity_token(AUDIENCE, subject_token=for_helper),
        ]
    assert jwt.decode(tokens[1].access_token, options={"verify_signature": False})["sub"] == "triage"
    for token in tokens:
        with pytest.raises(OpenBaoRefused, match="agent"):
            ground.login(token.access_token)
    ground.role("delegates", bound_claims={"agent": "helper"}, bound_subject="triage")
    assert ground.login(tokens[1].access_token, "delegates")
    with pytest.raises(OpenBaoRefused):
        ground.login(tokens[0].access_token, "delegates")


async def test_groups(ground: Ground) -> None:
    """A role can demand one of the groups that the broker's policy gives."""
    async with ground.client("triage") as client:
        token = (await client.identity_token(AUDIENCE)).access_token
    ground.role("grouped", bound_claims={"groups": ["agents"]}, groups_claim="groups")
    assert ground.login(token, "grouped")
    ground.role("admins", bound_claims={"groups": ["admins"]})
    with pytest.raises(OpenBaoRefused, match="groups"):
        ground.login(token, "admins")


async def test_what_is_meant_for_somebody_else(ground: Ground) -> None:
    """A token for another audience is refused, and so is an access token, even where its audience would be taken."""
    async with ground.client("triage") as client:
        elsewhere = await client.identity_token(OWN)
        access = await client.token(TICKETS, ["tickets:read"])
    with pytest.raises(OpenBaoRefused, match="audience"):
        ground.login(elsewhere.access_token)
    with pytest.raises(OpenBaoRefused, match="audience"):
        ground.login(access.access_token)
    ground.role("careless", bound_audiences=[TICKETS])
    with pytest.raises(OpenBaoRefused, match="not found in token"):
        ground.login(access.access_token, "careless")


async def test_what_has_expired(ground: Ground) -> None:
    """The life that the broker's policy gives is the limit."""
    ground.role("brief", bound_audiences=["brief"])
    async with ground.client("triage") as client:
        token = (await client.identity_token("brief")).access_token
    expires_at = jwt.decode(token, options={"verify_signature": False})["exp"]
    while time.time() <= expires_at:
        time.sleep(0.05)
    with pytest.raises(OpenBaoRefused, match="expired"):
        ground.login(token, "brief")


async def test_what_was_changed(ground: Ground) -> None:
    """A token with other claims than those that were signed is refused."""
    async with ground.client("other") as client:
        header, payload, signature = (await client.identity_token(AUDIENCE)).access_token.split(".")
    claims = json.loads(jwt.utils.base64url_decode(payload)) | {"agent": "triage", "sub": "triage"}
    forged = jwt.utils.base64url_encode(json.dumps(claims).encode()).decode()
    with pytest.raises(OpenBaoRefused, match="signature"):
        ground.login(f"{header}.{forged}.{signature}")


async def test_the_broker_signs_in_with_one_of_its_own(ground: Ground) -> None:
    """It keeps no credential for OpenBao at all, and leases from it."""
    async with ground.client("triage") as client, client.lease("note") as lease:
        assert dict(lease.data) == {"text": "for agents only"}


async def test_no_agent_passes_for_the_broker(ground: Ground) -> None:
    """Not one of its name, which gets no token, nor another, which has another subject."""
    async with ground.client("broker") as client:
        with pytest.raises(TokenRefused) as refused:
            await client.identity_token(OWN)
    assert refused.value.code is Code.AUDIENCE_NOT_ALLOWED
    async with ground.client("triage") as client:
        token = (await client.identity_token(OWN)).access_token
    with pytest.raises(OpenBaoRefused, match="invalid subject"):
        ground.bao.call("POST", "auth/jwt/login", {"role": "broker", "jwt": token}, token="")


async def test_a_revoked_agent_gets_no_more(ground: Ground) -> None:
    """Revoking ends what identity tokens come of; a client notices, asks anew, and is blocked."""
    async with ground.client("other") as client:
        await client.identity_token(AUDIENCE)
        ground.broker.command("revoke", "--agent", "other", "--block", "--for", "5m", "--reason", "test")
        with pytest.raises(TokenRefused) as refused:
            await client.identity_token(OWN)
    assert refused.value.code is Code.BLOCKED


async def test_keys_that_are_rotated(ground: Ground) -> None:
    """Once all keys are replaced, tokens of the old ones are refused, and those of the new ones taken at once."""
    async with ground.client("triage") as client:
        old = (await client.identity_token(AUDIENCE)).access_token
    ground.login(old)
    ground.broker.command("keys", "rotate", "--emergency", "--reason", "test")
    async with ground.client("triage") as client:
        new = (await client.identity_token(AUDIENCE)).access_token
    assert ground.login(new)
    with pytest.raises(OpenBaoRefused):
        ground.login(old)
