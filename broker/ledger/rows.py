"""How the values of the core are stored in rows, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Final

import msgspec
from sqlalchemy import Row

from broker.core.change import Change, RegisteredAgent, StoredKey
from broker.core.merkle import leaf_hash
from broker.core.rules import Block, Rule
from broker.core.selector import Selector, parse_selector
from broker.ledger.schema import ENTRY_COLUMNS

MAX_PAGE: Final = 1000
"""The most rows in one answer, whatever was asked for."""

_columns: Final = attrgetter(*ENTRY_COLUMNS[2:-2])
_encoder: Final = msgspec.json.Encoder(order="sorted")


def page_of(limit: int) -> int:
    """Return how many rows an answer has at most that was asked for so many."""
    return max(0, min(limit, MAX_PAGE))


def entry_row(change: Change, salt: bytes) -> tuple[Any, ...]:
    """Return the row of a change's entry, all but its place: leaf hash, columns, body, what is personal."""
    body, personal = change.entry.committed(salt)
    return (leaf_hash(body), *_columns(change.entry.columns), body, personal)


def rule_row(rule: Rule) -> dict[str, Any]:
    """Return the row of a rule that has its number and its end."""
    return {
        "number": rule.number,
        "id": rule.id,
        "selector": selector_text(rule.selector),
        "at": rule.at,
        "by": rule.by,
        "reason": rule.reason,
        "incident": rule.incident,
        "ends_at": rule.ends_at,
    }


def read_rule(row: Row[Any]) -> Rule:
    """Read a rule from its row."""
    return Rule(
        id=row.id,
        selector=read_selector(row.selector),
        number=row.number,
        at=row.at,
        by=row.by,
        reason=row.reason,
        incident=row.incident,
        ends_at=row.ends_at,
    )


def block_row(block: Block) -> dict[str, Any]:
    """Return the row of a block that is not lifted."""
    return {
        "id": block.id,
        "selector": selector_text(block.selector),
        "rule": block.rule,
        "at": block.at,
        "by": block.by,
        "reason": block.reason,
        "until": block.until,
        "lifted_at": None,
    }


def read_block(row: Row[Any]) -> Block:
    """Read a block from its row."""
    return Block(
        id=row.id,
        selector=read_selector(row.selector),
        rule=row.rule,
        at=row.at,
        by=row.by,
        reason=row.reason,
        until=row.until,
    )


def agent_row(agent: RegisteredAgent) -> dict[str, Any]:
    """Return the row of a registered agent."""
    return {
        "name": agent.name,
        "jwk": _text(agent.jwk),
        "key": agent.key,
        "created_at": agent.created_at,
        "created_by": agent.created_by,
    }


def read_agent(row: Row[Any]) -> RegisteredAgent:
    """Read a registered agent from its row."""
    return RegisteredAgent(row.name, read_object(row.jwk), row.key, row.created_at, row.created_by)


def key_row(key: StoredKey) -> dict[str, Any]:
    """Return the row of a key of the broker's ring."""
    return {
        "kid": key.kid,
        "use": key.use,
        "alg": key.alg,
        "public_jwk": _text(key.public_jwk),
        "sealed": key.sealed,
        "created_at": key.created_at,
        "active_at": key.active_at,
        "retires_at": key.retires_at,
        "revoked": key.revoked,
    }


def read_key(row: Row[Any]) -> StoredKey:
    """Read a key of the broker's ring from its row."""
    return StoredKey(
        kid=row.kid,
        use=row.use,
        alg=row.alg,
        public_jwk=read_object(row.public_jwk),
        sealed=row.sealed,
        created_at=row.created_at,
        active_at=row.active_at,
        retires_at=row.retires_at,
        revoked=row.revoked,
    )


def selector_text(selector: Selector) -> str:
    """Return the stored form of a selector."""
    return _text(selector.to_dict())


def read_selector(text: str) -> Selector:
    """Read a selector from its stored form. Raises ``ValueError`` or ``Malformed`` if it is none."""
    return parse_selector(read_object(text))


def _text(value: Mapping[str, Any]) -> str:
    return _encoder.encode(value).decode()


def read_object(text: str) -> Mapping[str, Any]:
    """Read a stored JSON object. Raises ``ValueError`` if it is none."""
    return msgspec.json.decode(text, type=dict[str, Any])
