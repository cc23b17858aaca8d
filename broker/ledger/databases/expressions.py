"""SQL expressions that each database writes in its own way; everything else is the same on all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, TypeVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Float,
    LargeBinary,
    SQLColumnExpression,
    TableValuedAlias,
    Text,
    cast,
    false,
    func,
    literal,
    literal_column,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

T = TypeVar("T")


class _Contains(FunctionElement[bool]):
    """Whether the first value, a text or bytes, contains the second one."""

    type = Boolean()
    inherit_cache = True


class _Member(FunctionElement[str]):
    """The text of a member of a body, by its path with dots; NULL if it is not there."""

    type = Text()
    inherit_cache = True


class _LastItem(FunctionElement[str]):
    """The text of the last item of a list in a body."""

    type = Text()
    inherit_cache = True


class _EachMember(FunctionElement[Any]):
    """A row of ``key`` and ``value``, both texts, for each member of an object in a body."""

    named: ClassVar[tuple[str, ...]] = ("key", "value")
    inherit_cache = True


class _EachItem(FunctionElement[Any]):
    """A row with a ``value``, a text, for each item of a list in a body."""

    named: ClassVar[tuple[str, ...]] = ("value",)
    inherit_cache = True


class _Lesser(FunctionElement[Any]):
    """The lesser of two values, neither of which is NULL."""

    inherit_cache = True


class _Moment(FunctionElement[float]):
    """The time by the clock of the database's host, in Unix seconds."""

    type = Float()
    inherit_cache = True


def has_scope(column: SQLColumnExpression[str | None], scope: str) -> ColumnElement[bool]:
    """Return the condition that a space-separated list contains a scope as a whole."""
    return _Contains(literal(" ").concat(column).concat(literal(" ")), literal(f" {scope} "))


def has_text(column: SQLColumnExpression[str | None], text: str) -> ColumnElement[bool]:
    """Return the condition that a column contains a text; not of one that is NULL."""
    return func.coalesce(_Contains(column, literal(text)), false())


def has_bytes(column: SQLColumnExpression[Any], sequence: bytes) -> ColumnElement[bool]:
    """Return the condition that a column contains a sequence of bytes."""
    return _Contains(column, literal(sequence, LargeBinary))


def member(body: SQLColumnExpression[bytes], path: str) -> ColumnElement[str]:
    """Return the text of a member of an entry's body, such as ``budget.tokens``; NULL if it is not there."""
    return _Member(body, _constant(path))


def number(body: SQLColumnExpression[bytes], path: str) -> ColumnElement[int]:
    """Return a member of an entry's body that is a whole number; NULL if it is not there."""
    return cast(member(body, path), BigInteger)


def last_item(body: SQLColumnExpression[bytes], path: str) -> ColumnElement[str]:
    """Return the text of the last item of a list in an entry's body."""
    return _LastItem(body, _constant(path))


def each_member(body: SQLColumnExpression[bytes], path: str) -> TableValuedAlias:
    """Return the members of an object in an entry's body as rows of ``key`` and ``value``, which are texts."""
    return _EachMember(body, _constant(path)).table_valued(*_EachMember.named, joins_implicitly=True)


def each_item(body: SQLColumnExpression[bytes], path: str) -> TableValuedAlias:
    """Return the items of a list in an entry's body as rows of a ``value``, which is a text."""
    return _EachItem(body, _constant(path)).table_valued(*_EachItem.named, joins_implicitly=True)


def lesser(one: ColumnElement[T], other: ColumnElement[T]) -> ColumnElement[T]:
    """Return the lesser of two values, neither of which is NULL."""
    least: ColumnElement[T] = _Lesser(one, other)
    least.type = one.type
    return least


def total(column: SQLColumnExpression[int]) -> ColumnElement[int]:
    """Return the sum of whole numbers as a whole number."""
    return cast(func.sum(column), BigInteger)


def moment() -> ColumnElement[float]:
    """Return the time by the database's clock, in Unix seconds: as it is, not as it was when the transaction began."""
    return _Moment()


def _constant(path: str) -> ColumnElement[str]:
    """Return a path as part of the statement, so that equal expressions are equal for the database, too."""
    return literal_column(f"'{path}'", Text)


# Not jsonb, which refuses a text that contains the character zero even if it is never looked at.
_JSON: Final = "convert_from({0}, 'UTF8')::json"
_PART: Final = f"({_JSON} #> string_to_array({{1}}, '.'))"

_WRITTEN: Final[Mapping[type[FunctionElement[Any]], tuple[str, str]]] = {
    _Contains: ("(instr({0}, {1}) > 0)", "(position({1} in {0}) > 0)"),
    _Member: ("json_extract(CAST({0} AS TEXT), '$.' || {1})", f"({_JSON} #>> string_to_array({{1}}, '.'))"),
    _LastItem: (
        "json_extract(CAST({0} AS TEXT), '$.' || {1} || '[#-1]')",
        f"({_JSON} #>> (string_to_array({{1}}, '.') || '-1'::text))",
    ),
    _EachMember: (
        "json_each(CAST({0} AS TEXT), '$.' || {1})",
        f"json_each_text(CASE json_typeof({_PART}) WHEN 'object' THEN {_PART} END)",
    ),
    _EachItem: (
        "json_each(CAST({0} AS TEXT), '$.' || {1})",
        f"json_array_elements_text(CASE json_typeof({_PART}) WHEN 'array' THEN {_PART} END)",
    ),
    _Lesser: ("min({0}, {1})", "least({0}, {1})"),
    _Moment: ("((julianday('now') - 2440587.5) * 86400.0)", "extract(epoch FROM clock_timestamp())::float8"),
}
"""How SQLite and PostgreSQL write each of them, with its arguments in the places of the numbers."""


def _writes(text: str) -> Callable[..., str]:
    def write(element: FunctionElement[Any], compiler: Any, **options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's own
        return text.format(*(compiler.process(clause, **options) for clause in element.clauses))

    return write


for _kind, (_sqlite, _postgresql) in _WRITTEN.items():
    compiles(_kind, "sqlite")(_writes(_sqlite))
    compiles(_kind, "postgresql")(_writes(_postgresql))
