"""SQL expressions that each database writes in its own way; everything else is the same on all of them."""

from __future__ import annotations

from typing import Any, ClassVar, Final, TypeVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
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

_SQLITE: Final = "sqlite"
_POSTGRESQL: Final = "postgresql"


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


def _constant(path: str) -> ColumnElement[str]:
    """Return a path as part of the statement, so that equal expressions are equal for the database, too."""
    return literal_column(f"'{path}'", Text)


@compiles(_Contains, _SQLITE)
def _sqlite_contains(element: _Contains, compiler: Any, **options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's own
    whole, part = _written(element, compiler, options)
    return f"(instr({whole}, {part}) > 0)"


@compiles(_Contains, _POSTGRESQL)
def _postgresql_contains(element: _Contains, compiler: Any, **options: Any) -> str:  # noqa: ANN401 - as above
    whole, part = _written(element, compiler, options)
    return f"(position({part} in {whole}) > 0)"


@compiles(_Member, _SQLITE)
def _sqlite_member(element: _Member, compiler: Any, **options: Any) -> str:  # noqa: ANN401 - as above
    body, path = _written(element, compiler, options)
    return f"json_extract(CAST({body} AS TEXT), '$.' || {path})"


@compiles(_Member, _POSTGRESQL)
def _postgresql_member(element: _Member, compiler: Any, **options: Any) -> str:  # noqa: ANN401 - as above
    body, path = _written(element, compiler, options)
    return f"({_json(body)} #>> string_to_array({path}, '.'))"


@compiles(_LastItem, _SQLITE)
def _sqlite_last_item(element: _LastItem, compiler: Any, **options: Any) -> str:  # noqa: ANN401 - as above
    body, path = _written(element, compiler, options)
    return f"json_extract(CAST({body} AS TEXT), '$.' || {path} || '[#-1]')"


@compiles(_LastItem, _POSTGRESQL)
def _postgresql_last_item(element: _LastItem, compiler: Any, **options: Any) -> str:  # noqa: ANN401 - as above
    body, path = _written(element, compiler, options)
    return f"({_json(body)} #>> (string_to_array({path}, '.') || '-1'::text))"


@compiles(_EachMember, _SQLITE)
@compiles(_EachItem, _SQLITE)
def _sqlite_each(element: FunctionElement[Any], compiler: Any, **options: Any) -> str:  # noqa: ANN401 - as above
    body, path = _written(element, compiler, options)
    return f"json_each(CAST({body} AS TEXT), '$.' || {path})"


@compiles(_EachMember, _POSTGRESQL)
def _postgresql_each_member(element: _EachMember, compiler: Any, **options: Any) -> str:  # noqa: ANN401 - as above
    return f"json_each_text({_part(element, compiler, options, 'object')})"


@compiles(_EachItem, _POSTGRESQL)
def _postgresql_each_item(element: _EachItem, compiler: Any, **options: Any) -> str:  # noqa: ANN401 - as above
    return f"json_array_elements_text({_part(element, compiler, options, 'array')})"


@compiles(_Lesser, _SQLITE)
def _sqlite_lesser(element: _Lesser, compiler: Any, **options: Any) -> str:  # noqa: ANN401 - as above
    return f"min({', '.join(_written(element, compiler, options))})"


@compiles(_Lesser, _POSTGRESQL)
def _postgresql_lesser(element: _Lesser, compiler: Any, **options: Any) -> str:  # noqa: ANN401 - as above
    return f"least({', '.join(_written(element, compiler, options))})"


def _json(body: str) -> str:
    # Not jsonb, which refuses a text that contains the character zero even if it is never looked at.
    return f"convert_from({body}, 'UTF8')::json"


def _part(element: FunctionElement[Any], compiler: Any, options: dict[str, Any], kind: str) -> str:  # noqa: ANN401 - as above
    """Return a part of a body, as PostgreSQL has it; NULL if it is not there, or something else."""
    body, path = _written(element, compiler, options)
    part = f"({_json(body)} #> string_to_array({path}, '.'))"
    return f"CASE json_typeof({part}) WHEN '{kind}' THEN {part} END"


def _written(element: FunctionElement[Any], compiler: Any, options: dict[str, Any]) -> list[str]:  # noqa: ANN401 - as above
    return [compiler.process(clause, **options) for clause in element.clauses]
