"""Calls in both directions between a supervisor and a worker."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker.core.errors import Code, Unavailable
from broker.workers.channel import MAX_FRAME, Answer, Channel
from broker.workers.messages import DONE, Forget, Message, Settled


@asynccontextmanager
async def joined(one: Answer, other: Answer) -> AsyncIterator[tuple[Channel, Channel]]:
    """Return both ends of a channel that answer like this."""
    ends = socket.socketpair()
    for end in ends:
        end.settimeout(0)
    channels = [await Channel.over(end, answer) for end, answer in zip(ends, (one, other), strict=True)]
    talking = [asyncio.ensure_future(channel.serve()) for channel in channels]
    yield channels[0], channels[1]
    for task in talking:
        task.cancel()
    await asyncio.gather(*talking, return_exceptions=True)


async def echo(message: Message) -> Message:
    """Answer with what was said."""
    return message


async def test_many_calls_at_once_in_both_directions() -> None:
    """Each gets its own answer."""
    async with joined(echo, echo) as (one, other):
        said: list[Message] = [Settled(f"rule_{number}") for number in range(200)]
        heard = await asyncio.gather(*(channel.call(each) for each in said for channel in (one, other)))
    assert heard == [each for each in said for _ in range(2)]


async def test_a_call_that_takes_long_holds_up_no_other() -> None:
    """What was asked later may be answered sooner."""
    gate = asyncio.Event()

    async def answer(message: Message) -> Message:
        if isinstance(message, Forget):
            await gate.wait()
        return DONE

    async with joined(answer, echo) as (_, other):
        slow = asyncio.ensure_future(other.call(Forget("a")))
        assert await other.call(Settled("b")) == DONE
        assert not slow.done()
        gate.set()
        assert await slow == DONE


async def test_what_cannot_be_done_fails_at_the_caller() -> None:
    """And the channel goes on."""

    async def answer(message: Message) -> Message:
        if isinstance(message, Forget):
            raise Unavailable(Code.LEDGER_UNAVAILABLE, "the disk is full")
        return DONE

    async with joined(answer, echo) as (_, other):
        with pytest.raises(Unavailable) as failed:
            await other.call(Forget("a"))
        assert failed.value.code is Code.INTERNAL
        assert await other.call(Settled("b")) == DONE


async def test_a_side_that_is_gone_leaves_nobody_waiting() -> None:
    """Calls that wait fail, and so do later ones, at once."""
    never = asyncio.Event()

    async def answer(_message: Message) -> Message:
        await never.wait()
        return DONE

    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    channel = await Channel.over(ours, answer)
    talking = asyncio.ensure_future(channel.serve())
    waiting = asyncio.ensure_future(channel.call(Settled("a")))
    await asyncio.sleep(0)
    theirs.close()
    await asyncio.wait_for(talking, 30)
    for call in (waiting, channel.call(Settled("b"))):
        with pytest.raises(Unavailable) as gone:
            await call
        assert gone.value.code is Code.STOPPING


@pytest.mark.parametrize(
    "nonsense", [(MAX_FRAME + 1).to_bytes(4, "big"), (3).to_bytes(4, "big") + b"\xc1\xc1\xc1", b"\0\0"]
)
async def test_nonsense_ends_the_channel(nonsense: bytes) -> None:
    """Frames that are too long, not frames, or cut off."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    channel = await Channel.over(ours, echo)
    talking = asyncio.ensure_future(channel.serve())
    theirs.sendall(nonsense)
    theirs.shutdown(socket.SHUT_WR)
    await asyncio.wait_for(talking, 30)
    theirs.close()
