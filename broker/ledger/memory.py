"""Keep the rules and blocks that are in force in memory in step with what is durable.

Everything here runs on the event loop, because the indexes belong to it; the values come from the writer thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, or_, select

from broker.core.rules import Block, Rule
from broker.ledger import schema
from broker.ledger.rows import read_block, read_rule
from broker.ports import Revocations


@dataclass(frozen=True, slots=True)
class Effects:
    """What a transaction changed of the state that is also kept in memory."""

    rules: tuple[Rule, ...] = ()
    blocks: tuple[Block, ...] = ()
    lifted: tuple[str, ...] = ()
    agents: bool = False
    """Whether registered agents may have changed."""


def apply(effects: Effects, revocations: Revocations) -> None:
    """Bring the indexes up to date. Rules that are not durable yet stay; one that became so gets its number."""
    for rule in effects.rules:
        revocations.rules.add(rule)
    for block in effects.blocks:
        revocations.blocks.add(block)
    for block_id in effects.lifted:
        revocations.blocks.lift(block_id)


def forget_ended(revocations: Revocations, now: float) -> None:
    """Drop the rules and blocks that have ended (law 11). The epoch stays."""
    revocations.rules.remove(revocations.rules.ended(now))
    revocations.blocks.forget_ended(now)


def load_live(connection: Connection, now: float) -> Effects:
    """Read the rules and blocks in force at ``now``, and the youngest rule even if it has ended: it is the epoch."""
    rules, blocks = schema.rules.c, schema.blocks.c
    youngest = select(rules.number).order_by(rules.number.desc()).limit(1).scalar_subquery()
    live = select(schema.rules).where(or_(rules.ends_at > now, rules.number == youngest)).order_by(rules.number)
    unlifted = blocks.lifted_at.is_(None)
    in_force = select(schema.blocks).where(unlifted, or_(blocks.until.is_(None), blocks.until > now))
    return Effects(
        tuple(read_rule(row) for row in connection.execute(live)),
        tuple(read_block(row) for row in connection.execute(in_force)),
        agents=True,
    )


def merged(parts: Iterable[Effects]) -> Effects:
    """Return the effects of several transactions, in their order, as one."""
    all_parts = tuple(parts)
    return Effects(
        tuple(rule for part in all_parts for rule in part.rules),
        tuple(block for part in all_parts for block in part.blocks),
        tuple(block_id for part in all_parts for block_id in part.lifted),
        any(part.agents for part in all_parts),
    )
