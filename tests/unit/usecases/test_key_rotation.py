"""Rotating keys: recorded first, in force as a whole."""

from __future__ import annotations

import asyncio

import pytest

from broker.core.entry import Kind
from broker.core.errors import Unavailable
from broker.core.key_schedule import DEFAULT_LEAD
from broker.core.secret import Secret
from broker.key_rotation import KeyRotation
from broker.ports import Revocations
from broker.signing.keyring import KeyRing
from broker.signing.sealing import Sealer
from tests.support.fakes import CALLER, FakeClock, Fault, MemoryLedger, MemoryRecords, cancelled_after


class Keys:
    """The use case over a real key ring, with one ES256 key, and a ledger in memory."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger = MemoryLedger(Revocations())
        self.records = MemoryRecords(self.ledger)
        self.ring = KeyRing((), Sealer(Secret(bytes(32))), longest_token=900)
        self.first = self.ring.generate("ES256", "token", self.clock.time, self.clock.time)
        self.ledger.keys[self.first.kid] = self.first
        self.ring.replace([self.first])
        self.ledger.keys_follower = self.ring.replace
        self.use_case = KeyRotation(custody=self.ring, ledger=self.ledger, records=self.records, clock=self.clock)

    def signing(self, after: float = 0) -> str:
        """Return the key that signs so many seconds from now."""
        return self.ring.signing_kid(self.clock.time + after)

    def published(self) -> set[str]:
        """Return the keys that verifiers are given now."""
        return {key["kid"] for key in self.ring.jwks(self.clock.time)["keys"]}

    def consistent(self) -> bool:
        """Whether the ring in memory is what the ledger has."""
        usable = {kid for kid, row in self.ledger.keys.items() if not row.revoked}
        return self.published() == usable


@pytest.fixture
def keys() -> Keys:
    """A ring of its own for each test."""
    return Keys()


async def test_a_rotation_publishes_now_and_signs_later(keys: Keys) -> None:
    """Verifiers know the new key before it signs; the ledger says who rotated."""
    rotation = await keys.use_case.rotate(by="alice", caller=CALLER)
    new = next(row.kid for row in rotation.rows if row.kid != keys.first.kid)
    assert keys.published() == {keys.first.kid, new}
    assert (keys.signing(), keys.signing(DEFAULT_LEAD)) == (keys.first.kid, new)
    assert rotation.compromised == ()
    (members,) = keys.ledger.members(Kind.KEYS_ROTATED)
    assert members["by"] == "alice"
    assert {key["kid"] for key in members["keys"]} == {keys.first.kid, new}


async def test_an_emergency_replaces_everything_at_once(keys: Keys) -> None:
    """The old key is published no more, the new one signs, and the caller is told which keys' tokens must die."""
    rotation = await keys.use_case.replace(by="alice", reason="key leaked", caller=CALLER)
    assert rotation.compromised == (keys.first.kid,)
    assert keys.first.kid not in keys.published()
    assert keys.signing() in keys.published()
    (members,) = keys.ledger.members(Kind.KEYS_ROTATED)
    assert members["reason"] == "key leaked"
    assert {key["kid"]: key["revoked"] for key in members["keys"]}[keys.first.kid] is True


async def test_private_keys_are_not_in_the_record(keys: Keys) -> None:
    """Law 8: not even sealed."""
    rotation = await keys.use_case.rotate(by="alice", caller=CALLER)
    body = keys.ledger.entries[0].body
    assert b"sealed" not in body
    assert all(row.sealed.hex().encode() not in body for row in rotation.rows)


async def test_a_rotation_that_cannot_be_recorded_changes_nothing(keys: Keys) -> None:
    """No key signs or is published that the ledger does not know."""
    keys.ledger.down = True
    for attempt in (
        keys.use_case.rotate(by="alice", caller=CALLER),
        keys.use_case.replace(by="alice", reason="r", caller=CALLER),
    ):
        with pytest.raises(Unavailable):
            await attempt
    assert keys.published() == {keys.first.kid}
    assert keys.signing() == keys.first.kid


async def test_after_a_commit_in_doubt_the_next_rotation_is_complete(keys: Keys) -> None:
    """Failed but applied: nothing is in force that was not answered, and the next rotation takes up all rows."""
    keys.ledger.faults.append(Fault.APPLIED)
    with pytest.raises(Unavailable):
        await keys.use_case.rotate(by="alice", caller=CALLER)
    assert keys.published() == {keys.first.kid}
    await keys.use_case.rotate(by="alice", caller=CALLER)
    assert keys.consistent()


async def test_two_at_once_happen_one_after_the_other(keys: Keys) -> None:
    """Memory holds what the ledger holds, whichever comes last."""
    await asyncio.gather(
        keys.use_case.rotate(by="alice", caller=CALLER),
        keys.use_case.replace(by="bob", reason="r", caller=CALLER),
        keys.use_case.rotate(by="carol", caller=CALLER),
    )
    assert keys.consistent()
    assert [members["by"] for members in keys.ledger.members(Kind.KEYS_ROTATED)] == ["alice", "bob", "carol"]
    assert keys.first.kid not in keys.published()


@pytest.mark.parametrize("turns", range(10))
async def test_a_cancelled_rotation_is_whole(keys: Keys, turns: int) -> None:
    """Nobody waits for the answer: the keys that the ledger records are those in force."""
    await cancelled_after(keys.use_case.replace(by="alice", reason="r", caller=CALLER), turns)
    await keys.use_case.rotate(by="bob", caller=CALLER)  # waits for its turn, so the first one has ended
    assert keys.consistent()


async def test_all_keys_are_listed(keys: Keys) -> None:
    """Revoked ones included: operators see what was."""
    await keys.use_case.replace(by="alice", reason="r", caller=CALLER)
    listed = {row.kid: row.revoked for row in await keys.use_case.keys()}
    assert listed[keys.first.kid] is True
    assert len(listed) == 2
