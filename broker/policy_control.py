"""The policy in force: loaded as a whole, recorded in the ledger, replaced atomically; what it narrows is revoked.

The order is the design: first the new policy is in force, then the rules are made. A token that is still being issued
under the old one has a lower epoch than the rule, or is decided again because of it (law 2). So nothing slips through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from broker.core.change import Change
from broker.core.entry import Kind, entry
from broker.core.errors import BrokerError, Code
from broker.core.narrowing import Cover, covers, narrowed
from broker.core.policy import Policy
from broker.core.policy.model import REVOKE
from broker.core.revoking import MAX_REASON, Order
from broker.core.rules import Rule
from broker.core.selector import Selector, parse_selector
from broker.ports import Caller, Clock, Events, Hits, Ledger, Record, Records

STARTED: Final = "broker"
"""Who loads the policy that a broker starts with, in the record."""

PROMISED_SECONDS: Final = 24 * 3600
"""How long the rules of a reload are worth making: no token that was issued before it lives longer."""

_MOST_BYTES: Final = 24 * 1024
_REASON: Final = "policy narrowed: "


class Made(Protocol):
    """A rule that was made; see ``revocation.Outcome``."""

    @property
    def rule(self) -> Rule:
        """The rule."""
        ...

    @property
    def durable(self) -> bool:
        """Whether it is written; if not, it is in force, and is written later."""
        ...


Revoke = Callable[[Order, Caller | None], Awaitable[Made]]
"""Makes a rule; see ``revocation.Revocation.revoke``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What one selector covers of what was granted under the policy before.

    ``hits`` is None if it could not be counted. Of a preview, and of a policy that keeps what is alive, there is no
    ``rule``. ``durable`` False says that the rule is in force, but not written yet; ``failure`` why there is none.
    """

    cover: Cover
    hits: Hits | None
    rule: Rule | None = None
    durable: bool | None = None
    failure: BrokerError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """A policy that was put in force (or would be: ``preview``), and what it narrowed."""

    policy: Policy
    effects: tuple[Effect, ...]
    preview: bool = False


class PolicyControl:
    """Holds the policy in force. A policy that cannot be loaded or recorded changes nothing."""

    def __init__(
        self,
        policy: Policy,
        load: Callable[[], Policy],
        *,
        ledger: Ledger,
        records: Records,
        clock: Clock,
        revoke: Revoke,
        events: Events,
    ) -> None:
        """``load`` reads the policy file anew; it raises ``BrokerError`` (``POLICY_INVALID``) with every problem."""
        self._policy = policy
        self._load = load
        self._ledger = ledger
        self._records = records
        self._clock = clock
        self._revoke = revoke
        self._events = events
        self._turn = asyncio.Lock()

    def current(self) -> Policy:
        """Return the policy in force."""
        return self._policy

    async def preview(self) -> Reload:
        """Say what a reload would do now. Changes nothing. Raises what ``load`` raises."""
        policy = self._load()
        chosen = covers(narrowed(self._policy, policy))
        return Reload(policy=policy, effects=await self._counted(chosen), preview=True)

    async def reload(self, *, by: str, caller: Caller | None = None) -> Reload:
        """Load the policy file and put it in force once the ledger has recorded it; then see to what it narrows.

        Raises what ``load`` raises, or ``Unavailable``; the policy in force stays then. Reloads happen one after the
        other, and to the end even if the caller gives up: the last one that the ledger records is the one in force.
        That a rule cannot be made is told in the answer: the policy is in force all the same.
        """
        return await asyncio.shield(asyncio.ensure_future(self._replace(by, caller)))

    async def start(self) -> None:
        """Record the policy that the broker starts with, and make the rules that a crash left unmade, if any.

        What the file narrowed while no broker was running is not known: the policy before it is not kept.
        """
        await self._keep_promise()
        await self._ledger.commit(Change(entry(Kind.POLICY_LOADED, self._clock.now(), **_told(self._policy, STARTED))))

    def follow(self, digest: str) -> None:
        """Take the policy that another process recorded from the file, before anything else is decided here.

        That process sees to what it narrows. If the file does not hold that policy, the one in force stays, and the log
        says so.
        """
        if digest == self._policy.digest:
            return
        try:
            policy = self._load()
        except BrokerError as error:
            self._events.error("policy.not_followed", digest=digest, code=error.code.value)
            return
        if policy.digest == digest:
            self._policy = policy
            self._events.info("policy.followed", digest=digest)
        else:
            self._events.error("policy.not_followed", digest=digest, code=Code.POLICY_INVALID.value)

    async def _replace(self, by: str, caller: Caller | None) -> Reload:
        async with self._turn:
            policy = self._load()
            chosen = covers(narrowed(self._policy, policy))
            now = self._clock.now()
            members = _told(policy, by) | _promise(policy, chosen) | ({} if caller is None else caller.members())
            made = entry(Kind.POLICY_LOADED, now, **members)
            await self._ledger.commit(Change(made))
            self._policy = policy
            if policy.on_narrowing != REVOKE:
                return Reload(policy=policy, effects=await self._counted(chosen))
            key = _key(policy.digest, made.columns.at)
            effects = [await self._enforced(cover, by, f"{key}/{place}", caller) for place, cover in enumerate(chosen)]
            return Reload(policy=policy, effects=tuple(effects))

    async def _enforced(self, cover: Cover, by: str, key: str, caller: Caller | None) -> Effect:
        """Make the rule of one selector. Whatever fails, those after it are made as well."""
        if cover.selector is None:
            return Effect(cover=cover, hits=None)
        order = Order(selector=cover.selector, reason=reason_of(cover), by=by, idempotency_key=key)
        try:
            made = await self._revoke(order, caller)
        except BrokerError as error:
            return Effect(cover=cover, hits=None, failure=error)
        hits = await self._hits(cover.selector, made.rule) if made.durable else None
        return Effect(cover=cover, hits=hits, rule=made.rule, durable=made.durable)

    async def _counted(self, chosen: Sequence[Cover]) -> tuple[Effect, ...]:
        """Count what each selector covers that none before it does, as if rules were made in this order."""
        now = self._clock.now()
        effects: list[Effect] = []
        before: list[Selector] = []
        for cover in chosen:
            hits = None
            if cover.selector is not None:
                with suppress(BrokerError):  # it is told as not counted
                    hits = await self._records.hits(cover.selector, now, apart_from=before)
                before.append(cover.selector)
            effects.append(Effect(cover=cover, hits=hits))
        return tuple(effects)

    async def _hits(self, selector: Selector, rule: Rule) -> Hits | None:
        try:
            return await self._records.hits(selector, rule.at, before=rule.number)
        except BrokerError:
            return None

    async def _keep_promise(self) -> None:
        """Make the rules that the last recorded policy was to bring, unless they were made: then nothing happens."""
        last = await self._records.latest(Kind.POLICY_LOADED)
        if last is None or self._clock.now() - last.members["at"] / 1000 > PROMISED_SECONDS:
            return
        for order in _promised(last):
            await self._revoke(order, None)


def reason_of(cover: Cover) -> str:
    """Return the reason of the rule for a selector."""
    text = _REASON + "; ".join(cover.reasons)
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"


def _told(policy: Policy, by: str) -> dict[str, Any]:
    """Return what is recorded of a policy; ``roles`` tell later since when each role has been as it is."""
    roles = {role.name: role.digest for role in policy.roles.values()}
    return {"by": by, "policy": policy.digest, "roles": roles if _fits(roles) else None}


def _promise(policy: Policy, chosen: Sequence[Cover]) -> dict[str, Any]:
    """Return what is recorded of what a policy narrows: the rules that are made next, should the broker be stopped."""
    narrows = [
        {"selector": cover.selector.to_dict(), "reason": reason_of(cover)}
        for cover in chosen
        if cover.selector is not None
    ]
    if not narrows:
        return {}
    return {"on_narrowing": policy.on_narrowing, "narrows": narrows if _fits(narrows) else None}


def _promised(record: Record) -> list[Order]:
    members = record.members
    if members.get("on_narrowing") != REVOKE:
        return []
    key = _key(members["policy"], members["at"])
    return [
        Order(
            selector=parse_selector(each["selector"]),
            reason=each["reason"],
            by=members["by"],
            idempotency_key=f"{key}/{place}",
        )
        for place, each in enumerate(members.get("narrows", []))
    ]


def _key(digest: str, at: int) -> str:
    return f"policy.loaded {digest} {at}"


def _fits(value: object) -> bool:
    return len(msgspec.json.encode(value)) <= _MOST_BYTES
