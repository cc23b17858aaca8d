"""Details of a type of one's own: what covers what is an order, and nothing that was widened is ever covered."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from broker.core.details import Ceilings, covers, parse_details

TYPES = ("refund", "report")
CEILINGS: Ceilings = {"refund": frozenset({("cents",), ("limits", "rows")}), "report": frozenset()}

Element = dict[str, Any]

texts = st.text(st.characters(categories=["L", "N"]), max_size=4)
numbers = st.integers(-1000, 1000)
scalars = st.one_of(texts, numbers, st.booleans())
lists = st.lists(scalars, max_size=4)
objects = st.fixed_dictionaries({"rows": numbers}, optional={"deep": lists, "flag": st.booleans()})
elements = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES)},
    optional={
        "cents": numbers,
        "ids": lists,
        "limits": objects,
        "mode": scalars,
        "orders": st.lists(objects, max_size=3),
    },
)


def _as_asked(asked: list[Element]) -> tuple[Any, ...]:
    return parse_details(json.dumps(asked))


details = st.lists(elements, min_size=1, max_size=4, unique_by=lambda one: json.dumps(one, sort_keys=True))


@st.composite
def narrowed(draw: st.DrawFn, whole: list[Element]) -> list[Element]:
    """Return a part of some details: fewer elements, shorter lists, lower ceilings."""
    kept = [deepcopy(one) for one in whole if draw(st.booleans())] or [deepcopy(whole[0])]
    for element in kept:
        for holder, name in _lists(element):
            holder[name] = draw(st.lists(st.sampled_from(holder[name]), min_size=1, max_size=4)) if holder[name] else []
        for path in CEILINGS[element["type"]]:
            holder = element if len(path) == 1 else element.get(path[0], {})
            if path[-1] in holder:
                holder[path[-1]] -= draw(st.integers(0, 50))
    return [one for place, one in enumerate(kept) if one not in kept[:place]]


@st.composite
def widened(draw: st.DrawFn, one: Element) -> Element:
    """Return an element that says something more, or something else, than another one."""
    changed = deepcopy(one)
    holders = [changed, *([changed["limits"]] if "limits" in changed else [])]
    holder = draw(st.sampled_from(holders))
    name = draw(st.sampled_from(sorted(holder)))
    value = holder[name]
    how = draw(st.sampled_from(["add a member", "drop a member", "change a value"]))
    if how == "add a member":
        holder["new"] = draw(scalars)
    elif how == "drop a member" and name != "type":
        del holder[name]
    elif isinstance(value, bool):
        holder[name] = draw(st.sampled_from([not value, int(value), str(value)]))
    elif isinstance(value, int):
        holder[name] = value + draw(st.integers(1, 50))
    elif isinstance(value, str):
        holder[name] = value + "x"
    elif isinstance(value, list):
        holder[name] = [*value, "entirely new"]
    else:
        holder[name] = {**value, "new": 1}
    return changed


def _lists(element: Element) -> list[tuple[Element, str]]:
    holders = [element, *([element["limits"]] if "limits" in element else [])]
    return [(holder, name) for holder in holders for name, value in holder.items() if isinstance(value, list)]


@given(details)
def test_everything_covers_itself(whole: list[Element]) -> None:
    """However it is written: the order of members says nothing."""
    turned = [dict(reversed(one.items())) for one in reversed(whole)]
    assert covers(_as_asked(whole), _as_asked(turned))
    assert covers(_as_asked(whole), _as_asked(turned), CEILINGS)


@given(st.data(), details)
def test_a_part_of_a_part_is_covered_by_the_whole(data: st.DataObject, whole: list[Element]) -> None:
    """Narrowing again and again never leads out, and once narrowed there is no way back."""
    part = data.draw(narrowed(whole))
    least = data.draw(narrowed(part))
    assert covers(whole, part, CEILINGS)
    assert covers(part, least, CEILINGS)
    assert covers(whole, least, CEILINGS)
    if covers(least, whole, CEILINGS):
        assert covers(least, part, CEILINGS)


@given(details, details, details)
def test_covering_is_transitive(one: list[Element], two: list[Element], three: list[Element]) -> None:
    """Of any three: no chain of delegates ends with more than its first had."""
    if covers(one, two, CEILINGS) and covers(two, three, CEILINGS):
        assert covers(one, three, CEILINGS)


@given(st.data(), elements)
def test_what_was_widened_is_not_covered(data: st.DataObject, one: Element) -> None:
    """A member more or less, a value that is another or of another kind, a longer list, a number above its ceiling."""
    other = data.draw(widened(one))
    assert not covers([one], [other], CEILINGS)
    assert not covers([one], [one, other], CEILINGS)


@given(st.data(), elements)
def test_without_a_ceiling_a_lower_number_is_another_one(data: st.DataObject, one: Element) -> None:
    """Only the operator knows which numbers are bounds: an account with a lower number is somebody else's."""
    lower = deepcopy(one)
    if "cents" not in one:
        return
    lower["cents"] -= data.draw(st.integers(1, 50))
    assert not covers([one], [lower])
    assert covers([one], [lower], CEILINGS) == (one["type"] == "refund")
