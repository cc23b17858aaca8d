"""What workers have in common beside the ledger: rules that are not written, used proofs, metrics."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from broker.core.errors import Unavailable
from broker.core.revoking import Making, making
from broker.core.used_proofs import ProofUse, UsedProofs
from broker.metrics import Metrics
from broker.workers.channel import Channel
from broker.workers.messages import (
    DONE,
    Forget,
    Gather,
    Hear,
    Join,
    Judged,
    Measure,
    Measured,
    Message,
    Reload,
    Settled,
    Tell,
    Unwritten,
    UseProof,
)
from broker.workers.switchboard import Switchboard
from tests.support.broker_app import KeptEvents
from tests.support.fakes import NOW
from tests.support.world import order

OPENING = int(NOW) + 100


def made(name: str) -> Making:
    """Return a rule that is not written."""
    return making(order(), rule_id=name, block_id=f"blk_{name}", now=NOW, origin={"address": "::1"})


@dataclass
class Desk:
    """A worker's end: what it was told, in order."""

    worker: int
    told: list[Message] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)

    async def answer(self, message: Message) -> Message:
        if isinstance(message, Measure):
            return Measured(self.metrics.families())
        self.told.append(message)
        return DONE


@dataclass
class Office:
    """A switchboard and channels to it over real sockets."""

    stack: AsyncExitStack
    board: Switchboard = field(default_factory=lambda: Switchboard(UsedProofs(since=NOW - 10), KeptEvents()))

    async def connect(self, desk: Desk) -> Channel:
        """Return the worker's end of a channel."""
        ends = socket.socketpair()
        for end in ends:
            end.settimeout(0)

        async def answer(message: Message) -> Message:
            return await self.board.answer(desk.worker, ours, message)

        ours = await Channel.over(ends[0], answer)
        theirs = await Channel.over(ends[1], desk.answer)
        for channel in (ours, theirs):
            self.stack.callback(asyncio.ensure_future(channel.serve()).cancel)
        return theirs


async def test_a_rule_is_told_to_all_others_before_the_answer() -> None:
    """And forgotten by them once it is settled; whoever joins in between hears it then."""
    async with AsyncExitStack() as stack:
        office, desks = Office(stack), [Desk(1), Desk(2), Desk(3)]
        first, second, third = [await office.connect(desk) for desk in desks]
        assert await first.call(Join()) == Unwritten((), ())
        assert await second.call(Join()) == Unwritten((), ())
        rule = made("rule_1")
        assert await first.call(Tell(rule)) == DONE
        assert desks[1].told == [Hear((rule,))]
        assert desks[0].told == []
        assert await third.call(Join()) == Unwritten((rule,), ())
        await first.call(Settled("rule_1"))
        await first.call(Settled("rule_1"))
        assert desks[1].told == [Hear((rule,)), Forget("rule_1")]
        assert desks[2].told == [Forget("rule_1")]


async def test_the_rules_of_a_worker_that_died_are_adopted() -> None:
    """By one of those that live; and if nobody does, by the next one that joins."""
    async with AsyncExitStack() as stack:
        office, desks = Office(stack), [Desk(1), Desk(2), Desk(3), Desk(4)]
        first, second, third, fourth = [await office.connect(desk) for desk in desks]
        await first.call(Join())
        await second.call(Join())
        rule = made("rule_1")
        await first.call(Tell(rule))
        office.board.gone(1)
        await second.call(Gather())  # answered after what was said to the worker before
        assert desks[1].told == [Hear((rule,)), Hear((rule,), adopt=True)]
        office.board.gone(2)
        assert await third.call(Join()) == Unwritten((rule,), (rule,))
        assert await fourth.call(Join()) == Unwritten((rule,), ())


async def test_a_worker_that_is_gone_does_not_hold_up_a_rule() -> None:
    """Its channel is closed, and the others hear the rule as ever."""
    async with AsyncExitStack() as stack:
        office, desks = Office(stack), [Desk(1), Desk(2), Desk(3)]
        first, second, third = [await office.connect(desk) for desk in desks]
        for channel in (first, second, third):
            await channel.call(Join())
        second._writer.close()
        assert await asyncio.wait_for(first.call(Tell(made("rule_1"))), 30) == DONE
        assert desks[2].told == [Hear((made("rule_1"),))]


async def test_a_proof_is_used_once_among_all() -> None:
    """Also by a worker that took the place of the one that had seen it."""
    async with AsyncExitStack() as stack:
        office = Office(stack)
        first, second = [await office.connect(Desk(worker)) for worker in (1, 2)]
        use = UseProof("alice", b"proof", OPENING, NOW)
        answers = await asyncio.gather(*(channel.call(use) for channel in (first, second) for _ in range(5)))
        assert answers.count(Judged(ProofUse.FRESH)) == 1
        assert answers.count(Judged(ProofUse.USED)) == 9


async def test_metrics_are_asked_of_those_that_have_joined() -> None:
    """And what a worker said last counts when it has ended."""
    async with AsyncExitStack() as stack:
        office, desks = Office(stack), [Desk(1), Desk(2)]
        first, second = [await office.connect(desk) for desk in desks]
        for desk, channel in zip(desks, (first, second), strict=True):
            await channel.call(Join())
            desk.metrics.refused("no_role")
        for _ in range(2):
            assert refusals(await first.call(Gather())) == 2
            office.board.gone(2)


def refusals(message: Message) -> float:
    """Return how many refusals a view holds."""
    assert isinstance(message, Measured)
    samples = [sample for family in message.families for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == "broker_refusals_total")


async def test_what_a_worker_does_not_ask_is_refused() -> None:
    """The supervisor does not do what it is itself to ask for."""
    async with AsyncExitStack() as stack:
        channel = await Office(stack).connect(Desk(1))
        with pytest.raises(Unavailable):
            await channel.call(Reload(policy=True))
