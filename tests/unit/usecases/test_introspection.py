"""Introspection: who may know what about a token."""

from __future__ import annotations

import pytest

from broker.introspection import SEES_ALL
from tests.support.fakes import NOW
from tests.support.world import DOCUMENT, ISSUER, PAYMENTS, TICKETS, ProofKey, World, agent, policy

SERVER = agent("tickets-server")


@pytest.fixture
def world() -> World:
    """A broker of its own for each test."""
    return World()


async def test_a_resource_server_sees_tokens_for_its_audience(world: World) -> None:
    """The RFC 7662 answer, with everything that enforcing needs."""
    issued = await world.issue("triage", "tickets:read")
    assert world.introspection.introspect(issued.token, SERVER, frozenset()) == {
        "active": True,
        "token_type": "Bearer",
        "iss": ISSUER,
        "sub": "triage",
        "client_id": "triage",
        "aud": TICKETS,
        "scope": "tickets:read",
        "iat": int(NOW),
        "nbf": int(NOW),
        "exp": int(NOW) + 900,
        "jti": issued.claims.jti,
        "broker": {"epoch": 0, "task": issued.claims.task, "role": "triage", "tier": "read", "issuer": "registered"},
    }


async def test_a_bound_token_is_shown_as_bound(world: World) -> None:
    """The resource server learns which key must be proved."""
    key = ProofKey()
    issued = await world.issue("payer", "refunds:create", audience=PAYMENTS, proof=key.proof(NOW))
    answer = world.introspection.introspect(issued.token, agent("payer"), frozenset())
    assert answer["token_type"] == "DPoP"
    assert answer["cnf"] == {"jkt": key.thumbprint}


async def test_a_foreign_resource_server_learns_nothing(world: World) -> None:
    """Pitfall 20: a live token for another audience looks exactly like garbage."""
    key = ProofKey()
    payments = await world.issue("payer", "refunds:create", audience=PAYMENTS, proof=key.proof(NOW))
    garbage = world.introspection.introspect("garbage", SERVER, frozenset())
    assert world.introspection.introspect(payments.token, SERVER, frozenset()) == garbage == {"active": False}


async def test_other_agents_learn_nothing(world: World) -> None:
    """Neither an agent of the same role nor one whose name is nearly that of the server."""
    issued = await world.issue()
    for asker in ("other", "nobody", "tickets-server2", "Tickets-server"):
        assert world.introspection.introspect(issued.token, agent(asker), frozenset()) == {"active": False}


async def test_an_agent_sees_its_own_token(world: World) -> None:
    """It may ask whether what it holds is still good."""
    issued = await world.issue()
    assert world.introspection.introspect(issued.token, agent("triage"), frozenset())["active"]


async def test_an_operator_sees_all_tokens(world: World) -> None:
    """With the scope for it, and only with exactly that."""
    issued = await world.issue()
    asker = agent("alice")
    assert world.introspection.introspect(issued.token, asker, frozenset({SEES_ALL}))["active"]
    assert not world.introspection.introspect(issued.token, asker, frozenset({"operator", "revocations:write"}))[
        "active"
    ]


async def test_revoked_and_expired_tokens_are_inactive_at_once(world: World) -> None:
    """Also when the rule is not durable; also for those who could see them before."""
    issued = await world.issue()
    assert world.introspection.introspect(issued.token, SERVER, frozenset())["active"]
    world.clock.time = issued.claims.exp
    assert not world.introspection.introspect(issued.token, SERVER, frozenset({SEES_ALL}))["active"]
    world.clock.time = NOW
    world.memory.down = True
    await world.revoke(agent="triage")
    for asker in (SERVER, agent("triage")):
        assert world.introspection.introspect(issued.token, asker, frozenset({SEES_ALL})) == {"active": False}


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "\ud800", "eyJhbGciOiJub25lIn0.e30.", "a" * 50_000])
async def test_garbage_is_inactive(world: World, token: str) -> None:
    """Whatever is asked about, the answer is the same, and never an error."""
    assert world.introspection.introspect(token, SERVER, frozenset({SEES_ALL})) == {"active": False}


async def test_it_works_while_the_ledger_is_down(world: World) -> None:
    """It reads memory only."""
    issued = await world.issue()
    world.memory.down = world.reading.down = True
    assert world.introspection.introspect(issued.token, SERVER, frozenset())["active"]
    assert not world.reading.reads


async def test_a_server_that_the_policy_dropped_learns_nothing_any_more(world: World) -> None:
    """The policy in force counts, not the one that issued."""
    issued = await world.issue()
    audiences = {**DOCUMENT["audiences"], TICKETS: {"scopes": DOCUMENT["audiences"][TICKETS]["scopes"]}}
    world.policy = policy(DOCUMENT | {"audiences": audiences})
    assert world.introspection.introspect(issued.token, SERVER, frozenset()) == {"active": False}


async def test_an_answer_is_the_callers_own(world: World) -> None:
    """Changing one answer does not change the next."""
    world.introspection.introspect("garbage", SERVER, frozenset())["active"] = True
    assert world.introspection.introspect("garbage", SERVER, frozenset()) == {"active": False}
