"""Compiling the types of authorization details (RFC 9396): each is a JSON Schema in the policy's own words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry

from broker.core.policy.document import Node
from broker.core.policy.model import DetailType
from broker.core.policy.pattern import PatternError, compile_pattern

BUILT_IN: Final = "agent_task"
"""The type that every audience understands without a schema."""

CEILING: Final = "x-ceiling"
"""The annotation of a whole number that is an upper bound, so that a delegate may have a lower one."""

MAX_SCHEMA: Final = 16_384
_MAX_TYPE: Final = 128
_MAX_POINTER: Final = 128
_NOTHING: Final[Registry[Any]] = Registry()  # resolves nothing: no schema is ever fetched


def compile_details(node: Node) -> dict[str, DetailType]:
    """Compile the ``details`` of an audience; what is wrong is reported on the node."""
    types: dict[str, DetailType] = {}
    for name, entry in node.table():
        found = entry.members(required=("schema",))
        if name == BUILT_IN or not name.isprintable() or not 0 < len(name) <= _MAX_TYPE:
            entry.fail(f"a type has 1 to {_MAX_TYPE} printable characters, and {BUILT_IN} is built in")
        elif "schema" in found and (schema := _schema(found["schema"])) is not None:
            ceilings = frozenset(_ceilings(schema, ()))
            types[name] = DetailType(name=name, mismatch=_mismatch(schema), ceilings=ceilings)
    return types


def _schema(node: Node) -> Mapping[str, Any] | None:
    schema = node.value
    if not isinstance(schema, Mapping) or not schema:
        node.fail("must be a JSON Schema, as a mapping that is not empty")
        return None
    before = len(node.problems)
    if len(json.dumps(schema)) > MAX_SCHEMA:
        node.fail(f"must be at most {MAX_SCHEMA} characters as JSON")
    _check_keywords(node)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        place = "/".join(map(str, error.absolute_path)) or "the schema"
        node.fail(f"is not a JSON Schema (2020-12): {place}: {str(error.validator)[:_MAX_POINTER]}")
    _check_ceilings(node)
    return schema if len(node.problems) == before else None


def _check_keywords(node: Node) -> None:
    """Report references to somewhere else, and patterns that could take long to match."""
    value = node.value
    if isinstance(value, list | tuple):
        for place, item in enumerate(value):
            _check_keywords(node.child(place, item))
    if not isinstance(value, Mapping):
        return
    for name, inner in value.items():
        child = node.child(name, inner)
        if name in {"$ref", "$dynamicRef", "$schema", "$id"} and not (isinstance(inner, str) and inner.startswith("#")):
            child.fail("a schema may refer to its own parts only: #/…")
        elif name == "pattern" and isinstance(inner, str):
            _check_pattern(child, inner)
        elif name == "patternProperties":
            child.fail("is not supported: name the properties")
        else:
            _check_keywords(child)


def _check_ceilings(node: Node) -> None:
    """Report annotations that would be without effect: elsewhere than at a number that only ``properties`` lead to."""
    good, found = set(_ceilings(node.value, ())), list(_annotated(node))
    for child, path in found:
        if child.value is not True or path not in good:
            child.fail("may only be true, at a property of type: integer, in nothing but properties")


def _ceilings(schema: object, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the paths of the numbers that are upper bounds."""
    if not isinstance(schema, Mapping):
        return
    if path and schema.get(CEILING) is True and schema.get("type") == "integer":
        yield path
    properties = schema.get("properties")
    for name, inner in properties.items() if isinstance(properties, Mapping) else ():
        yield from _ceilings(inner, (*path, name))


def _annotated(node: Node, path: tuple[str, ...] | None = ()) -> Iterator[tuple[Node, tuple[str, ...] | None]]:
    """Yield every annotation, with the path of what it stands at; None if that is not reached by properties alone."""
    value = node.value
    if isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _annotated(node.child(place, item), None)
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        child = node.child(name, inner)
        if name == CEILING:
            yield child, path
        elif name == "properties" and isinstance(inner, Mapping):
            for key, schema in inner.items():
                yield from _annotated(child.child(key, schema), None if path is None else (*path, key))
        else:
            yield from _annotated(child, None)


def _check_pattern(node: Node, pattern: str) -> None:
    """JSON Schema looks for a match anywhere, so that a pattern here must say where it starts and ends."""
    if not (pattern.startswith("^") and pattern.endswith("$")):
        node.fail("must start with ^ and end with $: else any text that contains a match would do")
        return
    try:
        compile_pattern(pattern[1:-1])
    except PatternError as error:
        node.fail(str(error))


def _mismatch(schema: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], str | None]:
    validator = Draft202012Validator(schema, registry=_NOTHING)

    def mismatch(element: Mapping[str, Any]) -> str | None:
        error = next(iter(validator.iter_errors(dict(element))), None)
        if error is None:
            return None
        place = "/" + "/".join(map(str, error.absolute_path))
        return f"{place[:_MAX_POINTER]}: does not fit the schema of its type ({str(error.validator)[:_MAX_POINTER]})"

    return mismatch
