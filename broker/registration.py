"""Registering agents by their own public keys: directly by an operator, or with a one-time enrolment code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from broker.core.change import (
    AddEnrollment,
    AgentAbsent,
    Change,
    EnrollmentOpen,
    PutAgent,
    RegisteredAgent,
    RemoveAgent,
)
from broker.core.enrollment_proof import check_enrollment_proof
from broker.core.entry import Entry, Kind, entry
from broker.core.errors import Code, GuardFailed, Malformed, Refused
from broker.core.identity import MAX_NAME, is_name
from broker.core.jwk import JWKError, parse_jwk, public_jwk
from broker.core.jwt import InvalidToken
from broker.core.tally import Tally
from broker.ports import Caller, Clock, Ids, Ledger, Records

CODE_SECONDS: Final = 600
"""How long an enrolment code is good for."""

_INVALID: Final = "the enrolment code is not valid (unknown, used, or too old)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrollment:
    """A fresh enrolment code. The code is shown once and stored only as a digest."""

    name: str
    code: str = field(repr=False)
    expires_at: int


class Registration:
    """The registry of agents that authenticate with their own keys."""

    def __init__(self, *, ledger: Ledger, records: Records, clock: Clock, ids: Ids, strangers: Tally) -> None:
        """All state is in the ledger."""
        self._ledger = ledger
        self._records = records
        self._clock = clock
        self._ids = ids
        self._strangers = strangers

    async def agents(self) -> Sequence[RegisteredAgent]:
        """Return all registered agents by name."""
        return await self._records.registered_agents()

    async def register(self, name: str, jwk: Mapping[str, Any], *, by: str, caller: Caller) -> RegisteredAgent:
        """Register a new agent. Raises ``GuardFailed`` (``CONFLICT``) if the name is taken, ``Malformed`` if bad."""
        agent = _agent(name, jwk, self._clock.now(), by)
        change = Change(_registered(agent, caller), (AgentAbsent(name),), (PutAgent(agent),))
        await self._ledger.commit(change)
        return agent

    async def remove(self, name: str, *, by: str, caller: Caller) -> None:
        """Forget an agent: it can authenticate no more. Its tokens live on until they are revoked or expire."""
        if await self._records.registered_agent(name) is None:
            raise Refused(Code.NOT_FOUND, "no agent of this name is registered")
        record = entry(Kind.AGENT_REMOVED, self._clock.now(), agent=name, by=by, **caller.members())
        await self._ledger.commit(Change(record, (), (RemoveAgent(name),)))

    async def invite(self, name: str, *, by: str, caller: Caller) -> Enrollment:
        """Make a one-time code with which an agent can register its own key under ``name``."""
        _check_name(name)
        now = self._clock.now()
        code, expires_at = self._ids.secret(), int(now) + CODE_SECONDS
        write = AddEnrollment(_digest(code), name, by, expires_at)
        record = entry(Kind.ENROLLMENT_CREATED, now, agent=name, by=by, code_expires_at=expires_at, **caller.members())
        await self._ledger.commit(Change(record, (), (write,)))
        return Enrollment(name=name, code=code, expires_at=expires_at)

    async def redeem(
        self, code: str, jwk: Mapping[str, Any], *, proof: str, audience: str, caller: Caller
    ) -> RegisteredAgent:
        """Register the key of an agent that presents an enrolment code; the code is used up.

        ``proof`` is a JWT for ``audience`` (the broker's issuer) that is signed with the key, made for this code: so
        nobody can register a key that is not theirs. Raises ``Refused`` (``ENROLLMENT_INVALID``) or ``Malformed``. A
        wrong code costs one indexed read and nothing lasting (law 10). An agent that is registered already gets its key
        replaced: that is what a new code for its name is for.
        """
        now, digest = self._clock.now(), _digest(code)
        name = await self._records.enrollment(digest, now)
        if name is None:
            self._strangers.add(Code.ENROLLMENT_INVALID.value)
            raise Refused(Code.ENROLLMENT_INVALID, _INVALID)
        agent = _agent(name, jwk, now, name)
        try:
            check_enrollment_proof(proof, jwk, code=code, audience=audience, now=now)
        except InvalidToken as error:
            self._strangers.add(Code.ENROLLMENT_INVALID.value)
            raise Refused(Code.ENROLLMENT_INVALID, f"proof: {error}") from error
        guard = EnrollmentOpen(digest, name, now)
        try:
            await self._ledger.commit(Change(_registered(agent, caller), (guard,), (PutAgent(agent),)))
        except GuardFailed as failed:
            self._strangers.add(failed.code.value)
            raise Refused(Code.ENROLLMENT_INVALID, _INVALID) from failed
        return agent


def _agent(name: str, jwk: Mapping[str, Any], now: float, by: str) -> RegisteredAgent:
    _check_name(name)
    try:
        key = parse_jwk(jwk)
    except JWKError as error:
        msg = f"key: {error}"
        raise Malformed(msg) from error
    # Only what was understood is kept: a key may come with members of any kind and size.
    named = {member: value for member, value in (("kid", key.kid), ("alg", key.alg)) if value is not None}
    kept = {**public_jwk(key.key), **named}
    return RegisteredAgent(name=name, jwk=kept, key=key.thumbprint, created_at=now, created_by=by)


def _check_name(name: str) -> None:
    if not is_name(name):
        msg = f"name: 1 to {MAX_NAME} of a-z 0-9 . _ - (starting and ending with a letter or digit)"
        raise Malformed(msg)


def _digest(code: str) -> bytes:
    return hashlib.sha256(code.encode("utf-8", "surrogatepass")).digest()


def _registered(agent: RegisteredAgent, caller: Caller) -> Entry:
    return entry(
        Kind.AGENT_REGISTERED,
        agent.created_at,
        agent=agent.name,
        key=agent.key,
        by=agent.created_by,
        **caller.members(),
    )
