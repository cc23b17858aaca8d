"""Selectors: what they select, and what they refuse to be."""

from __future__ import annotations

import re

import pytest

from broker.core.errors import Code, Malformed
from broker.core.selector import EVERYTHING, MAX_VALUE, Selector, parse_selector

FACTS = frozenset({("agent", "prod/a"), ("role", "triage"), ("scope", "x:read"), ("scope", "x:write")})


def test_fields_are_anded() -> None:
    """A credential is selected only if it has every fact that is named."""
    assert Selector(agent="prod/a").selects(FACTS)
    assert Selector(agent="prod/a", scope="x:write").selects(FACTS)
    assert not Selector(agent="prod/a", scope="x:delete").selects(FACTS)
    assert not Selector(agent="prod/b", role="triage").selects(FACTS)


def test_values_are_exact() -> None:
    """No prefix, case or pattern matching."""
    for agent in ("prod", "prod/", "prod/*", "Prod/a", "prod/a ", "*"):
        assert not Selector(agent=agent).selects(FACTS)


def test_a_value_counts_for_its_own_field_only() -> None:
    """A role named like an agent is another thing."""
    assert not Selector(role="prod/a").selects(FACTS)


@pytest.mark.parametrize("data", [{}, {"everything": False}])
def test_an_empty_selector_is_refused(data: dict[str, object]) -> None:
    """Law 9: selecting nothing definite is an error, neither all nor none."""
    with pytest.raises(Malformed) as refused:
        parse_selector(data)
    assert refused.value.code is Code.SELECTOR_INVALID


def test_everything_stands_alone() -> None:
    """Beside another field it would be unclear which of the two is meant."""
    assert parse_selector({"everything": True}).facts() == (EVERYTHING,)
    with pytest.raises(Malformed):
        parse_selector({"everything": True, "agent": "a"})
    with pytest.raises(Malformed):
        Selector(everything=True, token="t")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "object"),
        ([], "object"),
        ("agent", "object"),
        ([("agent", "a")], "object"),
        ({"agnet": "a"}, "unknown field 'agnet'"),
        ({"agent": "a", "Agent": "b"}, "unknown field 'Agent'"),
        ({"agent": None}, "text"),
        ({"agent": 1}, "text"),
        ({"agent": ["a"]}, "text"),
        ({"agent": True}, "text"),
        ({"everything": "true"}, "true or false"),
        ({"everything": 1}, "true or false"),
        ({"agent": "a", "everything": None}, "true or false"),
        ({"agent": ""}, "selector.agent"),
        ({"agent": "x" * (MAX_VALUE + 1)}, "selector.agent"),
        ({"agent": "a\nb"}, "selector.agent"),
        ({"agent": "a\x1b[31m"}, "selector.agent"),
        ({"agent": "a\u202eb"}, "selector.agent"),
        ({"agent": "\ud800"}, "selector.agent"),
        ({"task": "t", "scope": "\x00"}, "selector.scope"),
    ],
)
def test_bad_selectors_are_refused_by_name(data: object, says: str) -> None:
    """Each is refused with the field and the reason, in text that is safe to show."""
    with pytest.raises(Malformed, match=re.escape(Code.SELECTOR_INVALID)) as refused:
        parse_selector(data)
    assert says in refused.value.public
    assert refused.value.public.isprintable()


def test_an_unknown_field_is_quoted_safely_and_short() -> None:
    """The name of an unknown field is untrusted: cut, and escaped."""
    with pytest.raises(Malformed) as refused:
        parse_selector({"\x1b[31m" + "x" * 10_000: "a"})
    assert refused.value.public.isprintable()
    assert len(refused.value.public) < 400


def test_the_wire_form_comes_back() -> None:
    """What is printed of a selector is what it was read from, in one order."""
    data = {"token": "t", "task": "k", "role": "r", "issuer": "i"}
    assert parse_selector(dict(reversed(data.items()))).to_dict() == data
    assert list(parse_selector(data).to_dict()) == list(data)
    assert parse_selector({"everything": True}).to_dict() == {"everything": True}


def test_facts_start_with_the_most_selective() -> None:
    """The index looks rules up by the first fact, so that must be the one that the fewest credentials share."""
    assert Selector(issuer="i", tier="t", token="x").facts()[0] == ("token", "x")
    assert Selector(issuer="i", agent="a").facts()[0] == ("agent", "a")
