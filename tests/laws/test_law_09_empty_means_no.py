"""Law 9: empty means no, unknown means error: wherever something is read."""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import broker.http
from broker.config import ConfigError, load_config
from broker.core.errors import BrokerError
from broker.core.policy import PolicyError
from broker.core.scope import covers, parse_scopes
from broker.core.selector import Selector, parse_selector
from tests.support.world import DOCUMENT, PAYMENTS, TICKETS, policy


def emptied(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return the policy with something emptied or added."""
    document = copy.deepcopy(DOCUMENT)
    change(document)
    return document


@pytest.mark.parametrize(
    "change",
    [
        lambda policy: policy.update(roles={}),
        lambda policy: policy.update(roles=None),
        lambda policy: policy.update(tiers={}),
        lambda policy: policy.update(audiences={}),
        lambda policy: policy.update(issuers={}),
        lambda policy: policy.update(secrets={}),
        lambda policy: policy["audiences"][TICKETS].update(scopes={}),
        lambda policy: policy["audiences"][TICKETS].update(served_by=[]),
        lambda policy: policy["roles"]["triage"].update(members=[]),
        lambda policy: policy["roles"]["triage"].update(members=[{}]),
        lambda policy: policy["roles"]["triage"].update(allow=[]),
        lambda policy: policy["roles"]["triage"].update(allow=[{}]),
        lambda policy: policy["roles"]["triage"]["allow"][0].update(scopes=[]),
        lambda policy: policy["roles"]["triage"]["allow"][0].update(scopes=[""]),
        lambda policy: policy["roles"]["triage"]["allow"][0].update(audience=""),
        lambda policy: policy["roles"]["triage"].update(limits={}),
        lambda policy: policy.update(rolls={}),
        lambda policy: policy["roles"]["triage"].update(member=[{"agent": "x"}]),
        lambda policy: policy["audiences"][PAYMENTS].update(serverd_by=[{"agent": "x"}]),
        lambda policy: policy["tiers"]["read"].update(proof="required"),
    ],
)
def test_a_policy_with_something_empty_or_unknown_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    """It is refused when it is loaded, not found to mean everything later."""
    with pytest.raises(PolicyError):
        policy(emptied(change))


def test_the_policy_that_was_changed_is_good_itself() -> None:
    """So each refusal above is for what was changed."""
    assert policy(emptied(lambda _: None)) is not None


@pytest.mark.parametrize("data", [{}, {"everything": False}, {"agent": ""}, {"agnet": "a"}])
def test_a_selector_of_nothing_is_refused(data: dict[str, Any]) -> None:
    """It selects neither all nor none."""
    with pytest.raises(BrokerError):
        parse_selector(data)


def test_a_selector_of_something_does_not_select_nothing() -> None:
    """A credential without facts is covered by the rule for everything only."""
    assert not Selector(agent="a").selects(frozenset())


@pytest.mark.parametrize("text", ["", " ", "a  b", " a"])
def test_scopes_that_are_empty_are_refused(text: str) -> None:
    """An empty list is no wish for everything."""
    with pytest.raises(BrokerError):
        parse_scopes(text)


def test_nothing_covers_an_empty_wish() -> None:
    """Asking for nothing is not granted by having anything."""
    assert not covers(["a"], [])
    assert not covers([], [])


@pytest.mark.parametrize(
    "text",
    [
        "",
        'issuer = ""\n',
        'issuer = "https://b.example"\nisuer = "x"\n',
        'issuer = "https://b.example"\n[listen]\nx = 1\n',
    ],
)
def test_settings_that_are_empty_or_unknown_are_refused(tmp_path: Path, text: str) -> None:
    """A key that is misspelt does not silently keep its default."""
    file = tmp_path / "broker.toml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_config(file, {})


def test_every_request_body_refuses_unknown_fields() -> None:
    """Each type that a body is read into says so."""
    modules = [
        importlib.import_module(f"broker.http.{module.name}") for module in pkgutil.iter_modules(broker.http.__path__)
    ]
    bodies = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__ == module.__name__
    }
    assert len(bodies) > 3
    assert [body.__name__ for body in bodies if not body.__struct_config__.forbid_unknown_fields] == []
