"""Keep the rules and blocks that are in force in memory in step with what is durable.

Everything here runs on the event loop, because the indexes belong to it; the values come from the writer thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, or_, select

from broker.core.change import StoredKey
from broker.core.entry import RULES, decode
from broker.core.errors import BrokerError
from broker.core.policy import LONGEST_TTL
from broker.core.rules import Block, Rule
from broker.core.story import rule_of
from broker.ledger import schema
from broker.ledger.rows import read_block, read_key, read_rule
from broker.ports import Revocations

_MILLISECONDS: Final = 1000


@dataclass(frozen=True, slots=True)
class Effects:
    """What transactions changed of the state that is also kept in memory; ``size`` is that of the ledger after them."""

    size: int
    rules: tuple[Rule, ...] = ()
    blocks: tuple[Block, ...] = ()
    are_all_blocks: bool = False
    """Whether ``blocks`` are all in force: any other one that was durable is not any more."""
    lifted: tuple[str, ...] = ()
    agents: bool = False
    """Whether registered agents may have changed."""
    keys: tuple[StoredKey, ...] | None = None
    """All keys of the ring, if any may have changed."""
    policy: str | None = None
    """The digest of the policy that another process recorded."""


def apply(effects: Effects, revocations: Revocations) -> None:
    """Bring the indexes up to date. Rules that are not durable yet stay; one that became so gets its number."""
    for rule in effects.rules:
        revocations.rules.add(rule)
    if effects.are_all_blocks:
        revocations.blocks.keep({block.id for block in effects.blocks})
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
    rules = schema.rules.c
    youngest = select(rules.number).order_by(rules.number.desc()).limit(1).scalar_subquery()
    live = select(schema.rules).where(or_(rules.ends_at > now, rules.number == youngest)).order_by(rules.number)
    size = connection.scalar(select(schema.head.c.size))
    return Effects(
        size if isinstance(size, int) else 0,  # a damaged head is told of elsewhere
        rules=tuple(read_rule(row) for row in connection.execute(live)),
        blocks=blocks_in_force(connection, now),
        agents=True,
        keys=tuple(read_key(row) for row in connection.execute(select(schema.keys))),
    )


def blocks_in_force(connection: Connection, now: float) -> tuple[Block, ...]:
    """Read the blocks in force at ``now``."""
    blocks = schema.blocks.c
    unlifted = blocks.lifted_at.is_(None)
    in_force = select(schema.blocks).where(unlifted, or_(blocks.until.is_(None), blocks.until > now))
    return tuple(read_block(row) for row in connection.execute(in_force))


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
