"""Selectors: which credentials a revocation or a block covers, and the facts of a credential they are matched with.

A selector's fields are ANDed. A credential is described by its *facts*: a set of ``(field, value)`` pairs taken from
its own claims. A selector selects a credential iff every one of its pairs is among the facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Final

from broker.core.errors import Code, Malformed

Fact = tuple[str, str]
"""One ``(field, value)`` pair that a credential has, such as ``("role", "support-triage")``."""

EVERYTHING: Final[Fact] = ("everything", "*")
"""The fact that every credential has."""

MAX_VALUE: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Names a set of credentials. At least one field is set; ``everything`` stands alone.

    Fields are listed from the most to the least selective; :meth:`facts` keeps that order.

    * ``token``: a token id (``jti``); also selects every token that descends from it.
    * ``lease``: a lease id.
    * ``task``: a task id, with its whole subtree.
    * ``key``: the RFC 7638 thumbprint of a key: the broker's signing key, or the key a token is bound to.
    * ``agent``: an agent id, anywhere in the delegation chain.
    * ``secret``, ``backend``: what a lease was taken from.
    * ``role``, ``scope``, ``audience``, ``tier``, ``issuer``: as granted by the policy.
    """

    token: str | None = None
    lease: str | None = None
    task: str | None = None
    key: str | None = None
    agent: str | None = None
    secret: str | None = None
    backend: str | None = None
    role: str | None = None
    scope: str | None = None
    audience: str | None = None
    tier: str | None = None
    issuer: str | None = None
    everything: bool = False

    def __post_init__(self) -> None:
        """Refuse a selector that selects nothing definite (law 9)."""
        named = [(name, value) for name, value in _pairs(self) if value is not None]
        if self.everything == bool(named):
            msg = "selector: name at least one field, or everything alone"
            raise Malformed(msg, Code.SELECTOR_INVALID)
        for name, value in named:
            if not 0 < len(value) <= MAX_VALUE or not value.isprintable():
                msg = f"selector.{name}: must be printable text of 1 to {MAX_VALUE} characters"
                raise Malformed(msg, Code.SELECTOR_INVALID)

    def facts(self) -> tuple[Fact, ...]:
        """Return the facts that a credential must all have, the most selective first."""
        if self.everything:
            return (EVERYTHING,)
        return tuple((name, value) for name, value in _pairs(self) if value is not None)

    def selects(self, facts: frozenset[Fact]) -> bool:
        """Whether a credential with these facts is covered."""
        return self.everything or facts.issuperset(self.facts())

    def to_dict(self) -> dict[str, str | bool]:
        """Return the wire form: only the fields that are set."""
        return {"everything": True} if self.everything else dict(self.facts())


def facts_text(facts: Iterable[Fact]) -> str | None:
    """Return facts as one text: sorted lines ``field=value``, each between line feeds; None if there are none.

    No value has a line feed in it, so that a fact is among them iff :func:`fact_line` of it is part of the text.
    """
    lines = sorted({f"{name}={value}" for name, value in facts})
    return "\n" + "\n".join(lines) + "\n" if lines else None


def read_facts(text: str) -> frozenset[Fact]:
    """Return the facts that :func:`facts_text` made a text of."""
    pairs = (line.partition("=") for line in text.split("\n") if line)
    return frozenset((name, value) for name, _, value in pairs)


def fact_line(fact: Fact) -> str:
    """Return one fact as it stands in :func:`facts_text`."""
    return f"\n{fact[0]}={fact[1]}\n"


_FIELDS: Final = tuple(f.name for f in fields(Selector) if f.name != "everything")


def _pairs(selector: Selector) -> Iterable[tuple[str, str | None]]:
    return ((name, getattr(selector, name)) for name in _FIELDS)


def parse_selector(data: object) -> Selector:
    """Read a selector from its wire form. Raises :class:`Malformed` on unknown or ill-typed fields."""
    if not isinstance(data, Mapping):
        msg = "selector: must be an object"
        raise Malformed(msg, Code.SELECTOR_INVALID)
    unknown = sorted(str(name) for name in data if name not in _FIELDS and name != "everything")
    if unknown:
        msg = f"selector: unknown field {unknown[0][:64]!r}; known: {', '.join(_FIELDS)}, everything"
        raise Malformed(msg, Code.SELECTOR_INVALID)
    if not isinstance(data.get("everything", False), bool):
        msg = "selector.everything: must be true or false"
        raise Malformed(msg, Code.SELECTOR_INVALID)
    if any(not isinstance(value, str) for name, value in data.items() if name != "everything"):
        msg = "selector: every field but everything must be text"
        raise Malformed(msg, Code.SELECTOR_INVALID)
    return Selector(**data)
