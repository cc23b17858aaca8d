"""Tasks, accounts and reservations as they change inside one transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from broker.core.action import Action
from broker.core.task import Balance, Task, TaskState


@dataclass(slots=True)
class Account:
    """The balance of one resource, as it changes. ``stored`` says that the database has a row of it."""

    limit: int
    used: int = 0
    reserved: int = 0
    stored: bool = False
    changed: bool = False

    @property
    def left(self) -> int:
        """How many may still be used or reserved."""
        return self.limit - self.used - self.reserved

    def move(self, *, limit: int = 0, used: int = 0, reserved: int = 0) -> None:
        """Add to the three numbers."""
        self.limit += limit
        self.used += used
        self.reserved += reserved
        self.changed = True


@dataclass(slots=True)
class Node:
    """A task, as it changes."""

    task: Task
    heartbeat_at: float
    holds_until: float = 0
    closed_at: float | None = None
    closed_because: str | None = None
    accounts: dict[str, Account] = field(default_factory=dict)
    stored: bool = False
    changed: bool = False

    @classmethod
    def new(cls, task: Task) -> Self:
        """Return a task that was just opened."""
        accounts = {resource: Account(limit) for resource, limit in task.budget.limits().items()}
        return cls(task, task.opened_at, accounts=accounts)

    @classmethod
    def of(cls, state: TaskState) -> Self:
        """Return a stored task."""
        accounts = {
            resource: Account(balance.limit, balance.used, balance.reserved, stored=True)
            for resource, balance in state.balances.items()
        }
        return cls(
            state.task,
            state.heartbeat_at,
            state.holds_until,
            state.closed_at,
            state.closed_because,
            accounts,
            stored=True,
        )

    def state(self) -> TaskState:
        """Return it as a value."""
        balances = {
            resource: Balance(limit=account.limit, used=account.used, reserved=account.reserved)
            for resource, account in self.accounts.items()
        }
        return TaskState(
            task=self.task,
            heartbeat_at=self.heartbeat_at,
            balances=balances,
            holds_until=self.holds_until,
            closed_at=self.closed_at,
            closed_because=self.closed_because,
        )


@dataclass(slots=True)
class ReservedAction:
    """A reservation, as it changes."""

    action: Action
    outcome: str | None = None
    result: str | None = None
    settled_at: float | None = None
    stored: bool = False
