"""Keep the rules and blocks that are in force in memory in step with what is durable.

Everything here runs on the event loop, because the indexes belong to it; the values come from the writer thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, or_, select

from broker.core.entry import RULES, decode
from broker.core.errors import BrokerError
from broker.core.policy import LONGEST_TTL
from broker.core.rules import Block, Rule
from broker.core.story import rule_of
from broker.ledger import schema
from broker.ledger.rows import read_block, read_rule
from broker.ports import Revocations

_MILLISECONDS: Final = 1000


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


def recorded_rules(connection: Connection, known: Collection[Rule], epoch: int, now: float) -> Iterator[Rule]:
    """Yield the rules that entries of the last day record, and that are not in force: a damaged table lost them.

    They stay in force for as long as this process runs. What cannot be read is left out, and so are numbers beyond the
    ``epoch``: verifiers would never come back from them.
    """
    numbers = {rule.number for rule in known if rule.ends_at is None or rule.ends_at > now}
    table = schema.entries.c
    recent = table.at >= (now - LONGEST_TTL) * _MILLISECONDS
    query = select(table.body).where(table.kind.in_([kind.value for kind in RULES]), recent)
    for body in connection.scalars(query):
        try:
            rule = rule_of(decode(body))
        except (BrokerError, ValueError, TypeError, KeyError):
            continue
        if rule.rank <= epoch and rule.number not in numbers:
            yield rule


def merged(parts: Iterable[Effects]) -> Effects:
    """Return the effects of several transactions, in their order, as one."""
    all_parts = tuple(parts)
    return Effects(
        tuple(rule for part in all_parts for rule in part.rules),
        tuple(block for part in all_parts for block in part.blocks),
        tuple(block_id for part in all_parts for block_id in part.lifted),
        any(part.agents for part in all_parts),
    )
