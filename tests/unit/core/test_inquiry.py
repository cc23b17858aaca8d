"""What an entry is about, and how times and kinds are asked for."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core.entry import Kind
from broker.core.errors import Malformed
from broker.core.inquiry import EntryFilter, Related, is_about, parse_kinds, parse_moment

NOBODY = Related()


@pytest.mark.parametrize(
    ("members", "wanted"),
    [
        ({"agent": "alpha"}, EntryFilter(agent="alpha")),
        ({"actors": ["beta", "alpha"]}, EntryFilter(agent="alpha")),
        ({"by": "alpha"}, EntryFilter(agent="alpha")),
        ({"on_behalf_of": "alpha"}, EntryFilter(agent="alpha")),
        ({"selector": {"agent": "alpha"}}, EntryFilter(agent="alpha")),
        ({"path": ["task_0", "task_1"]}, EntryFilter(task="task_1")),
        ({"closes": "task_1"}, EntryFilter(task="task_1")),
        ({"parents": ["tok_0", "tok_1"]}, EntryFilter(token="tok_0")),
        ({"token": "tok_0"}, EntryFilter(token="tok_0")),
        ({"asked": {"subject_token": "tok_0"}}, EntryFilter(token="tok_0")),
        ({"selector": {"lease": "lease_1"}}, EntryFilter(lease="lease_1")),
        ({"incident": "INC-1"}, EntryFilter(incident="INC-1")),
    ],
)
def test_what_an_entry_is_about(members: dict[str, Any], wanted: EntryFilter) -> None:
    """An entry is about whatever its members name, in each of the places where they do."""
    assert is_about(members, wanted, NOBODY)
    assert not is_about({}, wanted, NOBODY)


@pytest.mark.parametrize("name", ["purpose", "reason", "result", "target", "labels", "claims"])
def test_texts_from_outside_name_nobody(name: str) -> None:
    """An agent cannot put entries of its own into the answer about another one."""
    for wanted in (EntryFilter(agent="x"), EntryFilter(task="x"), EntryFilter(token="x"), EntryFilter(lease="x")):
        assert not is_about({"agent": "other", name: "x"}, wanted, NOBODY)
        assert not is_about({"agent": "other", name: {"agent": "x", "token": "x"}}, wanted, NOBODY)


def test_what_is_below_counts() -> None:
    """What was done in a task below, or with a token that descends, belongs to the question; all filters must hold."""
    related = Related(tasks=frozenset({"task_2"}), tokens=frozenset({"tok_2"}))
    assert is_about({"task": "task_2"}, EntryFilter(task="task_1"), related)
    assert is_about({"token": "tok_2"}, EntryFilter(token="tok_1"), related)
    assert not is_about({"task": "task_2", "agent": "beta"}, EntryFilter(task="task_1", agent="alpha"), related)


def test_kinds_by_their_beginning() -> None:
    """A dot at the end stands for all kinds that begin so; what is no kind is refused."""
    assert parse_kinds(None) == ()
    assert parse_kinds("token.refused") == ("token.refused",)
    assert set(parse_kinds("lease.,token.issued")) == {k for k in Kind if k.startswith("lease.")} | {"token.issued"}
    for bad in ("", "token", "tokens.", ".", "lease.,", "TOKEN.ISSUED"):
        with pytest.raises(Malformed) as caught:
            parse_kinds(bad)
        assert caught.value.public.startswith("kind: ")


def test_moments() -> None:
    """A time is RFC 3339 with its offset, or a duration before now."""
    assert parse_moment("since", None, 1000) is None
    assert parse_moment("since", "15m", 1000.0) == 100.0
    assert parse_moment("since", "1970-01-01T00:01:00Z", 0) == 60.0
    assert parse_moment("since", "1970-01-01t02:00:00.5+02:00", 0) == 0.5
    for bad in ("", "2h ago", "1970-01-01", "1970-01-01T00:00:00", "1970-13-01T00:00:00Z", "-5m", "9" * 99):
        with pytest.raises(Malformed) as caught:
            parse_moment("since", bad, 0)
        assert caught.value.public.startswith("since: ")


@pytest.mark.parametrize("value", ["", "a\nb", "x" * 513])
def test_values_that_no_entry_can_have(value: str) -> None:
    """They are refused before anything is read."""
    with pytest.raises(Malformed) as caught:
        EntryFilter(agent=value)
    assert caught.value.public.startswith("agent: ")
