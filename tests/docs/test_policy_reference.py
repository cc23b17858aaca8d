"""The policy reference says what the code does: its examples run, and nothing that exists is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker.core.policy import OPERATOR_SCOPES
from broker.core.policy.compile_issuers import ALGORITHMS, PRESETS
from broker.policy_cases import load_cases, run_cases
from broker.policy_file import load_policy

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "policy.md"
TEXT = REFERENCE.read_text()


def test_the_examples_run(tmp_path: Path) -> None:
    """The policy shown compiles, and the cases shown hold for it."""
    policy_text, cases_text = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "policy.yaml").write_text(policy_text)
    (tmp_path / "cases.yaml").write_text(cases_text)
    policy = load_policy(tmp_path / "policy.yaml", "https://broker.example")
    results = run_cases(policy, load_cases(tmp_path / "cases.yaml", policy))
    assert [result.differences for result in results] == [(), (), ()]


@pytest.mark.parametrize(("scope", "meaning"), OPERATOR_SCOPES.items())
def test_every_scope_of_the_broker_is_described(scope: str, meaning: str) -> None:
    """The table of the broker's own scopes is the code's."""
    assert f"| `{scope}` | {meaning} |" in TEXT


def test_every_preset_and_algorithm_is_described() -> None:
    """What an issuer may say is all there."""
    for preset in PRESETS:
        assert f"`{preset}`" in TEXT
    assert " ".join(ALGORITHMS) in TEXT


def test_every_key_is_described() -> None:
    """Each key that the compiler knows stands in the reference."""
    sources = "".join(path.read_text() for path in (REFERENCE.parents[2] / "broker/core/policy").glob("compile*.py"))
    calls = re.findall(r"\.members\(([^)]*)\)", sources) + re.findall(r"_(?:SHARED|OPTIONAL|OF_SOME_PRESET).*", sources)
    keys = {key for call in calls for key in re.findall(r'"([a-z_]+)"', call)}
    assert len(keys) > 30
    assert [key for key in sorted(keys) if f"`{key}`" not in TEXT and f"{key}:" not in TEXT] == []
