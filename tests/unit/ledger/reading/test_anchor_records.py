"""What is kept of placements: the last ones of each anchor, beside the checkpoints that they are of."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.ledger.reading.anchor_records import KEPT
from broker.ports import Place, Placed, Placement
from broker.signing.checkpoint import Checkpoint, open_note, sign_checkpoint, verifier_key
from tests.support.anchors import ORIGIN
from tests.support.ledgers import NOW, Bench, noted, opened

KEY = Ed25519PrivateKey.generate()


def sign(size: int, root: bytes) -> str:
    """Sign checkpoints of a test's ledger."""
    return sign_checkpoint(Checkpoint(ORIGIN, size, root), ORIGIN, KEY)


def placement(anchor: str, size: int, cosignatures: str = "") -> Placement:
    """Return a placement."""
    return Placement(anchor=anchor, size=size, root=bytes(32), at=NOW, placed=Placed(f"at {size}", cosignatures))


async def grow(bench: Bench) -> int:
    """Add an entry and sign a checkpoint; return its size."""
    await bench.ledger.commit(noted())
    await bench.ledger.checkpoint()
    return bench.ledger.size


async def test_the_youngest_of_each_anchor_outlives_the_process(place: Place) -> None:
    """As it was noted; anchors know nothing of each other."""
    path = place
    async with opened(path) as bench:
        assert await bench.ledger.placements() == []
        for size in (1, 5, 9):
            await bench.ledger.note_placement(placement("offsite", size))
        await bench.ledger.note_placement(placement("w1", 3, "— w1 AAAA\n"))
    async with opened(path) as bench:
        assert await bench.ledger.placements() == [placement("offsite", 9), placement("w1", 3, "— w1 AAAA\n")]
        await bench.verified()


async def test_what_is_kept_is_bounded(place: Place) -> None:
    """Law 11: of each anchor the last ones, however many there were."""
    async with opened(place) as bench:
        for size in range(1, KEPT + 20):
            await bench.ledger.note_placement(placement("offsite", size))
        await bench.ledger.note_placement(placement("other", 1))
        kept = await bench.ledger._reader.read(
            lambda connection: connection.exec_driver_sql(
                "SELECT anchor, min(size), count(*) FROM anchorings GROUP BY 1"
            ).all()
        )
        assert [tuple(row) for row in kept] == [("offsite", 20, KEPT), ("other", 1, 1)]


async def test_a_smaller_tree_replaces_larger_ones(place: Place) -> None:
    """An anchor that has lost something is remembered with what it has, and placing twice leaves one."""
    async with opened(place) as bench:
        for size in (5, 9, 7, 7):
            await bench.ledger.note_placement(placement("offsite", size))
        assert await bench.ledger.placements() == [placement("offsite", 7)]


async def test_the_newest_signed_checkpoint_is_known_without_asking(place: Place) -> None:
    """None before there is any; after a restart, once it was signed again."""
    path = place
    async with opened(path, sign=sign) as bench:
        assert bench.ledger.signed_checkpoint() is None
        size = await grow(bench)
        signed = bench.ledger.signed_checkpoint()
        head = await bench.ledger.head()
        assert signed is not None
        assert (signed.size, signed.root) == (size, head.root)
        assert open_note(signed.note, verifier_key(ORIGIN, KEY.public_key())).size == size


async def test_the_newest_cosigned_checkpoint(place: Place) -> None:
    """With the lines of every witness that has cosigned that very size, and none of another."""
    async with opened(place, sign=sign) as bench:
        assert await bench.ledger.cosigned() is None
        notes = {}
        for _ in range(3):
            size = await grow(bench)
            notes[size] = await bench.ledger.checkpoint()
        await bench.ledger.note_placement(placement("w1", 1, "— w1 AAAA\n"))
        await bench.ledger.note_placement(placement("w1", 2, "— w1 BBBB\n"))
        await bench.ledger.note_placement(placement("w2", 2, "— w2 CCCC\n"))
        await bench.ledger.note_placement(placement("file", 3))
        assert await bench.ledger.cosigned() == notes[2] + "— w1 BBBB\n— w2 CCCC\n"
