"""What a resource server is about to do: parsed, and put together with what it is judged by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

import msgspec

from broker.core.access_token import VerifiedToken
from broker.core.action import MAX_COUNT, MAX_TARGET, ActionState, is_digest
from broker.core.change import Guard, IdempotencyFresh
from broker.core.claims import AccessClaims
from broker.core.errors import Malformed
from broker.core.policy import Policy
from broker.core.scope import is_scope
from broker.core.task import ACTION, Task, is_action_name
from broker.core.visible import is_visible
from broker.ports import Admitted, Caller

IDEMPOTENCY_SECONDS: Final = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a resource server is about to do for the bearer of ``token``, parsed but not judged.

    ``scope`` is the scope of the token that the action falls under; the action's own name if it says none.
    """

    token: str = field(repr=False)
    action: str
    count: int = 1
    scope: str | None = None
    target: str | None = None
    digest: str | None = None
    auth_req_id: str | None = None
    idempotency_key: str | None = None

    @property
    def needed_scope(self) -> str:
        """The scope that the token must have."""
        return self.action if self.scope is None else self.scope

    def check(self) -> None:
        """Raise ``Malformed`` if it cannot be meant."""
        if not is_action_name(self.action):
            raise Malformed("action: 1 to 128 ASCII letters, digits and . _ : / -")
        if self.scope is not None and not is_scope(self.scope):
            raise Malformed("scope: must be one scope, as the policy writes it")
        if not 0 < self.count <= MAX_COUNT:
            raise Malformed(f"count: must be 1 to {MAX_COUNT}")
        if self.target is not None and not (0 < len(self.target) <= MAX_TARGET and is_visible(self.target)):
            raise Malformed(f"target: must be printable text of 1 to {MAX_TARGET} characters")
        if self.digest is not None and not is_digest(self.digest):
            raise Malformed("digest: must be sha256: and 64 hexadecimal digits in lower case")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A wish with the token that it is about, as of one epoch."""

    wish: Wish
    by: Admitted
    token: VerifiedToken
    epoch: int
    now: float
    policy: Policy
    caller: Caller

    @property
    def claims(self) -> AccessClaims:
        """What the presented token says."""
        return self.token.claims


@dataclass(frozen=True, slots=True, kw_only=True)
class Case(Asked):
    """One attempt: what is asked, with the task whose budget it is taken from."""

    task: Task
    stored: bool

    @property
    def implicit(self) -> Task | None:
        """The task to store first, if it is not."""
        return None if self.stored else self.task

    @property
    def resource(self) -> str:
        """What the action uses of a budget."""
        return ACTION + self.wish.action


@dataclass(frozen=True, slots=True)
class Reserved:
    """A reservation that was made; ``left`` is what its budget had left then, None if that is not limited."""

    state: ActionState
    left: int | None


def keyed(case: Case, action_id: str) -> tuple[Guard, ...]:
    """Return the guard that makes a request with an idempotency key count once."""
    key = case.wish.idempotency_key
    if key is None:
        return ()
    until = int(case.now) + IDEMPOTENCY_SECONDS
    return (IdempotencyFresh(scoped_key(key, case.by), fingerprint(case.wish), action_id, until),)


def scoped_key(key: str, by: Admitted) -> str:
    """Return the idempotency key under which a request is recorded: keys of different servers never meet."""
    return hashlib.sha256(f"actions\n{by.agent.id}\n{key}".encode("utf-8", "surrogatepass")).hexdigest()


def fingerprint(wish: Wish) -> str:
    """Return a digest of what is asked; how an approval goes on with it makes no difference."""
    asked = [wish.token, wish.action, wish.count, wish.scope, wish.target, wish.digest]
    return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()
