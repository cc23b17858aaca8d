"""The guide to signing in elsewhere: its policy compiles, and what others are to be told can be read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from broker.core.aws_session import session_claims
from tests.support.policies import compiled

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "sign-in-to-vault-and-clouds.md").read_text()


def test_the_policy_compiles() -> None:
    """The lines that it shows are those of a role."""
    (shown,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (role,) = yaml.safe_load(shown)["roles"].values()
    policy = compiled(version=1, roles={"finance": {"members": [{"agent": "a"}], **role}})
    identities = policy.roles["finance"].identities
    assert list(identities) == ["vault", "sts.amazonaws.com", "https://kubernetes.default.svc"]
    for audience in identities:
        assert PAGE.count(f'"{audience}"') + PAGE.count(f" {audience}") > 1, audience


def test_trust_at_aws() -> None:
    """The trust policy compares what tokens say, and allows what they bring along."""
    trust, deny = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL))
    (statement,) = trust["Statement"]
    compared = statement["Condition"]["StringEquals"]
    agent = compared["broker.example:sub"]
    claims = session_claims(agent=agent, task="task_1")
    assert claims["https://aws.amazon.com/tags"]["principal_tags"]["agent"] == [compared["aws:RequestTag/agent"]]
    assert {"sts:TagSession", "sts:SetSourceIdentity"} < set(statement["Action"])
    assert deny["Statement"][0]["Effect"] == "Deny"


def test_the_api_servers_configuration() -> None:
    """It reads claims that tokens have, and never takes a name of theirs without a prefix."""
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    (issuer,) = yaml.safe_load(shown)["jwt"]
    mappings = issuer["claimMappings"]
    assert [(each["claim"], each["prefix"]) for each in (mappings["username"], mappings["groups"])] == [
        ("agent", "broker:"),
        ("groups", "broker:"),
    ]
