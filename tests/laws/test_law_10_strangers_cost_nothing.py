"""Law 10: nothing that an unauthenticated caller sends causes a durable write of its own, or memory without a bound."""

from __future__ import annotations

import pytest

from broker.admission import Presented
from broker.auditing import Auditing
from broker.core.errors import BrokerError, Refused
from broker.core.grant import Ask
from broker.issuance import TokenRequest
from broker.ports import UnverifiedAssertion
from broker.registration import Registration
from tests.support.fakes import CALLER, NOW
from tests.support.world import API, TICKETS, ProofKey, World, agent

MANY = 300


async def entries(world: World) -> int:
    """Return how many entries the ledger has."""
    return (await world.records.head()).size


async def test_strangers_leave_one_entry_in_all(world: World) -> None:
    """Forged assertions, tokens, proofs and codes by the hundred: one aggregate says how many of which."""
    registration = Registration(
        ledger=world.ledger, records=world.records, clock=world.clock, ids=world.ids, strangers=world.strangers
    )
    bound = await world.issue("alice", "operator:read", audience=API, proof=ProofKey().proof(NOW))
    stolen = Presented(scheme="dpop", token=bound.token, proof=ProofKey().proof(NOW), method="POST", url=API)
    before = await entries(world)
    for number in range(MANY):
        forged = UnverifiedAssertion(f"forged-{number}")
        for attempt in (
            world.issuance.issue(TokenRequest(assertion=forged, ask=Ask(audience=TICKETS, scopes=None)), CALLER),
            world.admission.by_assertion(forged, None, CALLER),
            registration.redeem(f"guess-{number}", {}, proof="x", audience="x", caller=CALLER),
        ):
            with pytest.raises(Refused):
                await attempt
        for presented in (Presented(scheme="bearer", token=f"x.{number}.y", proof=None, method="GET", url=API), stolen):
            with pytest.raises(BrokerError):
                await world.admission.by_token(presented)
    assert await entries(world) == before
    auditing = Auditing(ledger=world.ledger, clock=world.clock, events=world.events, strangers=world.strangers)
    await auditing.record_strangers()
    (record,) = await world.records.records(after=before - 1)
    assert record.members["counts"] == {
        "assertion_invalid": 2 * MANY,
        "enrollment_invalid": MANY,
        "proof_invalid": MANY,
        "token_invalid": MANY,
    }


async def test_replaying_somebody_elses_assertion_leaves_nothing(world: World) -> None:
    """Whoever saw an assertion go by cannot write in its agent's name."""
    request = world.request()
    assert request.assertion is not None
    await world.issuance.issue(request, CALLER)
    before = await entries(world)
    for _ in range(20):
        for attempt in (
            world.issuance.issue(request, CALLER),
            world.admission.by_assertion(request.assertion, None, CALLER),
        ):
            with pytest.raises(Refused):
                await attempt
    assert await entries(world) == before


async def test_strangers_fill_no_memory(world: World) -> None:
    """What was refused is not remembered: neither tokens, nor proofs, nor allowances, nor reasons without end."""
    for number in range(MANY):
        token = f"x.{number}.y"
        with pytest.raises(BrokerError):
            await world.admission.by_token(Presented(scheme="bearer", token=token, proof=None, method="GET", url=API))
        world.introspection.introspect(token, agent("stranger"), frozenset())
        forged = UnverifiedAssertion(f"forged-{number}")
        with pytest.raises(Refused):
            await world.issuance.issue(TokenRequest(assertion=forged, ask=Ask(audience=None, scopes=None)), CALLER)
    assert len(world.check._verified) == 0
    assert len(world.intake._recorded._seen) == 0
    assert len(world.strangers.counts) == 2


async def test_a_known_agent_cannot_fill_the_ledger_with_refusals(world: World) -> None:
    """It is no stranger, so its refusals are recorded, but not more than so many a minute."""
    for _ in range(100):
        with pytest.raises(Refused):
            await world.issue("triage", "tickets:delete")
    assert await entries(world) == 60
