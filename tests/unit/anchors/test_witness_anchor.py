from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from email.utils import formatdate

import pytest
from aiohttp import web

from broker.anchors.witness import MAX_ANSWER, WitnessAnchor
from broker.core.errors import AnchorFailed, Code
from broker.outbound import Destination, Outbound
from broker.signing.checkpoint import VerifierKeyError
from tests.support.anchors import GrowingLog
from tests.support.fakes import NOW, FakeClock
from tests.support.witness import Behaviour, Witness

LOCAL = Destination(allow_http=True, allow_private=True)


@pytest.fixture
def log() -> GrowingLog:
    """A ledger's tree."""
    return GrowingLog()


@pytest.fixture
async def witness(log: GrowingLog) -> AsyncIterator[Witness]:
    """A witness that knows the ledger."""
    async with Witness(log.vkey, clock=lambda: NOW) as running:
        yield running


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    """The client."""
    async with Outbound(total_seconds=5) as client:
        yield client


@pytest.fixture
def anchor(witness: Witness, outbound: Outbound) -> WitnessAnchor:
    """A client of the witness."""
    return another(witness, outbound)


def another(witness: Witness, outbound: Outbound, *, vkey: str = "") -> WitnessAnchor:
    """Return one as a later process has it."""
    return WitnessAnchor(witness.url, vkey or witness.vkey, outbound, LOCAL, clock=FakeClock())


async def put(anchor: WitnessAnchor, log: GrowingLog, entries: int = 1) -> str:
    """Submit one more checkpoint; return the cosignatures."""
    checkpoint = log.grow(entries)
    return (await anchor.place(checkpoint, log.prove(checkpoint.size))).cosignatures


async def refused(anchor: WitnessAnchor, log: GrowingLog) -> AnchorFailed:
    """Return how a submission fails."""
    with pytest.raises(AnchorFailed) as failed:
        await put(anchor, log)
    return failed.value


