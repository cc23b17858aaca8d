"""Sessions and stored secrets of AWS through the broker: tagged with whose they are, and denied when a rule says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from broker.core.lease import LeaseStatus
from tests.support.broker_app import BrokerApp, Template, make_template, running_app
from tests.support.leases import LEASING, POLICY, leasing_token, reaping, revoke, settled, take
from tests.support.moto_aws import ACCOUNT, REGION, client, environment, moto_server

ROLE = f"arn:aws:iam::{ACCOUNT}:role/agents"
SECRETS = f"""
  cloud: {{backend: aws-sts, tier: read, role_arn: "{ROLE}"}}
  stripe: {{backend: aws-secrets-manager, tier: read, secret_id: prod/stripe, key: api_key}}
"""


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run AWS."""
    with moto_server(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, moto: str) -> Template:
    """A broker with an account of AWS."""
    policy = POLICY.replace("roles:\n  workers:", f"{SECRETS}roles:\n  workers:").replace(
        "      - {secret: db}\n      - {secret: deed}",
        "      - {secret: db}\n      - {secret: cloud}\n      - {secret: stripe}\n      - {secret: deed}",
    )
    made = make_template(tmp_path_factory.mktemp("aws") / "broker", policy, LEASING)
    with (made.folder / "broker.toml").open("a") as file:
        for kind in ("aws-sts", "aws-secrets-manager"):
            file.write(f'\n[backends.{kind}]\nregion = "{REGION}"\nendpoint = "{moto}"\n')
    return made


@pytest.fixture
async def app(template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BrokerApp]:
    """Run the broker, with credentials of the machine."""
    environment(monkeypatch)
    async with running_app(template, tmp_path / "broker") as running, reaping(running):
        yield running


async def test_a_session_is_denied_by_its_tag(app: BrokerApp, moto: str) -> None:
    """The outcome says what the deny policy does, and the policy is there."""
    with client("iam", moto) as iam:
        iam.create_role(RoleName="agents", AssumeRolePolicyDocument="{}")
        token = await leasing_token(app)
        taken = await take(app, token, "cloud")
        assert taken.status == 201, taken.body
        lease = taken.json
        assert {"access_key_id", "secret_access_key", "session_token"} <= set(lease["data"])
        assert (lease["renewable"], lease["revocable"]) == (False, True)
        await revoke(app, agent="alpha")
        state = await settled(app, lease["lease_id"], within=20)
        assert state.status is LeaseStatus.REVOKED, state
        names = iam.list_role_policies(RoleName="agents")["PolicyNames"]
        documents = [iam.get_role_policy(RoleName="agents", PolicyName=name)["PolicyDocument"] for name in names]
        assert lease["lease_id"] in str(documents)
        assert "'Deny'" in str(documents)


async def test_a_stored_secret_says_that_it_is_not_revocable(app: BrokerApp, moto: str) -> None:
    """It is handed out member by member, and its end is no promise."""
    with client("secretsmanager", moto) as manager:
        manager.create_secret(Name="prod/stripe", SecretString='{"api_key": "sk_live_1", "other": "not for agents"}')
    lease = (await take(app, await leasing_token(app), "stripe")).json
    assert (lease["data"], lease["revocable"]) == ({"api_key": "sk_live_1"}, False)
    await revoke(app, secret="stripe")
    state = await settled(app, lease["lease_id"], within=20)
    assert (state.status, state.good_until) == (LeaseStatus.EXPIRES_ONLY, None)
    assert state.note
