"""A replica and a verifier that hear nothing any more: when they refuse, and whom a revocation's receipt names."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.chaos.clients import Brokers, Place
from tests.chaos.crew import Hand
from tests.chaos.journal import Journal, Tail
from tests.chaos.replicas import Replicas
from tests.chaos.revoking import SCOPE
from tests.chaos.verifying import verify
from tests.support.road import Road
from tests.support.running_broker import TICKETS

CLIENT: Final = "client-1"
PLACES: Final = ("replica-1", "replica-2", "verifier-1", "verifier-2")
"""Where a token is judged. The second of each is cut off."""

WAIT: Final = 60
"""Seconds that the call which revokes may wait for everybody."""

_PAUSE: Final = 0.02
_PATIENCE: Final = aiohttp.ClientTimeout(total=2 * WAIT)


@dataclass(frozen=True, slots=True)
class Judgement:
    """That one of :data:`PLACES` accepted the token, or refused it by a code; None as it is not active."""

    by: str
    accepted: bool
    code: str | None
    began: float


@dataclass
class CuttingOff:
    """What happens to one token. Moments are monotonic seconds: of the roads' end, of the call, and of its answer.

    ``propagation`` is from that answer, in which ``silent`` is what the replica and the verifier are called that were
    cut off.
    """

    ground: Replicas
    judgements: list[Judgement] = field(default_factory=list)
    blocked: float = 0.0
    called: float = 0.0
    answered: float = 0.0
    propagation: dict[str, Any] = field(default_factory=dict)
    silent: tuple[str, str] = ("", "")

    @property
    def took(self) -> float:
        """How many seconds the call took."""
        return self.answered - self.called

    @property
    def after(self) -> list[Judgement]:
        """What was judged when the roads had ended."""
        return [one for one in self.judgements if one.began > self.blocked]

    def accepted(self, by: str) -> float:
        """When the last acceptance of one place began, in seconds from the end of the roads."""
        return max(one.began for one in self.judgements if one.by == by and one.accepted) - self.blocked

    def refused(self, by: str, code: str) -> float:
        """When the first refusal of one place for this reason began, in seconds from the end of the roads."""
        return min(one.began for one in self.after if one.by == by and one.code == code) - self.blocked


def cut_off(folder: Path) -> CuttingOff:
    """Have a token judged everywhere, block the roads of one replica and one verifier, revoke it, and wait."""
    ground = Replicas(folder, (CLIENT,), replicas=2)
    ground.prepare()
    story = CuttingOff(ground)
    asyncio.run(_happens(story))
    return story


async def _happens(story: CuttingOff) -> None:
    ground = story.ground
    async with AsyncExitStack() as stack:
        await ground.open(stack)
        stack.callback(ground.end)
        await asyncio.to_thread(ground.start)
        place = ground.place()
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=_PATIENCE))
        token = await Brokers(place, CLIENT, http).token(place.ports[0], TICKETS, "tickets:read")
        assert token is not None
        Journal(place.folder, place.held_up(CLIENT).stem).write("held", jwt=token, at=time.monotonic())
        road = await stack.enter_async_context(Road(place.ports[:1]))
        hands = [_verifier(place, PLACES[2], place.ports[0]), _verifier(place, PLACES[3], road.port)]
        for hand in hands:
            hand.start()
            stack.callback(hand.kill)
        story.silent = (await _id_of(ground), f"gateway#{PLACES[3]}.{hands[1].process.pid}")
        operator = Brokers(place, "operator", http)
        async with asyncio.TaskGroup() as group:
            asking = [
                group.create_task(_ask(story, operator, PLACES[0], place.ports[0], token)),
                group.create_task(_ask(story, operator, PLACES[1], place.ports[1], token)),
                group.create_task(_read(story, Tail(place.journals / f"{PLACES[2]}.jsonl"))),
                group.create_task(_read(story, Tail(place.journals / f"{PLACES[3]}.jsonl"))),
            ]
            await _until(lambda: {one.by for one in story.judgements if one.accepted} == set(PLACES))
            await _revoke(story, Brokers(place, "operator", http), place, (ground.roads[1], road))
            await _until(lambda: {one.by for one in story.after if not one.accepted} == set(PLACES))
            for task in asking:
                task.cancel()


def _verifier(place: Place, name: str, through: int) -> Hand:
    return Hand(name, verify, (place, name, (CLIENT,)), {"through": through, "pause": _PAUSE})


async def _id_of(ground: Replicas) -> str:
    """Return the id of the replica that is cut off."""
    process = ground.members[1].process
    assert process is not None
    there = (await asyncio.to_thread(ground.first.ask, "replicas", "list"))["replicas"]
    return str(next(one["id"] for one in there if one["process"] == process.pid))


async def _ask(story: CuttingOff, operator: Brokers, by: str, port: int, token: str) -> None:
    """Ask one broker about the token, again and again."""
    while True:
        began = time.monotonic()
        status, body = await operator.call(port, "/oauth2/introspect", "operator:read", data={"token": token})
        accepted = status == HTTPStatus.OK and bool(body["active"])
        story.judgements.append(Judgement(by, accepted, body.get("code"), began))
        await asyncio.sleep(_PAUSE)


async def _read(story: CuttingOff, tail: Tail) -> None:
    """Read what a verifier writes down."""
    while True:
        for line in tail.new():
            story.judgements.append(Judgement(line["by"], line["what"] == "accepted", line.get("code"), line["began"]))
        await asyncio.sleep(_PAUSE)


async def _revoke(story: CuttingOff, revoker: Brokers, place: Place, roads: tuple[Road, ...]) -> None:
    """Block the roads, and revoke what the client has, at the broker that is not cut off."""
    await revoker.sign_in(place.ports[0], SCOPE)
    story.blocked = time.monotonic()
    for road in roads:
        road.block()
    order = {"selector": {"agent": CLIENT}, "reason": "what this is for", "wait": WAIT}
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    story.called = time.monotonic()
    status, told = await revoker.call(place.ports[0], "/v1/revocations", SCOPE, json=order, headers=headers)
    assert status == HTTPStatus.CREATED, told
    story.answered, story.propagation = time.monotonic(), told["propagation"]


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not holds():  # noqa: ASYNC110 - what other processes write down
            await asyncio.sleep(_PAUSE)
