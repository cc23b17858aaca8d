"""Law 2 across processes: what one of them has revoked, no other takes for alive, and none grants on old rules."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.core.errors import BrokerError, Code, EpochMoved, Refused
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.core.token_check import TokenCheck
from broker.key_rotation import KeyRotation
from broker.ledger.sharing.family import Family
from broker.revocation import BlockFor
from tests.support.fakes import CALLER
from tests.support.ledgers import NOW, Bench, added, family_of, opened
from tests.support.world import ISSUER, durable_world

ROOT = Path(__file__).parents[2]
ROUNDS = 60


class Judge:
    """A process of the family that says what is alive, and commits tokens meanwhile."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def says(self, agent: str, epoch: int) -> str:
        """Ask whether a credential of this agent and epoch is alive."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{agent} {epoch}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@contextlib.contextmanager
def judging(path: Path, family: Family) -> Iterator[Judge]:
    """Run such a process."""
    module = [sys.executable, "-m", "tests.support.ledger_judge", str(path), *map(str, family.descriptors)]
    with subprocess.Popen(
        module, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=family.descriptors
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Judge(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=60) == 0


async def revoke(bench: Bench, agent: str) -> int:
    """Revoke an agent, at whatever epoch that comes to; return the epoch before."""
    while True:
        number = bench.epoch + 1
        rule = Rule(f"rule_{agent}", Selector(agent=agent), number, NOW, "op", "x")
        with contextlib.suppress(EpochMoved):
            await bench.ledger.commit(added(rule))
            return number - 1


async def test_nothing_is_alive_anywhere_that_was_revoked_anywhere(tmp_path: Path) -> None:
    """Whoever revokes has its answer, asks two other processes under load, and hears that it is dead; each time."""
    path = tmp_path / "ledger.db"
    with family_of(path) as family, judging(path, family) as one, judging(path, family) as other:
        async with opened(path, family=family) as bench:
            for number in range(ROUNDS):
                agent = f"agent-{number}"
                for judge in (one, other):
                    assert await asyncio.to_thread(judge.says, agent, number) == "alive"
                epoch = await revoke(bench, agent)
                for judge in (one, other):
                    assert await asyncio.to_thread(judge.says, agent, epoch) == "dead"
            report = await bench.verified()
            assert report.epoch == ROUNDS
            await _every_token_is_stamped_with_the_rules_before_it(bench)


async def test_a_token_of_another_process_is_good_here_once_this_one_has_caught_up(tmp_path: Path) -> None:
    """Of a key and of an epoch that were made there: before, it is refused, since it could be of a lost ledger."""
    path = tmp_path / "ledger.db"
    with family_of(path) as family:
        async with durable_world(path, family=family) as one, durable_world(path, family=family) as other:
            rotation = KeyRotation(custody=one.ring, ledger=one.ledger, records=one.records, clock=one.clock)
            await rotation.replace(by="alice", reason="new", caller=CALLER)
            await one.revoke(agent="nobody")
            token = (await one.issue()).token
            check = TokenCheck(
                issuer=ISSUER,
                keys=lambda: other.ring.verification_keys(other.clock.time),
                rules=lambda: other.revocations.rules,
                first_hand=True,
            )
            with pytest.raises(BrokerError) as caught:
                check.check(token, other.clock.time, None)
            assert caught.value.code is Code.TOKEN_INVALID
            assert other.sql is not None
            await other.sql.freshness.ensure()
            assert check.check(token, other.clock.time, None).claims.epoch == 1
            await one.revoke(agent="triage")
            await other.sql.freshness.ensure()
            with pytest.raises(BrokerError) as caught:
                check.check(token, other.clock.time, None)
            assert caught.value.code is Code.TOKEN_REVOKED


async def test_a_request_that_waited_for_its_commit_is_decided_again_by_the_rules_of_another(tmp_path: Path) -> None:
    """A block that another process made between decision and commit refuses the token."""
    path = tmp_path / "ledger.db"
    with family_of(path) as family:
        async with durable_world(path, family=family) as one, durable_world(path, family=family) as other:
            await one.revoke(agent="triage", block=BlockFor())
            assert other.revocations.rules.epoch == 0
            with pytest.raises(Refused):
                await other.issue()


async def _every_token_is_stamped_with_the_rules_before_it(bench: Bench) -> None:
    """In the ledger, whoever issued."""
    rules = tokens = after = 0
    while page := await bench.ledger.records(after=after - 1, limit=1000):
        for record in page:
            if record.members["kind"] == "rule.added":
                rules += 1
            elif record.members["kind"] == "token.issued":
                assert record.members["epoch"] == rules
                tokens += 1
        after += len(page)
    assert rules == ROUNDS
    assert tokens > ROUNDS
