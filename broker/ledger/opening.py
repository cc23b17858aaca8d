"""Open a ledger: what must be true of the stored state before a broker builds on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from broker.core.errors import BrokerError, Code, Unavailable
from broker.core.merkle import Frontier, leaf_hash, node_count, root_of
from broker.ledger import schema
from broker.ledger.batch import Head
from broker.ledger.failures import unavailable
from broker.ledger.high_water import HighWater
from broker.ledger.memory import Effects, load_live
from broker.ledger.migrate import create_schema, ledger_id, migrate
from broker.ledger.sqlite import schema_problems, writer_engine

_CHECKED_LEAVES: Final = 65_536
"""How many of the last leaves are hashed again at start; verifying the whole ledger is a command of its own."""

_CHECKED_BODIES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Opened:
    """The state of a ledger at start. ``high_water`` says whether it was further once."""

    ledger: str
    head: Head
    effects: Effects
    high_water: HighWater


def create_ledger(path: Path, now: float) -> str:
    """Make a new, empty ledger that only this user can read; return its id.

    Raises :class:`Unavailable` if there is a file already, or if it cannot be written.
    """
    try:
        # Exclusively, so that no existing file is ever overwritten or given a schema.
        path.touch(mode=0o600, exist_ok=False)
    except FileExistsError as error:
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"there is a file at {path} already") from error
    except OSError as error:
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"no ledger can be made at {path}: {error.strerror}") from error
    engine = writer_engine(path)
    try:
        return create_schema(engine, now)
    except DBAPIError as error:
        raise unavailable(error) from error
    finally:
        engine.dispose()


def open_ledger(engine: Engine, path: Path, now: float) -> Opened:
    """Migrate the ledger, check that its end is consistent, and load what is in force at ``now``.

    Raises :class:`Unavailable`: ``LEDGER_UNAVAILABLE`` if it cannot be used, ``LEDGER_CORRUPT`` if it must not be.
    """
    if not path.is_file():
        raise Unavailable(Code.LEDGER_UNAVAILABLE, f"there is no ledger at {path}; broker init makes one")
    if path.stat().st_size == 0:
        # SQLite would take an empty file for a new database.
        raise _corrupt("its file is empty")
    try:
        migrate(engine)
        with engine.begin() as connection:
            head = Head.read(connection)
            _check_end(connection, head)
            high_water = HighWater(path)
            high_water.look(connection, head.frontier.size)
            return Opened(ledger_id(connection), head, load_live(connection, now), high_water)
    except Unavailable:
        raise
    except DBAPIError as error:
        raise unavailable(error) from error
    except (BrokerError, SQLAlchemyError, ValueError, TypeError) as error:
        raise _corrupt("it holds values that cannot be read") from error


def _check_end(connection: Connection, head: Head) -> None:
    if problems := schema_problems(connection):
        raise _corrupt(problems[0])
    size = head.frontier.size
    last = connection.scalar(select(func.max(schema.entries.c.seq)))
    if (-1 if last is None else last) + 1 != size:
        raise _corrupt(f"the head counts {size} entries, but the last one is number {last}")
    nodes, expected = connection.scalar(select(func.count()).select_from(schema.nodes)), node_count(size)
    if nodes != expected:
        raise _corrupt(f"the tree of {size} entries has {expected} nodes above its leaves, but {nodes} are stored")
    youngest = connection.scalar(select(func.max(schema.rules.c.number))) or 0
    if youngest != head.epoch:
        raise _corrupt(f"the head is at epoch {head.epoch}, but the youngest rule is number {youngest}")
    query = select(schema.entries.c.seq, schema.entries.c.leaf, schema.entries.c.body)
    for seq, leaf, body in connection.execute(query.where(schema.entries.c.seq >= size - _CHECKED_BODIES)):
        if leaf_hash(body) != leaf:
            raise _corrupt(f"entry {seq} does not have the hash that was stored with it")
    for start, end, node in _last_subtrees(head.frontier):
        between = schema.entries.c.seq.between(start, end - 1)
        leaves = connection.scalars(select(schema.entries.c.leaf).where(between).order_by(schema.entries.c.seq))
        if root_of(leaves) != node:
            raise _corrupt(f"entries {start} to {end - 1} do not have the hash that the head has for them")


def _last_subtrees(frontier: Frontier) -> Iterator[tuple[int, int, bytes]]:
    """Yield the perfect subtrees at the right edge, as long as checking them is cheap: first leaf, end, root."""
    end = frontier.size
    for node in reversed(frontier.nodes):
        width = end & -end
        if frontier.size - end + width > _CHECKED_LEAVES:
            return
        yield end - width, end, node
        end -= width


def _corrupt(what: str) -> Unavailable:
    return Unavailable(Code.LEDGER_CORRUPT, f"the ledger is damaged: {what}")
