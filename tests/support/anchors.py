"""A log that grows in memory and signs its checkpoints, and an anchor that behaves as it is told to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from broker.anchoring import Anchoring, Means, Pace
from broker.core.errors import AnchorFailed, BrokerError, Code
from broker.core.jwk import parse_jwk
from broker.core.key_schedule import CHECKPOINT
from broker.core.merkle import consistency_proof, leaf_hash, root_of
from broker.ports import Anchor, Ledger, Placed, Placement, Prove, Records, Revocations, SignedHead
from broker.signing.checkpoint import Checkpoint, open_note, sign_checkpoint, verifier_key
from broker.signing.ledger_identity import origin
from tests.support.fakes import FakeClock, MemoryLedger, RecordingEvents
from tests.support.virtual_time import VirtualTime

ORIGIN = "broker.example/audit"


class GrowingLog:
    """A tree that grows (port ``AnchorRecords``), and what was noted beside it."""

    def __init__(self, key: Ed25519PrivateKey | None = None, name: str = "entry") -> None:
        self.key = key or Ed25519PrivateKey.generate()
        self.name = name
        self.leaves: list[bytes] = []
        self.noted: list[Placement] = []
        self.failure: BrokerError | None = None
        self._signed: SignedHead | None = None

    @property
    def vkey(self) -> str:
        return verifier_key(ORIGIN, self.key.public_key())

    def grow(self, entries: int = 1) -> SignedHead:
        """Append entries, and sign the checkpoint."""
        self.leaves += [leaf_hash(f"{self.name} {len(self.leaves) + n}".encode()) for n in range(entries)]
        root = root_of(self.leaves)
        note = sign_checkpoint(Checkpoint(ORIGIN, len(self.leaves), root), ORIGIN, self.key)
        self._signed = SignedHead(len(self.leaves), root, note)
        return self._signed

    def fork(self, shared: int, name: str = "forged") -> GrowingLog:
        """Return another history with the first entries, and the key, of this one."""
        other = GrowingLog(self.key, name)
        other.leaves = self.leaves[:shared]
        return other

    def opened(self, note: str) -> tuple[int, bytes]:
        """Verify a note."""
        checkpoint = open_note(note, self.vkey)
        return checkpoint.size, checkpoint.root

    def signed_checkpoint(self) -> SignedHead | None:
        return self._signed

    async def checkpoint(self) -> str:
        if self._signed is None or self._signed.size != len(self.leaves):
            return self.grow(0).note
        return self._signed.note

    async def consistency(self, old: int, new: int) -> Sequence[bytes]:
        if self.failure is not None:
            raise self.failure
        return consistency_proof(lambda start, end: root_of(self.leaves[start:end]), old, new)

    def prove(self, size: int) -> Prove:
        """Return what proves a tree of this size."""

        async def proof(old: int) -> Sequence[bytes]:
            return await self.consistency(old, size)

        return proof

    async def placements(self) -> Sequence[Placement]:
        return list({placement.anchor: placement for placement in self.noted}.values())

    async def note_placement(self, placement: Placement) -> None:
        if self.failure is not None:
            raise self.failure
        self.noted.append(placement)


async def log_vkey(records: Records, issuer: str) -> str:
    """Return the verifier key of a broker's own ledger."""
    key = parse_jwk(next(row.public_jwk for row in await records.keys() if row.use == CHECKPOINT)).key
    assert isinstance(key, Ed25519PublicKey)
    return verifier_key(origin(issuer), key)


Obstacle = Callable[[], Awaitable[None]]


@dataclass
class KeptAnchor:
    """Keeps notes (port ``Anchor``). ``before`` and ``after`` are what gets in the way of a placement."""

    notes: list[str] = field(default_factory=list)
    remembers: bool = True
    before: Obstacle | None = None
    after: Obstacle | None = None
    attempts: int = 0
    closed: bool = False

    async def place(self, checkpoint: SignedHead, _prove: Prove, /) -> Placed:
        self.attempts += 1
        if self.before is not None:
            await self.before()
        self.notes.append(checkpoint.note)
        if self.after is not None:
            await self.after()
        return Placed(f"note {len(self.notes)}")

    async def latest(self) -> str | None:
        return self.notes[-1] if self.notes and self.remembers else None

    async def close(self) -> None:
        self.closed = True


async def down() -> None:
    """Be unreachable."""
    raise AnchorFailed(Code.ANCHOR_UNAVAILABLE, "nobody is there")


async def hang() -> None:
    """Never answer."""
    await asyncio.Event().wait()


def refuse(code: Code, retry_after: int | None = None) -> Obstacle:
    """Refuse with a code."""

    async def refused() -> None:
        raise AnchorFailed(code, "no", retry_after=retry_after)

    return refused


@dataclass
class RecordingAnchorMeter:
    """Keeps what was measured of anchors."""

    failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    shown: dict[str, dict[str, object]] = field(default_factory=dict)

    def anchor_failed(self, anchor: str, code: str) -> None:
        self.failures[anchor, code] += 1

    def anchor_is(
        self, anchor: str, *, lag_seconds: float, lag_entries: int, placed_at: float | None, alarm: bool
    ) -> None:
        self.shown[anchor] = {"seconds": lag_seconds, "entries": lag_entries, "placed_at": placed_at, "alarm": alarm}


@dataclass
class Harbour:
    """Anchoring over a growing log, on virtual time: what a running broker has, without one."""

    log: GrowingLog = field(default_factory=GrowingLog)
    time: VirtualTime = field(default_factory=lambda: VirtualTime(flows=False))
    ledger: MemoryLedger = field(default_factory=lambda: MemoryLedger(Revocations()))
    meter: RecordingAnchorMeter = field(default_factory=RecordingAnchorMeter)
    events: RecordingEvents = field(default_factory=RecordingEvents)
    clock: FakeClock = field(default_factory=FakeClock)
    leads: bool = True

    def anchoring(self, **anchors: Anchor) -> Anchoring:
        """Return the use case for these anchors, named as they are given, with ten seconds between placements."""
        pace = Pace(kind="file", every_seconds=10.0, alarm_seconds=100.0)
        return Anchoring({name: (anchor, pace) for name, anchor in anchors.items()}, self.means())

    def means(self, ledger: Ledger | None = None) -> Means:
        return Means(
            ledger=ledger or self.ledger,
            records=self.log,
            open_note=self.log.opened,
            clock=self.clock,
            timing=self.time.timing(),
            meter=self.meter,
            events=self.events,
            leads=lambda: self.leads,
        )

    async def pass_time(self, seconds: float, anchoring: Anchoring | None = None) -> None:
        """Let time pass a second at a time, with the periodic look in each."""
        for _ in range(int(seconds)):
            self.time.advance(1)
            self.clock.time += 1
            await settle()
            if anchoring is not None:
                await anchoring.watch()


async def settle() -> None:
    """Let everything that can go on without time go on."""
    for _ in range(12):
        await asyncio.sleep(0)
