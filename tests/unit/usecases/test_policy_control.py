"""The policy in force: replaced as a whole, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from broker.core.entry import Kind
from broker.core.errors import BrokerError, Code, Unavailable
from broker.core.policy import Policy
from broker.policy_control import PolicyControl
from tests.support.fakes import CALLER, Fault, cancelled_after
from tests.support.world import DOCUMENT, World, policy

FIRST = policy()
SECOND = policy(DOCUMENT | {"roles": {"responders": DOCUMENT["roles"]["responders"]}})


class Control:
    """The use case over a ledger in memory; ``load`` is what reading the file gives."""

    def __init__(self) -> None:
        self.world = World()
        self.ledger = self.world.memory
        self.load: Callable[[], Policy] = lambda: SECOND
        load = lambda: self.load()  # noqa: E731, PLW0108 - what is loaded changes
        self.use_case = PolicyControl(
            FIRST,
            load,
            ledger=self.ledger,
            records=self.world.reading,
            clock=self.world.clock,
            revoke=self.world.revocation.revoke,
            events=self.world.events,
        )


@pytest.fixture
def control() -> Control:
    """A policy of its own for each test."""
    return Control()


async def test_a_reload_is_recorded_and_then_in_force(control: Control) -> None:
    """The ledger knows its digest, and who loaded it."""
    assert (await control.use_case.reload(by="alice", caller=CALLER)).policy is SECOND
    assert control.use_case.current() is SECOND
    (members,) = control.ledger.members(Kind.POLICY_LOADED)
    assert (members["policy"], members["by"], members["request"]) == (SECOND.digest, "alice", "req_1")


async def test_a_policy_that_another_process_recorded_is_taken_from_the_file(control: Control) -> None:
    """At once, and without a record of its own: the other process has made it, and sees to what it narrows."""
    control.use_case.follow(SECOND.digest)
    assert control.use_case.current() is SECOND
    assert not control.ledger.entries
    control.load = lambda: FIRST
    control.use_case.follow(SECOND.digest)  # nothing new
    assert control.use_case.current() is SECOND


async def test_a_recorded_policy_that_the_file_does_not_hold_is_not_guessed(control: Control) -> None:
    """The one in force stays, and the log says so; so it does when the file cannot be used."""
    control.use_case.follow("of another file")
    assert control.use_case.current() is FIRST

    def bad() -> Policy:
        return policy({"version": 1, "roles": {}})

    control.load = bad
    control.use_case.follow(SECOND.digest)
    assert control.use_case.current() is FIRST
    told = [members["digest"] for _, event, members in control.world.events.logged if event == "policy.not_followed"]
    assert told == ["of another file", SECOND.digest]


async def test_the_first_policy_is_recorded_too(control: Control) -> None:
    """A ledger says from the start which policy its decisions were made by."""
    await control.use_case.start()
    (members,) = control.ledger.members(Kind.POLICY_LOADED)
    assert (members["policy"], members["by"]) == (FIRST.digest, "broker")


async def test_a_bad_policy_changes_nothing(control: Control) -> None:
    """The one in force stays, and nothing is recorded."""

    def bad() -> Policy:
        return policy({"version": 1, "roles": {}})

    control.load = bad
    with pytest.raises(BrokerError) as refused:
        await control.use_case.reload(by="alice", caller=CALLER)
    assert refused.value.code is Code.POLICY_INVALID
    assert control.use_case.current() is FIRST
    assert not control.ledger.entries


@pytest.mark.parametrize("fault", list(Fault))
async def test_a_policy_that_cannot_be_recorded_is_not_in_force(control: Control, fault: Fault) -> None:
    """With the ledger failing the old one decides; trying again works."""
    control.ledger.faults.append(fault)
    with pytest.raises(Unavailable):
        await control.use_case.reload(by="alice", caller=CALLER)
    assert control.use_case.current() is FIRST
    await control.use_case.reload(by="alice", caller=CALLER)
    assert control.use_case.current() is SECOND


async def test_the_last_one_recorded_is_the_one_in_force(control: Control) -> None:
    """Reloads at once happen one after the other."""
    loads = iter([FIRST, SECOND, FIRST, SECOND])
    control.load = lambda: next(loads)
    await asyncio.gather(*(control.use_case.reload(by="alice") for _ in range(4)))
    assert control.ledger.members(Kind.POLICY_LOADED)[-1]["policy"] == control.use_case.current().digest


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancelled_reload_is_whole(control: Control, turns: int) -> None:
    """If it is recorded it is in force, whoever has stopped waiting."""
    await cancelled_after(control.use_case.reload(by="alice"), turns)
    recorded = bool(control.ledger.entries)
    assert control.use_case.current() is (SECOND if recorded else FIRST)
