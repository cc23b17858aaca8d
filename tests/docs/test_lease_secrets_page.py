"""The page on leasing secrets says what the code does: its settings and policy load, and Vault's is the tested one."""

from __future__ import annotations

import re
from pathlib import Path

from broker.config import load_config
from broker.policy_file import load_policy
from tests.support.openbao import BROKER_POLICY

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "lease-secrets.md").read_text()


def shown(language: str) -> list[str]:
    """Return the examples in one language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_settings_load(tmp_path: Path) -> None:
    """With nothing but an issuer beside them."""
    (settings,) = shown("toml")
    (tmp_path / "broker.toml").write_text(f'issuer = "https://broker.example"\n{settings}')
    assert set(load_config(tmp_path / "broker.toml", {}).backends) == {"vault", "aws-sts"}


def test_the_policy_loads(tmp_path: Path) -> None:
    """And gives the agent of the examples its secrets."""
    (policy,) = shown("yaml")
    (tmp_path / "policy.yaml").write_text(policy)
    loaded = load_policy(tmp_path / "policy.yaml", "https://broker.example")
    assert set(loaded.roles["support-triage"].secrets) == {"orders-db", "payroll-db"}


def test_what_the_broker_needs_in_vault() -> None:
    """The policy that is shown is the one that all tests against OpenBao run with."""
    assert shown("hcl") == [BROKER_POLICY.lstrip("\n")]
