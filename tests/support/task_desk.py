"""Tasks as a use case over a real ledger, with tokens of any claims, and grants as issuance commits them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from broker.core.change import TaskOpen
from broker.core.claims import AccessClaims
from broker.core.policy.model import Delegate, Limits
from broker.core.task import TaskState
from broker.core.task_opening import TaskWish
from broker.ledger.verify import verify_file
from broker.ports import Ledger, Records
from broker.revocation import Revocation
from broker.tasks import Tasks
from tests.support.fakes import CALLER
from tests.support.ledgers import issued
from tests.support.world import API, ISSUER, TICKETS, World, durable_world

ROLE = "triage"
ALL = ("tasks:close", "tasks:open", "tasks:read")
KID = "key-of-the-broker"


class Desk:
    """The use case, and what tests do to it."""

    def __init__(self, world: World, file: Path) -> None:
        self.world = world
        self.file = file
        self.compose(world.ledger, world.records)

    def compose(self, ledger: Ledger, records: Records) -> None:
        """Wire the use case over a ledger and its records."""
        world = self.world
        self.records = records
        self.revocation = Revocation(
            revocations=world.revocations,
            siblings=world.siblings,
            ledger=ledger,
            records=records,
            clock=world.clock,
            ids=world.ids,
            meter=world.meter,
            events=world.events,
        )
        self.tasks = Tasks(
            ledger=ledger,
            records=records,
            revocations=world.revocations,
            revoker=self.revocation,
            policy=lambda: world.policy,
            clock=world.clock,
            ids=world.ids,
            events=world.events,
        )

    # --- who

    def claims(self, agent: str = "triage", **changes: Any) -> AccessClaims:  # noqa: ANN401 - members of the claims
        """Return the claims of a token for the broker's own API, of a task that no request named."""
        now = int(self.world.clock.time)
        members: dict[str, Any] = {
            "iss": ISSUER,
            "sub": agent,
            "aud": API,
            "client_id": agent,
            "iat": now,
            "exp": now + 300,
            "jti": self.world.ids.new("tok"),
            "scopes": ALL,
            "epoch": self.world.revocations.rules.epoch,
            "task": self.world.ids.new("task"),
            "role": ROLE,
            "tier": "operator",
            "issuer": "registered",
        }
        return AccessClaims(**(members | changes))

    def inside(self, state: TaskState, agent: str = "triage", **changes: Any) -> AccessClaims:  # noqa: ANN401 - as above
        """Return the claims of a token of a task."""
        return self.claims(agent, task=state.task.id, path=state.task.path, **changes)

    def handed_on(self, state: TaskState, agent: str = "other") -> AccessClaims:
        """Return the claims of a token of a task that its owner's agent handed on to another one."""
        claims = self.inside(state, agent)
        return replace(claims, sub=state.task.owner, agents=(agent,), parents=("tok_root",))

    def limit(self, **limits: Any) -> None:  # noqa: ANN401 - members of the limits
        """Give the role other limits."""
        usual = Limits(tokens_per_minute=1000, tasks_per_minute=100_000)
        self._change_role(limits=replace(usual, **limits))

    def delegates(self, to: Mapping[str, Delegate]) -> None:
        """Let the role delegate to others."""
        self._change_role(may_delegate_to=to)

    def _change_role(self, **changes: Any) -> None:  # noqa: ANN401 - members of the role
        policy = self.world.policy
        role = replace(policy.roles[ROLE], **changes)
        self.world.policy = replace(policy, roles={**policy.roles, ROLE: role})

    # --- what

    async def open(
        self,
        claims: AccessClaims | None = None,
        *,
        key: str | None = None,
        purpose: str = "review PR 41",
        **wish: Any,  # noqa: ANN401 - members of the wish
    ) -> TaskState:
        """Open a task."""
        return await self.tasks.open(TaskWish(purpose=purpose, **wish), claims or self.claims(), CALLER, key)

    async def grant(self, state: TaskState, seconds: float = 300) -> AccessClaims:
        """Commit a token in a task, guarded as issuance guards it, and return its claims."""
        now = self.world.clock.time
        claims = self.inside(state, aud=TICKETS, scopes=("tickets:read",), exp=int(now + seconds))
        held = TaskOpen(state.task.id, now, holds_until=claims.exp)
        members: dict[str, Any] = {"task": claims.task, "agent": claims.client_id, "expires_at": claims.exp}
        await self.world.ledger.commit(issued(claims.jti, claims.epoch, held, at=now, **members))
        return claims

    def is_alive(self, claims: AccessClaims) -> bool:
        """Whether no rule in force kills a token."""
        return self.world.revocations.rules.killer(claims.facts(KID), claims.epoch) is None

    async def state(self, state: TaskState) -> TaskState:
        """Return a task as the ledger has it now."""
        found = await self.records.task(state.task.id)
        assert found is not None
        return found

    async def entries(self, kind: str) -> list[dict[str, Any]]:
        """Return the ledger's entries of a kind."""
        records = await self.records.records(limit=100_000)
        return [dict(record.members) for record in records if record.members["kind"] == kind]

    async def verified(self) -> tuple[str, ...]:
        """Verify the whole ledger beside the running broker, and return its problems."""
        return tuple((await asyncio.to_thread(verify_file, self.file)).problems)


@asynccontextmanager
async def open_desk(file: Path) -> AsyncIterator[Desk]:
    """Run the use case over a ledger of its own."""
    async with durable_world(file) as world:
        desk = Desk(world, file)
        desk.limit()
        yield desk