def always(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    """Answer the same to everything."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=sent)

    return answer


async def test_each_checkpoint_is_cosigned(anchor: WitnessAnchor, witness: Witness, log: GrowingLog) -> None:
    """With the proof from the one before, whatever the sizes are; the lines verify when they are added to the note."""
    for entries in (1, 1, 5, 1, 300, 7):
        lines = await put(anchor, log, entries)
        checkpoint = log.signed_checkpoint()
        assert checkpoint is not None
        assert log.opened(checkpoint.note + lines) == (checkpoint.size, checkpoint.root)
    assert witness.cosigned == [1, 2, 7, 8, 308, 315]
    assert len(witness.asked) == 6


async def test_the_request_is_as_the_specification_has_it(
    anchor: WitnessAnchor, witness: Witness, log: GrowingLog
) -> None:
    """The old size, the proof, an empty line, the note; each line ends."""
    await put(anchor, log, 3)
    await put(anchor, log, 2)
    first, second = witness.asked
    checkpoint = log.signed_checkpoint()
    assert first.startswith("old 0\n\nbroker.example/audit\n3\n")
    assert second.startswith("old 3\n")
    assert checkpoint is not None
    assert second.endswith(f"\n\n{checkpoint.note}")


async def test_a_later_process_asks_where_the_witness_is(
    anchor: WitnessAnchor, witness: Witness, outbound: Outbound, log: GrowingLog
) -> None:
    """It is told by a conflict, and comes again with the proof from there; the same checkpoint again is no harm."""
    await put(anchor, log, 10)
    checkpoint = log.signed_checkpoint()
    assert checkpoint is not None
    later = another(witness, outbound)
    assert (await later.place(checkpoint, log.prove(checkpoint.size))).cosignatures
    await put(later, log, 4)
    assert witness.cosigned == [10, 10, 14]


async def test_a_lost_answer(anchor: WitnessAnchor, witness: Witness, log: GrowingLog) -> None:
    """The witness has it, and nobody knows: the next submission finds out."""
    await put(anchor, log, 2)

    async def after(request: web.Request) -> web.StreamResponse | None:
        witness.before = None
        await witness._add(request)
        return web.Response(status=500)

    witness.before = after
    assert (await refused(anchor, log)).code is Code.ANCHOR_UNAVAILABLE
    await put(anchor, log)
    assert witness.size == 4


@pytest.mark.parametrize("shared", [0, 1, 5, 9])
async def test_another_history(
    anchor: WitnessAnchor, witness: Witness, outbound: Outbound, log: GrowingLog, shared: int
) -> None:
    """A ledger that was rewritten behind what the witness has seen, of whichever size, is found out."""
    await put(anchor, log, 10)
    for size in (4, 10, 11, 25):
        forged = log.fork(min(shared, size - 1))
        failure = await refused(another(witness, outbound), _grown(forged, size))
        assert failure.code is Code.ANCHOR_INCONSISTENT, size
    assert witness.cosigned == [10]


def _grown(log: GrowingLog, size: int) -> GrowingLog:
    log.grow(size - len(log.leaves) - 1)
    return log


async def test_an_older_history(witness: Witness, outbound: Outbound, log: GrowingLog) -> None:
    """A ledger that was put back has fewer entries than the witness has seen, and each attempt asks anew."""
    await put(another(witness, outbound), log, 10)
    older = log.fork(6, log.name)
    anchor = another(witness, outbound)
    for _ in range(2):
        failure = await refused(anchor, older)
        assert failure.code is Code.ANCHOR_INCONSISTENT
        assert "10 entries" in failure.public


async def test_a_witness_that_went_back(anchor: WitnessAnchor, witness: Witness, log: GrowingLog) -> None:
    """It has cosigned more than it knows of now: that is told, once."""
    await put(anchor, log, 10)
    witness.size, witness.root = 0, b""
    assert (await refused(anchor, log)).code is Code.ANCHOR_LOST
    await put(anchor, log)
    assert witness.size == 12


async def test_a_witness_that_does_not_know_us(anchor: WitnessAnchor, witness: Witness, log: GrowingLog) -> None:
    """Neither the ledger, nor its key: somebody must change something there."""
    witness.known = False
    unknown = await refused(anchor, log)
    witness.known, witness.log_vkey = True, GrowingLog().vkey
    forbidden = await refused(anchor, log)
    assert {unknown.code, forbidden.code} == {Code.ANCHOR_REFUSED}
    assert unknown.public != forbidden.public


async def test_a_key_that_is_not_the_witnesss(
    witness: Witness, outbound: Outbound, log: GrowingLog, anchor: WitnessAnchor
) -> None:
    """Its cosignatures are not taken, and it is not taken for somebody else."""
    assert (await refused(another(witness, outbound, vkey=Witness("").vkey), log)).code is Code.ANCHOR_REFUSED
    with pytest.raises(VerifierKeyError):
        another(witness, outbound, vkey=log.vkey)


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        (always(200), Code.ANCHOR_REFUSED),
        (always(200, b"\xff\xfe\n"), Code.ANCHOR_REFUSED),
        (always(200, "— witness.example/w1 AAAAAAAA\n".encode()), Code.ANCHOR_REFUSED),
        (always(200, b" " * (MAX_ANSWER + 1)), Code.ANCHOR_UNAVAILABLE),
        (always(302, Location="http://127.0.0.1:1/"), Code.ANCHOR_UNAVAILABLE),
        (always(400), Code.ANCHOR_REFUSED),
        (always(409), Code.ANCHOR_REFUSED),
        (always(409, b"0\n", Content_Type="text/x.tlog.size"), Code.ANCHOR_REFUSED),
        (always(409, b"-1\n", Content_Type="text/x.tlog.size"), Code.ANCHOR_REFUSED),
        (always(409, b"007\n", Content_Type="text/x.tlog.size"), Code.ANCHOR_REFUSED),
        (always(409, b"9" * 5000 + b"\n", Content_Type="text/x.tlog.size"), Code.ANCHOR_REFUSED),
        (always(409, b"999\n", Content_Type="text/x.tlog.size"), Code.ANCHOR_INCONSISTENT),
        (always(422), Code.ANCHOR_INCONSISTENT),
        (always(429), Code.ANCHOR_UNAVAILABLE),
        (always(500), Code.ANCHOR_UNAVAILABLE),
        (always(204), Code.ANCHOR_REFUSED),
    ],
)
async def test_hostile_answers(
    anchor: WitnessAnchor, witness: Witness, log: GrowingLog, behaviour: Behaviour, code: Code
) -> None:
    """Each is a failure with its meaning, and once the witness behaves, all is well again."""
    log.grow(5)
    witness.before = behaviour
    assert (await refused(anchor, log)).code is code
    witness.before = None
    assert await put(anchor, log)


async def test_a_witness_that_leads_in_circles(anchor: WitnessAnchor, witness: Witness, log: GrowingLog) -> None:
    """It names another size each time: the attempt ends."""
    log.grow(9)
    sizes = iter(range(1, 9))

    async def circle(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=409, body=f"{next(sizes)}\n".encode(), content_type="text/x.tlog.size")

    witness.before = circle
    assert (await refused(anchor, log)).code is Code.ANCHOR_REFUSED
    assert len(witness.asked) == 3


async def test_it_is_told_when_to_come_back(anchor: WitnessAnchor, witness: Witness, log: GrowingLog) -> None:
    """In seconds, or as a date; what is neither says nothing."""
    for header, seconds in (("120", 120), (formatdate(NOW + 60, usegmt=True), 59), ("soon", None)):
        witness.before = always(503, Retry_After=header)
        assert (await refused(anchor, log)).retry_after == seconds


async def test_a_cosignature_from_the_future(anchor: WitnessAnchor, witness: Witness, log: GrowingLog) -> None:
    """A few minutes are the difference of clocks; more is not."""
    witness.clock = lambda: NOW + 3600
    assert (await refused(anchor, log)).code is Code.ANCHOR_REFUSED
    witness.clock = lambda: NOW + 60
    assert await put(anchor, log)


async def test_a_witness_that_hangs(witness: Witness, log: GrowingLog) -> None:
    """It is not waited for, and being cancelled meanwhile is no harm."""

    async def hanging(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    witness.before = hanging
    async with Outbound(total_seconds=0.2) as hasty:
        anchor = another(witness, hasty)
        assert (await refused(anchor, log)).code is Code.ANCHOR_UNAVAILABLE
        waiting = asyncio.ensure_future(put(anchor, log))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    witness.before = None
    async with Outbound() as patient:
        assert await put(another(witness, patient), log)


async def test_nobody_there(witness: Witness, outbound: Outbound, log: GrowingLog) -> None:
    """A port that nobody listens on."""
    witness.url = "http://127.0.0.1:1"
    assert (await refused(another(witness, outbound), log)).code is Code.ANCHOR_UNAVAILABLE


async def test_it_does_not_say_what_it_holds(anchor: WitnessAnchor) -> None:
    """The protocol has no way to ask, and so nobody takes silence for loss."""
    await anchor.latest()
    assert not anchor.remembers
    await anchor.close()
