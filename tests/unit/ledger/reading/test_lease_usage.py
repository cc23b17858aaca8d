"""What was leased, counted in a ledger: by role and secret, for how long, and how many at once."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core.change import Change
from broker.core.entry import Kind, entry
from broker.core.usage import RoleUse, SecretUse, Usage
from broker.ledger.reading.usage_file import count_usage
from broker.ports import Place
from tests.support.ledgers import NOW, opened

DAY = 24 * 3600
START = NOW - 30 * DAY


class Story:
    """What is recorded, one after the other. Times are seconds after :data:`START`."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def add(
        self, kind: Kind, at: float, ref: str, role: str = "workers", agent: str = "alpha", **members: object
    ) -> None:
        """Record something."""
        made = entry(kind, START + at, ref=ref, role=role, agent=agent, issuer="registered", **members)
        self.changes.append(Change(made))

    def lease(
        self,
        ref: str,
        at: float,
        ttl: int,
        *,
        secret: str = "db",
        ended: float | None = None,
        renewed: int | None = None,
        role: str = "workers",
        agent: str = "alpha",
    ) -> None:
        """Take a lease, perhaps renew it until some seconds after its start, perhaps end and settle it."""
        more = {"secret": secret, "role": role, "agent": agent}
        self.add(Kind.LEASE_INTENDED, at, ref, **more)
        self.add(Kind.LEASE_SEALED, at, ref, until=int(START + at + ttl), **more)
        if renewed is not None:
            self.add(Kind.LEASE_RENEWED, at + 1, ref, until=int(START + at + renewed), **more)
        if ended is not None:
            self.add(Kind.LEASE_ENDED, at + ended, ref, because="returned", **more)
            self.add(Kind.LEASE_SETTLED, at + ended + 1, ref, status="revoked", **more)

    async def counted(self, place: Place, since: float = 0) -> Usage:
        """Commit it all in the order of time, and count."""
        async with opened(place) as ledger:
            for change in sorted(self.changes, key=lambda each: each.entry.columns.at):
                await ledger.ledger.commit(change)
        return count_usage(place, START + since)


@pytest.fixture
def story() -> Story:
    """Nothing was recorded yet."""
    return Story()


def used(usage: Usage) -> dict[tuple[str, str], SecretUse]:
    """Return the uses by role and secret."""
    return {(use.role, use.secret): use for use in usage.secrets}


async def test_how_long_leases_were_held(story: Story, place: Place) -> None:
    """Until they were given back, or else until the end that they had last; the longest of each secret counts."""
    story.lease("a", 100, 900, ended=60)
    story.lease("b", 200, 300)
    story.lease("c", 300, 60, renewed=240)
    story.lease("d", 400, 50, secret="key", ended=500)
    story.lease("e", 500, 40, role="others")
    found = used(await story.counted(place))
    assert {key: (use.leases, use.longest) for key, use in found.items()} == {
        ("workers", "db"): (3, 300),
        ("workers", "key"): (1, 50),
        ("others", "db"): (1, 40),
    }
    assert found["workers", "db"].last_at == START + 300


async def test_what_is_older_does_not_count_as_use(story: Story, place: Place) -> None:
    """Only leases that were handed out since then; one that is alive since before is alive all the same."""
    story.lease("old", 0, 900, secret="key")
    story.lease("young", 2000, 900)
    usage = await story.counted(place, since=1000)
    assert used(usage).keys() == {("workers", "db")}
    assert usage.roles["workers"].live_leases == 2


async def test_how_many_lived_at_once(story: Story, place: Place) -> None:
    """Of one agent in one role, as the limit counts: until they are settled."""
    story.lease("a", 0, 900, ended=100)
    story.lease("b", 50, 900, ended=100)
    story.lease("c", 60, 900, ended=10)
    story.lease("d", 120, 900, agent="beta", ended=10)
    story.lease("e", 121, 900, agent="beta", ended=10)
    story.lease("f", 500, 900, role="others")
    usage = await story.counted(place)
    assert usage.roles["workers"].live_leases == 3
    assert usage.roles["others"].live_leases == 1
    later = count_usage(place, START + 300)
    assert later.roles.get("workers", RoleUse()).live_leases == 0


async def test_leases_count_against_the_rate_of_an_agent(story: Story, place: Place) -> None:
    """The limit counts both, so the peak does; the agent's tokens are told apart from its leases."""
    base: dict[str, Any] = {"audience": "a", "scope": "s", "subject": "alpha-subject", "expires_at": int(NOW)}
    for number in range(2):
        story.add(Kind.TOKEN_ISSUED, number, f"tok_{number}", task="t", **base)
    for number in range(3):
        story.lease(f"lease_{number}", 2 + number, 60)
    usage = await story.counted(place)
    assert usage.roles["workers"].agent_peak == 5
    assert [(use.tokens, use.leases, use.subject) for use in usage.agents] == [(2, 3, "alpha-subject")]


async def test_an_agent_that_only_took_leases_is_known_by_its_issuer(story: Story, place: Place) -> None:
    """It got its token before: what its issuer called it is not recorded, so that it may be anybody's."""
    story.lease("a", 0, 60)
    (use,) = (await story.counted(place)).agents
    assert (use.tokens, use.leases, use.subject) == (0, 1, None)


async def test_secrets_that_tasks_were_opened_for(story: Story, place: Place) -> None:
    """They are what somebody meant to use."""
    task: dict[str, Any] = {"deadline": int(NOW), "budget": {}, "path": []}
    story.add(Kind.TASK_OPENED, 10, "task_1", secrets=["db", "key"], **task)
    story.add(Kind.TASK_OPENED, 20, "task_2", **task)
    usage = await story.counted(place)
    assert usage.secret_ceilings == {("workers", "db"), ("workers", "key")}
    assert usage.complete
