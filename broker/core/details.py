"""Authorization details (RFC 9396): read strictly, judged by what an audience understands and a role allows, compared.

An element of a child must be covered by one of its parent, member by member: what cannot be compared is not covered.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from broker.core.errors import Code, Malformed
from broker.core.grant import Denied
from broker.core.policy.model import Audience, AudienceAllow
from broker.core.strict_json import JSONError, read_json
from broker.core.task import is_action_name
from broker.core.visible import is_visible

AGENT_TASK: Final = "agent_task"
"""The type that every audience understands: which actions of a task, and where."""

MAX_ELEMENTS: Final = 16
MAX_TEXT: Final = 8192
MAX_DEPTH: Final = 8
_MAX_NUMBER: Final = 2**53
_MAX_TYPE: Final = 128

Element = Mapping[str, Any]
Ceilings = Mapping[str, frozenset[tuple[str, ...]]]
"""By type: the members (as paths) whose numbers are upper bounds."""

NO_CEILINGS: Final[Ceilings] = {}


def parse_details(text: str) -> tuple[Element, ...]:
    """Read ``authorization_details``: 1 to 16 different objects, each with a ``type``, 8 KiB in all.

    Values are texts, whole numbers, true, false, lists and objects. Members are sorted, so that equal elements are
    equal texts. Raises ``Malformed`` (``DETAILS_INVALID``).
    """
    if len(text) > MAX_TEXT:
        raise _invalid(f"longer than {MAX_TEXT} characters")
    try:
        elements = read_json(text)
    except JSONError as error:
        raise _invalid(str(error)) from error
    if not isinstance(elements, list) or not 0 < len(elements) <= MAX_ELEMENTS:
        raise _invalid(f"must be a JSON array of 1 to {MAX_ELEMENTS} objects")
    for element in elements:
        if not isinstance(element, dict) or not isinstance(element.get("type"), str):
            raise _invalid("every element must be an object with a type")
        if not 0 < len(element["type"]) <= _MAX_TYPE:
            raise _invalid(f"type: must be 1 to {_MAX_TYPE} characters")
        _check_value(element, 1)
    sorted_elements = tuple(_sorted(element) for element in elements)
    if len({json.dumps(element) for element in sorted_elements}) < len(sorted_elements):
        raise _invalid("an element is given twice")
    return sorted_elements


def check_details(audience: Audience, allowed: AudienceAllow, details: Sequence[Element]) -> Denied | None:
    """Return why these elements may not be asked for at an audience, or None if they may."""
    for element in details:
        name = element["type"]
        if name != AGENT_TASK and name not in audience.details:
            return Denied(Code.DETAILS_NOT_SUPPORTED, "this audience does not know one of these types")
        if name not in allowed.details:
            return Denied(Code.DETAILS_NOT_ALLOWED, f"not allowed to this agent: authorization details of type {name}")
        wrong = _agent_task(element) if name == AGENT_TASK else audience.details[name].mismatch(element)
        if wrong is not None:
            return Denied(Code.DETAILS_INVALID, f"authorization_details: {wrong}")
    return None


def covers(granted: Sequence[Element], asked: Sequence[Element], ceilings: Ceilings = NO_CEILINGS) -> bool:
    """Whether every element that is asked for is covered by one that was granted.

    That is: the same type and the same members; of a list a part that is not empty; of an object each member likewise;
    every other value equal, and of the same kind, but for numbers that ``ceilings`` names, by type and path: those may
    be lower.
    """
    return all(any(_covers_element(whole, part, ceilings) for whole in granted) for part in asked)


def ceilings_at(*audiences: Audience | None) -> Ceilings:
    """Return the numbers that are upper bounds at every one of these audiences: elsewhere a lower one may mean more."""
    known = [{} if audience is None else audience.details for audience in audiences]
    names = set(known[0]).intersection(*known[1:])
    return {name: frozenset.intersection(*(types[name].ceilings for types in known)) for name in names}


def _covers_element(whole: Element, part: Element, ceilings: Ceilings) -> bool:
    return _covers(whole, part, ceilings.get(str(whole.get("type")), frozenset()), ())


def _covers(whole: object, part: object, ceilings: Collection[tuple[str, ...]], path: tuple[str, ...]) -> bool:
    if isinstance(whole, Mapping):
        return (
            isinstance(part, Mapping)
            and whole.keys() == part.keys()
            and all(_covers(whole[name], part[name], ceilings, (*path, name)) for name in whole)
        )
    if path in ceilings and type(whole) is int and type(part) is int:
        return part <= whole
    if isinstance(whole, list | tuple):
        if not isinstance(part, list | tuple) or bool(part) != bool(whole):
            return False
        return all(any(_same(one, other) for other in whole) for one in part)
    return _same(whole, part)


def _same(one: object, other: object) -> bool:
    """Whether two values are equal as JSON: true is not 1."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other


def _agent_task(element: Element) -> str | None:
    """Return what is wrong with an element of the built-in type, or None."""
    unknown = sorted(element.keys() - {"type", "task_id", "actions", "locations"})
    if unknown:
        return "agent_task has a task_id, actions and locations, and nothing else"
    if not isinstance(element.get("task_id", ""), str):
        return "/task_id: must be text"
    actions, locations = element.get("actions", ["a"]), element.get("locations", ["https://a"])
    if not _texts(actions) or not all(map(is_action_name, actions)):
        return "/actions: must be a list of names of actions"
    if not _texts(locations) or not all(map(_is_uri, locations)):
        return "/locations: must be a list of absolute URIs"
    return None


def _texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _is_uri(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme and parts.netloc) and text.isprintable() and " " not in text


def _check_value(value: object, depth: int) -> None:
    """Raise ``Malformed`` for a value that has no meaning here."""
    if depth > MAX_DEPTH:
        raise _invalid(f"nested more than {MAX_DEPTH} deep")
    inner: Iterable[object] = ()
    match value:
        case bool():
            pass
        case str() if not is_visible(value):
            raise _invalid("texts must be printable")
        case int() if abs(value) >= _MAX_NUMBER:
            raise _invalid("a number is too large")
        case str() | int():
            pass
        case dict():
            inner = (*value.keys(), *value.values())
        case list():
            inner = value
        case _:
            raise _invalid("only texts, whole numbers, true, false, arrays and objects have a meaning here")
    for item in inner:
        _check_value(item, depth + 1)


def _sorted(value: Any) -> Any:  # noqa: ANN401 - a JSON value
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _invalid(why: str) -> Malformed:
    return Malformed(f"authorization_details: {why}", Code.DETAILS_INVALID)
