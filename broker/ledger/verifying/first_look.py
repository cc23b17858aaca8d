"""The first look at a ledger, whenever it is opened: whether its end is consistent. It takes no longer as it grows.

That the whole ledger is what it was, the broker finds out while it runs (:mod:`broker.ledger.verifying.examining`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError

from broker.core.errors import BrokerError
from broker.core.merkle import Frontier, leaf_hash, node_count, root_of
from broker.core.soundness import Fault, Unsound
from broker.core.tiles import TILE_WIDTH
from broker.core.tree_head import KnownHead
from broker.ledger import schema, tree
from broker.ledger.databases import statements
from broker.ledger.databases.failures import may_pass
from broker.ledger.sharing.head import Head
from broker.ledger.verifying.outside import contradictions

_CHECKED_LEAVES: Final = 65_536
"""How many of the last leaves are hashed again at most."""

_CHECKED_BODIES: Final = 1_000


def first_verdict(connection: Connection, known: Mapping[str, KnownHead]) -> Unsound | None:
    """Return what is wrong at first sight, with what others know of the ledger by what it is called; or None."""
    if problems := first_look(connection):
        return Unsound(Fault.DAMAGED, tuple(problems))
    behind = tuple(contradictions(connection, known))
    return Unsound(Fault.BEHIND, behind) if behind else None


def first_look(connection: Connection) -> list[str]:
    """Return what is wrong with the end of a ledger, in plain words.

    Raises the store's own error if it may pass by itself.
    """
    try:
        return list(_problems(connection))
    except DBAPIError as error:
        if may_pass(error):
            raise
        return ["the database file itself is damaged"]
    except BrokerError as error:  # the head
        return [error.public]
    except (ValueError, TypeError):
        return ["it holds values that cannot be read"]


def _problems(connection: Connection) -> Iterator[str]:
    yield from statements.of(connection).schema_problems(connection)
    head = Head.read(connection)
    size = head.frontier.size
    last = connection.scalar(select(func.max(schema.entries.c.seq)))
    if (-1 if last is None else last) + 1 != size:
        yield f"the head counts {size} entries, but the last one is number {last}"
    nodes, expected = connection.scalar(select(func.count()).select_from(schema.nodes)), node_count(size)
    if nodes != expected:
        yield f"the tree of {size} entries has {expected} nodes above its leaves, but {nodes} are stored"
    youngest = connection.scalar(select(func.max(schema.rules.c.number))) or 0
    if youngest != head.epoch:
        yield f"the head is at epoch {head.epoch}, but the youngest rule is number {youngest}"
    yield from _wrong_hashes(connection, head.frontier)
    signed = connection.scalar(select(schema.checkpoints.c.root).where(schema.checkpoints.c.size == size))
    if signed not in {None, head.frontier.root()}:
        yield f"the checkpoint of {size} entries has another root than the head"


def _wrong_hashes(connection: Connection, frontier: Frontier) -> Iterator[str]:
    table = schema.entries.c
    query = select(table.seq, table.leaf, table.body).where(table.seq >= frontier.size - _CHECKED_BODIES)
    # The limit tells a database that has no statistics yet not to go through all entries.
    for seq, leaf, body in connection.execute(query.order_by(table.seq).limit(_CHECKED_BODIES)):
        if not isinstance(body, bytes) or leaf_hash(body) != leaf:
            yield f"entry {seq} does not have the hash that was stored with it"
    first = connection.scalar(select(func.min(table.seq))) or 0
    archived = first - first % TILE_WIDTH
    for start, end, node in _last_subtrees(frontier):
        if start < archived:
            root = tree.subtree(connection, frontier.size)(start, end)
            good = root == node and _fits_nodes(connection, archived, end)
        else:
            good = root_of(_leaves(connection, start, end)) == node
        if not good:
            yield f"entries {start} to {end - 1} do not have the hash that the head has for them"


def _fits_nodes(connection: Connection, start: int, end: int) -> bool:
    """Whether whole tiles of entries have the roots that are stored of them; of archived ones there is no more."""
    leaves = _leaves(connection, start, end)
    roots = [root_of(leaves[place : place + TILE_WIDTH]) for place in range(0, end - start, TILE_WIDTH)]
    return roots == statements.of(connection).node_hashes(connection, 1, start // TILE_WIDTH, end // TILE_WIDTH)


def _leaves(connection: Connection, start: int, end: int) -> Sequence[bytes]:
    between = schema.entries.c.seq.between(start, end - 1)
    return connection.scalars(select(schema.entries.c.leaf).where(between).order_by(schema.entries.c.seq)).all()


def _last_subtrees(frontier: Frontier) -> Iterator[tuple[int, int, bytes]]:
    """Yield the perfect subtrees at the right edge, as long as checking them is cheap: first leaf, end, root."""
    end = frontier.size
    for node in reversed(frontier.nodes):
        width = end & -end
        if frontier.size - end + width > _CHECKED_LEAVES:
            return
        yield end - width, end, node
        end -= width
