"""Registering agents by their keys."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker.core.change import RegisteredAgent
from broker.core.enrollment_proof import TYPE, code_id
from broker.core.entry import Kind
from broker.core.errors import Code, GuardFailed, Malformed, Refused, Unavailable
from broker.core.jwk import public_jwk, thumbprint
from broker.core.tally import Tally
from broker.ports import Revocations
from broker.registration import CODE_SECONDS, Enrollment, Registration
from tests.support.fakes import CALLER, CountingIds, FakeClock, Fault, MemoryLedger, MemoryRecords
from tests.support.world import ISSUER, durable_world


class AgentKey:
    """An agent's own key."""

    def __init__(self) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        self.jwk: dict[str, Any] = dict(public_jwk(self._private.public_key()))
        self.thumbprint = thumbprint(self.jwk)

    def proof(self, code: str, now: float, **claims: object) -> str:
        """Prove that this key's holder redeems ``code``."""
        payload = {"aud": ISSUER, "iat": int(now), "exp": int(now) + 60, "jti": code_id(code)} | claims
        return jwt.encode(payload, self._private, algorithm="ES256", headers={"typ": TYPE})


class Registry:
    """The use case over a ledger in memory."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.strangers = Tally()
        self.ledger = MemoryLedger(Revocations())
        self.records = MemoryRecords(self.ledger)
        self.use_case = Registration(
            ledger=self.ledger,
            records=self.records,
            clock=self.clock,
            ids=CountingIds(),
            strangers=self.strangers,
        )

    async def register(self, name: str, jwk: dict[str, Any]) -> RegisteredAgent:
        """Register as an operator."""
        return await self.use_case.register(name, jwk, by="alice", caller=CALLER)

    async def invite(self, name: str = "triage") -> Enrollment:
        """Make a code as an operator."""
        return await self.use_case.invite(name, by="alice", caller=CALLER)

    async def redeem(self, code: str, key: AgentKey, proof: str | None = None) -> RegisteredAgent:
        """Redeem a code as the agent."""
        proof = key.proof(code, self.clock.time) if proof is None else proof
        return await self.use_case.redeem(code, key.jwk, proof=proof, audience=ISSUER, caller=CALLER)


@pytest.fixture
def registry() -> Registry:
    """A registry of its own for each test."""
    return Registry()


KEY = AgentKey()


async def test_an_operator_registers_an_agent(registry: Registry) -> None:
    """The agent is there with its key, and the ledger says who registered it."""
    made = await registry.register("triage", KEY.jwk)
    assert list(await registry.use_case.agents()) == [made]
    assert (made.key, made.created_by, made.created_at) == (KEY.thumbprint, "alice", registry.clock.time)
    (members,) = registry.ledger.members(Kind.AGENT_REGISTERED)
    assert (members["agent"], members["key"], members["by"]) == ("triage", KEY.thumbprint, "alice")


async def test_a_name_is_taken_once(registry: Registry) -> None:
    """Registering does not replace a key; two at once make one."""
    answers = await asyncio.gather(
        registry.register("triage", KEY.jwk), registry.register("triage", AgentKey().jwk), return_exceptions=True
    )
    failed = [answer for answer in answers if isinstance(answer, GuardFailed)]
    assert [error.code for error in failed] == [Code.CONFLICT]
    assert len(registry.ledger.members(Kind.AGENT_REGISTERED)) == 1


@pytest.mark.parametrize("name", ["", "A", "a/b", "a b", "-a", "a\n", "prod/support/triage", "x" * 129, "\u0430lice"])
async def test_bad_names_are_refused(registry: Registry, name: str) -> None:
    """No name that could pass for a federated identity, or for another name."""
    for attempt in (registry.register(name, KEY.jwk), registry.invite(name)):
        with pytest.raises(Malformed):
            await attempt
    assert registry.ledger.attempts == 0


@pytest.mark.parametrize(
    "jwk",
    [
        {},
        {"kty": "oct", "k": "c2VjcmV0"},
        {**KEY.jwk, "d": "AAAA"},
        {**KEY.jwk, "x": "AAAA"},
        {**KEY.jwk, "use": "enc"},
        {"kty": "EC", "crv": "secp256k1", "x": KEY.jwk["x"], "y": KEY.jwk["y"]},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
    ],
)
async def test_bad_keys_are_refused(registry: Registry, jwk: dict[str, Any]) -> None:
    """Private, shared, weak, or not a key at all: refused, and not repeated in the text."""
    with pytest.raises(Malformed) as refused:
        await registry.register("triage", jwk)
    assert refused.value.public.startswith("key: ")
    assert "AAAA" not in refused.value.public
    assert registry.ledger.attempts == 0


async def test_only_the_key_is_kept(registry: Registry) -> None:
    """A key may come with members of any kind and size; they are not stored."""
    made = await registry.register(
        "triage", KEY.jwk | {"kid": "mine", "alg": "ES256", "x5c": ["A" * 50_000], "note": {}}
    )
    assert made.jwk == KEY.jwk | {"kid": "mine", "alg": "ES256"}


async def test_a_removed_agent_is_gone(registry: Registry) -> None:
    """It is not listed, its name is free, and the ledger says who removed it; removing nobody is an error."""
    await registry.register("triage", KEY.jwk)
    await registry.use_case.remove("triage", by="bob", caller=CALLER)
    assert list(await registry.use_case.agents()) == []
    assert registry.ledger.members(Kind.AGENT_REMOVED)[0]["by"] == "bob"
    with pytest.raises(Refused) as refused:
        await registry.use_case.remove("triage", by="bob", caller=CALLER)
    assert refused.value.code is Code.NOT_FOUND
    await registry.register("triage", AgentKey().jwk)


async def test_a_removed_agent_cannot_come_back_by_an_old_code(registry: Registry) -> None:
    """A code that was made before the removal is worth nothing; one that is made after it is good."""
    await registry.register("triage", KEY.jwk)
    old, other = await registry.invite(), await registry.invite("other")
    await registry.use_case.remove("triage", by="bob", caller=CALLER)
    with pytest.raises(Refused) as refused:
        await registry.redeem(old.code, KEY)
    assert refused.value.code is Code.ENROLLMENT_INVALID
    await registry.redeem(other.code, KEY)
    await registry.redeem((await registry.invite()).code, KEY)


async def test_a_code_registers_the_key_of_whoever_redeems_it(registry: Registry) -> None:
    """The agent gets the name that the code is for."""
    enrollment = await registry.invite()
    assert enrollment.expires_at == int(registry.clock.time) + CODE_SECONDS
    made = await registry.redeem(enrollment.code, KEY)
    assert (made.name, made.key, made.created_by) == ("triage", KEY.thumbprint, "triage")


async def test_a_code_is_stored_and_shown_nowhere(registry: Registry) -> None:
    """Only its digest is kept; the ledger has not even that."""
    enrollment = await registry.invite()
    (stored,) = registry.ledger.enrollments
    assert stored == hashlib.sha256(enrollment.code.encode()).digest()
    assert enrollment.code not in repr(enrollment)
    assert enrollment.code.encode() not in b"".join(made.body for made in registry.ledger.entries)


async def test_a_code_is_good_once(registry: Registry) -> None:
    """A second time it is refused like one that never was; two at once register one key."""
    code = (await registry.invite()).code
    answers = await asyncio.gather(
        registry.redeem(code, KEY), registry.redeem(code, AgentKey()), return_exceptions=True
    )
    assert sum(isinstance(answer, RegisteredAgent) for answer in answers) == 1
    for again in (code, "never-was", "", "\ud800"):
        with pytest.raises(Refused) as refused:
            await registry.redeem(again, KEY)
        assert refused.value.code is Code.ENROLLMENT_INVALID
    assert len(registry.ledger.members(Kind.AGENT_REGISTERED)) == 1


async def test_a_code_is_good_to_its_last_second(registry: Registry) -> None:
    """Just before its end it can be redeemed."""
    enrollment = await registry.invite()
    registry.clock.time = enrollment.expires_at - 0.001
    await registry.redeem(enrollment.code, KEY)


@pytest.mark.parametrize("later", [0, 1, 10**6])
async def test_a_code_expires(registry: Registry, later: float) -> None:
    """At its time, not after it."""
    enrollment = await registry.invite()
    registry.clock.time = enrollment.expires_at + later
    with pytest.raises(Refused) as refused:
        await registry.redeem(enrollment.code, KEY)
    assert refused.value.code is Code.ENROLLMENT_INVALID
    assert registry.ledger.kinds() == ["enrollment.created"]


async def test_a_new_code_for_a_known_name_replaces_its_key(registry: Registry) -> None:
    """That is how an agent that lost its key gets a new one."""
    await registry.register("triage", KEY.jwk)
    new = AgentKey()
    await registry.redeem((await registry.invite()).code, new)
    (known,) = await registry.use_case.agents()
    assert known.key == new.thumbprint


async def test_wrong_codes_leave_nothing(registry: Registry) -> None:
    """Law 10: each costs one read; they are counted, and nothing is written."""
    for number in range(20):
        with pytest.raises(Refused):
            await registry.redeem(f"guess-{number}", KEY)
    assert registry.ledger.attempts == 0
    assert registry.records.reads == {"enrollment": 20}
    assert registry.strangers.take() == {"enrollment_invalid": 20}


async def test_a_key_is_registered_by_who_holds_it_only(registry: Registry) -> None:
    """A proof by another key, for another code, broker or time does not register; the code stays good."""
    code, other = (await registry.invite()).code, AgentKey()
    now = registry.clock.time
    bad = [
        other.proof(code, now),
        KEY.proof("another-code", now),
        KEY.proof(code, now, aud="https://evil.example"),
        KEY.proof(code, now, aud=[ISSUER, "https://evil.example"]),
        KEY.proof(code, now - 3600),
        KEY.proof(code, now, exp=int(now) + 3600),
        "garbage",
        "",
    ]
    for proof in bad:
        with pytest.raises(Refused) as refused:
            await registry.redeem(code, KEY, proof)
        assert refused.value.code is Code.ENROLLMENT_INVALID
    assert registry.ledger.kinds() == ["enrollment.created"]
    await registry.redeem(code, KEY)


async def test_a_bad_key_does_not_use_the_code_up(registry: Registry) -> None:
    """A mistake can be repaired without a new code."""
    code = (await registry.invite()).code
    with pytest.raises(Malformed):
        await registry.use_case.redeem(code, {"kty": "oct", "k": "AA"}, proof="x", audience=ISSUER, caller=CALLER)
    await registry.redeem(code, KEY)


@pytest.mark.parametrize("fault", list(Fault))
async def test_nothing_is_promised_when_the_ledger_fails(registry: Registry, fault: Fault) -> None:
    """Neither a code nor a registration is answered that is not durable."""
    registry.ledger.faults.append(fault)
    with pytest.raises(Unavailable):
        await registry.invite()
    code = (await registry.invite()).code
    registry.ledger.faults.append(fault)
    with pytest.raises(Unavailable):
        await registry.redeem(code, KEY)
    if fault is Fault.APPLIED:
        with pytest.raises(Refused) as refused:
            await registry.redeem(code, KEY)
        assert refused.value.code is Code.ENROLLMENT_INVALID
    else:
        await registry.redeem(code, KEY)
    assert [known.key for known in await registry.use_case.agents()] == [KEY.thumbprint]


async def test_the_real_ledger_agrees_about_codes_and_removal(tmp_path: Path) -> None:
    """Registering, inviting, removing and redeeming, over a file: codes are good once, and end with the removal."""
    async with durable_world(tmp_path / "ledger.db") as world:
        registry = Registry()
        registry.clock = world.clock
        registry.use_case = Registration(
            ledger=world.ledger, records=world.records, clock=world.clock, ids=world.ids, strangers=world.strangers
        )
        await registry.register("triage", KEY.jwk)
        codes = [(await registry.invite(name)).code for name in ("triage", "other", "other")]
        await registry.use_case.remove("triage", by="bob", caller=CALLER)
        await registry.redeem(codes[1], KEY)
        for code in (codes[0], codes[1]):
            with pytest.raises(Refused) as refused:
                await registry.redeem(code, KEY)
            assert refused.value.code is Code.ENROLLMENT_INVALID
        new = AgentKey()
        await registry.redeem(codes[2], new)
        assert [(known.name, known.key) for known in await registry.use_case.agents()] == [("other", new.thumbprint)]
