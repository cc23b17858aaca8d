"""Realistic changes, and ledgers to commit them to."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.core.change import (
    AddBlock,
    AddRule,
    BlockInForce,
    Change,
    EpochIs,
    Guard,
    LiftBlock,
    PutAgent,
    PutKey,
    Receipt,
    RegisteredAgent,
    RemoveAgent,
    StoredKey,
)
from broker.core.entry import Kind, entry
from broker.core.jwk import thumbprint
from broker.core.rules import Block, Rule
from broker.core.selector import Selector
from broker.ledger import SqlLedger
from broker.ledger.sharing.family import Elder, Family
from broker.ledger.verify import Report, verify_file
from broker.ports import Place, Revocations, Server
from tests.support.postgres import is_ledger

NOW = 1_795_300_000.0
TTL = 900


@dataclass
class FixedClock:
    """A wall clock that stands until it is moved."""

    time: float = NOW

    def now(self) -> float:
        return self.time


@dataclass
class Bench:
    """An open ledger, what it shares with the use cases, and its file."""

    ledger: SqlLedger
    revocations: Revocations
    place: Place
    clock: FixedClock = field(default_factory=FixedClock)

    @property
    def path(self) -> Path:
        """The file of a ledger that is in one."""
        assert isinstance(self.place, Path)
        return self.place

    @property
    def epoch(self) -> int:
        return self.revocations.rules.epoch

    async def issue(self, ref: str, *guards: Guard, epoch: int | None = None, **members: Any) -> Receipt:  # noqa: ANN401 - JSON values
        """Commit a token as the issuing use case does: guarded by the epoch it was decided at."""
        epoch = self.epoch if epoch is None else epoch
        return await self.ledger.commit(issued(ref, epoch, *guards, **members))

    async def revoke(self, selector: Selector, rule_id: str = "") -> Rule:
        """Commit a rule at the next number."""
        number = self.epoch + 1
        rule_id = rule_id or f"rule_{number}"
        await self.ledger.commit(added(Rule(rule_id, selector, number, self.clock.now(), "op", "because")))
        rule = self.revocations.rules.get(rule_id)
        assert rule is not None
        return rule

    async def verified(self) -> Report:
        """Verify the whole ledger as it is now, beside the running one."""
        report = await asyncio.to_thread(verify_file, self.place)
        assert report.problems == (), report.problems
        return report


def is_there(place: Place) -> bool:
    """Whether there is a ledger already."""
    return is_ledger(place) if isinstance(place, Server) else place.exists()


@asynccontextmanager
async def opened(place: Place, *, clock: FixedClock | None = None, **options: Any) -> AsyncIterator[Bench]:  # noqa: ANN401 - passed on
    """Open a ledger, making it first if it is not there."""
    clock = clock or FixedClock()
    if not is_there(place):
        SqlLedger.create(place, clock.now())
    revocations = Revocations()
    ledger = await SqlLedger.open(place, revocations, clock=clock, **options)
    try:
        yield Bench(ledger, revocations, place, clock)
    finally:
        await ledger.close()


@contextmanager
def family_of(path: Path) -> Iterator[Family]:
    """Take the ledger at ``path`` for a family, making it first if it is not there."""
    if not path.exists():
        SqlLedger.create(path, NOW)
    elder = Elder.take(path, FixedClock())
    try:
        yield elder.family
    finally:
        elder.release()


@asynccontextmanager
async def family_bench(path: Path, size: int = 2) -> AsyncIterator[Sequence[Bench]]:
    """Open a ledger as so many processes of one family would, all of them in this process."""
    async with AsyncExitStack() as stack:
        family = stack.enter_context(family_of(path))
        yield [await stack.enter_async_context(opened(path, family=family)) for _ in range(size)]


def issued(ref: str, epoch: int, *guards: Guard, at: float = NOW, urgent: bool = False, **members: Any) -> Change:  # noqa: ANN401 - JSON values
    """Return the change that issues a token."""
    described: dict[str, Any] = {
        "agent": "cluster/support/triage",
        "issuer": "cluster",
        "role": "support-triage",
        "tier": "read",
        "task": "task_1",
        "audience": "https://tickets.example",
        "scope": "tickets:read",
        "key": "signing-key",
        "expires_at": int(at) + TTL,
    }
    described |= members
    record = entry(Kind.TOKEN_ISSUED, at, ref=ref, epoch=epoch, **described)
    return Change(record, (EpochIs(epoch), *guards), urgent=urgent)


def noted(*guards: Guard, at: float = NOW, **members: Any) -> Change:  # noqa: ANN401 - JSON values
    """Return a change that records something harmless."""
    return Change(entry(Kind.BROKER_STARTED, at, **members), guards)


def added(rule: Rule, block: Block | None = None, *guards: Guard) -> Change:
    """Return the change that adds a rule, and a block with it."""
    assert rule.number is not None
    described = None
    if block is not None:
        described = {"id": block.id, **({} if block.until is None else {"until": int(block.until)})}
    record = entry(
        Kind.RULE_ADDED,
        rule.at,
        ref=rule.id,
        number=rule.number,
        selector=rule.selector.to_dict(),
        by=rule.by,
        reason=rule.reason,
        incident=rule.incident,
        block=described,
    )
    writes = (AddRule(rule),) if block is None else (AddRule(rule), AddBlock(block))
    return Change(record, (EpochIs(rule.number - 1), *guards), writes, urgent=True)


def lifted(block_id: str, at: float = NOW) -> Change:
    """Return the change that lifts a block."""
    return Change(entry(Kind.BLOCK_LIFTED, at, ref=block_id), (BlockInForce(block_id),), (LiftBlock(block_id, at),))


def public_key(label: str) -> dict[str, str]:
    """Return something shaped like a public JWK, different for each label."""
    return {"kty": "OKP", "crv": "Ed25519", "x": label}


def registered(name: str, label: str = "one", *guards: Guard) -> Change:
    """Return the change that registers an agent with the key of this label."""
    jwk = public_key(label)
    agent = RegisteredAgent(name, jwk, thumbprint(jwk), NOW, "op")
    return Change(entry(Kind.AGENT_REGISTERED, NOW, agent=name, key=agent.key), guards, (PutAgent(agent),))


def removed(name: str, *guards: Guard) -> Change:
    """Return the change that removes an agent."""
    return Change(entry(Kind.AGENT_REMOVED, NOW, agent=name), guards, (RemoveAgent(name),))


def rotated(*keys: StoredKey) -> Change:
    """Return the change that puts keys into the broker's ring."""
    described = [{"kid": key.kid, "alg": key.alg, "use": key.use, "revoked": key.revoked} for key in keys]
    return Change(entry(Kind.KEYS_ROTATED, NOW, keys=described), (), tuple(PutKey(key) for key in keys))


def stored_key(label: str) -> StoredKey:
    """Return a key of the broker's ring, different for each label."""
    jwk = public_key(label)
    return StoredKey(thumbprint(jwk), "token", "EdDSA", jwk, b"\x00sealed", NOW, NOW + 5)


def digest(text: str) -> bytes:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).digest()


async def outcomes(ledger: SqlLedger, changes: Sequence[Change]) -> list[Receipt | BaseException]:
    """Commit changes at the same moment, so that they share a transaction, and return what became of each."""
    return await asyncio.gather(*(ledger.commit(change) for change in changes), return_exceptions=True)
