"""Admitting callers: by token, by proof, by assertion."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.admission import Presented
from broker.core.claims import AccessClaims
from broker.core.entry import Kind
from broker.core.errors import BrokerError, Code, Refused, Unavailable
from broker.core.policy.matching import AgentMember, Exactly, IssuerMember
from broker.core.used_proofs import ProofUse, UsedProofs
from broker.ports import Admitted, UnverifiedAssertion
from tests.support.fakes import CALLER, NOW, Fault, cancelled_after
from tests.support.world import API, DOCUMENT, ISSUER, ProofKey, World, policy

URL = f"{API}/revocations"
OTHER_KEY = ProofKey()


@pytest.fixture
def world() -> World:
    """A broker of its own for each test."""
    return World()


async def api_token(world: World, key: ProofKey | None = None) -> str:
    """Return a token for the broker's own API, bound to ``key`` if there is one."""
    proof = None if key is None else key.proof(NOW, jti="issuing")
    issued = await world.issue("alice", "operator:read", "revocations:write", audience=API, proof=proof)
    return issued.token


def presented(token: str, proof: str | None = None, scheme: str = "bearer") -> Presented:
    """Return a token as it comes with ``POST /v1/revocations``."""
    return Presented(scheme=scheme, token=token, proof=proof, method="POST", url=URL)


async def test_a_bearer_of_a_good_token_is_admitted(world: World) -> None:
    """Who it is, and which scopes it has, come from the token alone."""
    admitted = await world.admission.by_token(presented(await api_token(world)))
    assert (admitted.agent.id, admitted.agent.issuer) == ("alice", "registered")
    assert admitted.scopes == {"operator:read", "revocations:write"}
    admitted.require("operator:read")


async def test_no_policy_line_matches_a_federated_agent_by_what_its_token_does_not_say(world: World) -> None:
    """The id ``ci/builder`` is not the subject ``ci/builder``, whose own id would be another one."""
    claims = AccessClaims(
        iss=ISSUER, sub="ci/builder", aud=API, client_id="ci/builder", iat=int(NOW), exp=int(NOW) + 60, jti="tok_1",
        scopes=("operator:read",), epoch=0, task="task_1", role="r", tier="operator", issuer="ci",
    )  # fmt: skip
    who = (await world.admission.by_token(presented(world.signer.mint(claims).token))).agent
    assert AgentMember("ci/builder").mismatch(who) is None
    assert IssuerMember("ci").mismatch(who) is None
    assert IssuerMember("ci", subject=Exactly("ci/builder")).mismatch(who) is not None
    assert IssuerMember("ci", claims=(("sub", Exactly("builder")),)).mismatch(who) is not None


async def test_each_scope_must_be_there(world: World) -> None:
    """A route's scope is exact: no prefix, no other scope, and nobody without a token."""
    admitted = await world.admission.by_token(presented(await api_token(world)))
    for scope in ("keys:write", "operator", "operator:read revocations:write", ""):
        with pytest.raises(BrokerError) as refused:
            admitted.require(scope)
        assert refused.value.code is Code.INSUFFICIENT_SCOPE
    with pytest.raises(BrokerError):
        Admitted(agent=admitted.agent).require("operator:read")


async def test_a_token_for_another_resource_is_refused(world: World) -> None:
    """An agent's token for a resource server is no key to the broker."""
    issued = await world.issue()
    with pytest.raises(BrokerError) as refused:
        await world.admission.by_token(presented(issued.token))
    assert refused.value.code is Code.TOKEN_AUDIENCE


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "\ud800", "é" * 100, "." * 100, "a" * 20_000])
async def test_garbage_is_refused(world: World, token: str) -> None:
    """Whatever is sent as a token gets a clear answer, is counted, and leaves nothing."""
    with pytest.raises(BrokerError) as refused:
        await world.admission.by_token(presented(token))
    assert refused.value.code is Code.TOKEN_INVALID
    assert world.strangers.take() == {"token_invalid": 1}
    assert world.memory.attempts == 0


async def test_an_expired_token_is_refused_even_if_it_was_seen_before(world: World) -> None:
    """The signature is remembered; the time is looked at every time, to the second."""
    token = await api_token(world)
    await world.admission.by_token(presented(token))
    world.clock.time = int(NOW) + 900 - 0.001
    await world.admission.by_token(presented(token))
    world.clock.time = int(NOW) + 900
    with pytest.raises(BrokerError) as refused:
        await world.admission.by_token(presented(token))
    assert refused.value.code is Code.TOKEN_EXPIRED


async def test_a_revoked_token_is_refused_even_if_it_was_seen_before(world: World) -> None:
    """Rules are looked at every time, also those that are not durable."""
    token = await api_token(world)
    await world.admission.by_token(presented(token))
    world.memory.down = True
    await world.revoke(agent="alice")
    with pytest.raises(BrokerError) as refused:
        await world.admission.by_token(presented(token))
    assert refused.value.code is Code.TOKEN_REVOKED


async def test_a_token_of_a_revoked_key_is_refused_even_if_it_was_seen_before(world: World) -> None:
    """Emergency rotation: what the old key signed is worth nothing at once."""
    token = await api_token(world)
    await world.admission.by_token(presented(token))
    world.ring.replace([world.ring.generate("ES256", "token", NOW, NOW)])
    with pytest.raises(BrokerError) as refused:
        await world.admission.by_token(presented(token))
    assert refused.value.code is Code.TOKEN_INVALID


# --- DPoP -----------------------------------------------------------------------------------------------------------


async def test_a_bound_token_with_its_proof_is_admitted(world: World) -> None:
    """The holder of the key, with a proof for this token, method and URL."""
    key = ProofKey()
    token = await api_token(world, key)
    proof = key.proof(NOW, url=URL, token=token)
    assert (await world.admission.by_token(presented(token, proof, "dpop"))).agent.id == "alice"


@pytest.mark.parametrize(
    ("bound", "scheme", "proved", "code"),
    [
        (True, "bearer", False, Code.TOKEN_INVALID),
        (True, "bearer", True, Code.TOKEN_INVALID),
        (True, "dpop", False, Code.PROOF_REQUIRED),
        (False, "dpop", False, Code.TOKEN_INVALID),
        (False, "dpop", True, Code.TOKEN_INVALID),
        (False, "basic", False, Code.TOKEN_INVALID),
        (True, "basic", True, Code.TOKEN_INVALID),
        (False, "", False, Code.TOKEN_INVALID),
        (False, "Bearer", False, Code.TOKEN_INVALID),
    ],
)
async def test_scheme_binding_and_proof_must_fit(
    world: World, bound: bool, scheme: str, proved: bool, code: Code
) -> None:
    """A stolen bound token is useless without the key, and no token comes in by a scheme that is not its own."""
    key = ProofKey()
    token = await api_token(world, key if bound else None)
    proof = key.proof(NOW, url=URL, token=token) if proved else None
    with pytest.raises(BrokerError) as refused:
        await world.admission.by_token(presented(token, proof, scheme))
    assert refused.value.code is code


async def test_proofs_for_something_else_are_refused(world: World) -> None:
    """Another key, method, URL, token or time, or no token at all: each is another proof."""
    key = ProofKey()
    token, other_token = await api_token(world, key), (await world.issue()).token
    bad = [
        OTHER_KEY.proof(NOW, url=URL, token=token, jti="a"),
        key.proof(NOW, url=URL, token=token, method="GET", jti="b"),
        key.proof(NOW, url=f"{API}/blocks", token=token, jti="c"),
        key.proof(NOW, url=URL.replace(ISSUER, "https://evil.example"), token=token, jti="d"),
        key.proof(NOW, url=URL, token=other_token, jti="e"),
        key.proof(NOW, url=URL, jti="f"),
        key.proof(NOW - 61, url=URL, token=token, jti="g"),
        key.proof(NOW + 62, url=URL, token=token, jti="h"),
        "garbage",
        "",
    ]
    for proof in bad:
        with pytest.raises(BrokerError) as refused:
            await world.admission.by_token(presented(token, proof, "dpop"))
        assert refused.value.code is Code.PROOF_INVALID
    await world.admission.by_token(presented(token, key.proof(NOW, url=URL, token=token, jti="i"), "dpop"))


async def test_a_proof_is_good_once(world: World) -> None:
    """The same proof again is a replay; another one is not."""
    key = ProofKey()
    token = await api_token(world, key)
    proof = key.proof(NOW, url=URL, token=token)
    await world.admission.by_token(presented(token, proof, "dpop"))
    with pytest.raises(BrokerError) as refused:
        await world.admission.by_token(presented(token, proof, "dpop"))
    assert refused.value.code is Code.PROOF_REPLAYED
    await world.admission.by_token(presented(token, key.proof(NOW, url=URL, token=token, jti="2"), "dpop"))


async def test_a_proof_is_good_once_across_a_restart(world: World) -> None:
    """A proof that went by before the process was restarted opens nothing afterwards; a new one does."""
    key = ProofKey()
    token = await api_token(world, key)
    proof = key.proof(NOW, url=URL, token=token)
    await world.admission.by_token(presented(token, proof, "dpop"))
    world.clock.time += 2
    world.compose(world.memory, world.reading)
    with pytest.raises(BrokerError) as refused:
        await world.admission.by_token(presented(token, proof, "dpop"))
    assert refused.value.code is Code.PROOF_REPLAYED
    await world.admission.by_token(presented(token, key.proof(NOW + 2, url=URL, token=token), "dpop"))


class Alone:
    """A memory of used proofs that cannot be asked what others have used."""

    async def use(self, agent: str, key: bytes, expires_at: int, now: float) -> ProofUse:
        return ProofUse.UNCERTAIN


async def test_a_proof_of_which_nothing_is_known_serves_to_revoke_only(world: World) -> None:
    """No answer is better than accepting a replay; but who revokes must get in whatever fails (law 1)."""
    key = ProofKey()
    token = await api_token(world, key)
    world.compose(world.memory, world.reading, proofs=Alone())
    shown = presented(token, key.proof(NOW, url=URL, token=token), "dpop")
    with pytest.raises(Unavailable) as refused:
        await world.admission.by_token(shown)
    assert (refused.value.code, refused.value.retry_after) == (Code.LEDGER_UNAVAILABLE, 1)
    assert (await world.admission.by_token(replace(shown, revokes=True))).agent.id == "alice"


async def test_no_agent_can_lock_the_others_out_with_proofs(world: World) -> None:
    """Room for used proofs is bounded; one agent may use a part of it in a minute, and is told when to come back."""
    world.compose(world.memory, world.reading, proofs=UsedProofs(8, since=NOW))
    roles = DOCUMENT["roles"]
    responders = roles["responders"] | {"members": [{"agent": "alice"}, {"agent": "bob"}]}
    world.policy = policy(DOCUMENT | {"roles": roles | {"responders": responders}})
    greedy, other = ProofKey(), ProofKey()
    token = await api_token(world, greedy)
    for number in range(2):
        proof = greedy.proof(NOW, url=URL, token=token, jti=str(number))
        await world.admission.by_token(presented(token, proof, "dpop"))
    with pytest.raises(BrokerError) as refused:
        await world.admission.by_token(presented(token, greedy.proof(NOW, url=URL, token=token, jti="more"), "dpop"))
    assert (refused.value.code, refused.value.retry_after) == (Code.RATE_LIMITED, 60)
    bob = await world.issue("bob", "operator:read", audience=API, proof=other.proof(NOW, jti="issuing"))
    proof = other.proof(NOW, url=URL, token=bob.token)
    assert (await world.admission.by_token(presented(bob.token, proof, "dpop"))).agent.id == "bob"


async def test_nothing_of_a_credential_is_in_a_repr(world: World) -> None:
    """Law 8: what was presented cannot be logged by accident."""
    key = ProofKey()
    token = await api_token(world, key)
    shown = repr(presented(token, key.proof(NOW, url=URL, token=token), "dpop"))
    assert "eyJ" not in shown


# --- assertions -----------------------------------------------------------------------------------------------------


async def test_an_assertion_is_used_up_and_recorded(world: World) -> None:
    """It admits its agent, without scopes, once."""
    assertion = world.assertion()
    admitted = await world.admission.by_assertion(assertion, None, CALLER)
    assert (admitted.agent.id, admitted.scopes) == ("triage", frozenset())
    (members,) = world.memory.members(Kind.ASSERTION_USED)
    assert (members["agent"], members["method"], members["request"]) == ("triage", "private_key_jwt", "req_1")
    with pytest.raises(Refused) as refused:
        await world.admission.by_assertion(assertion, None, CALLER)
    assert refused.value.code is Code.ASSERTION_REPLAYED
    assert world.strangers.take() == {"assertion_replayed": 1}


async def test_an_assertion_is_used_up_for_every_endpoint(world: World) -> None:
    """What authenticated a token request does not authenticate an introspection as well."""
    request = world.request()
    assert request.assertion is not None
    await world.issuance.issue(request, CALLER)
    with pytest.raises(Refused):
        await world.admission.by_assertion(request.assertion, None, CALLER)


async def test_a_reusable_platform_token_writes_nothing(world: World) -> None:
    """There is nothing to use up, so nothing to record."""
    assertion = world.assertion(single_use=False)
    for _ in range(2):
        await world.admission.by_assertion(assertion, "triage", CALLER)
    assert world.memory.attempts == 0


async def test_another_client_id_is_refused(world: World) -> None:
    """A ``client_id`` that the assertion does not prove; the assertion stays unused."""
    assertion = world.assertion()
    with pytest.raises(Refused) as refused:
        await world.admission.by_assertion(assertion, "other", CALLER)
    assert refused.value.code is Code.CLIENT_AUTHENTICATION_FAILED
    await world.admission.by_assertion(assertion, "triage", CALLER)


async def test_a_stranger_leaves_nothing(world: World) -> None:
    """Law 10: a forged assertion is counted; no change is even tried."""
    with pytest.raises(Refused):
        await world.admission.by_assertion(UnverifiedAssertion("forged"), None, CALLER)
    assert world.memory.attempts == 0
    assert world.strangers.take() == {"assertion_invalid": 1}


@pytest.mark.parametrize("fault", list(Fault))
async def test_nobody_is_admitted_when_single_use_cannot_be_recorded(world: World, fault: Fault) -> None:
    """Else the same assertion could be used again after a restart. A ledger that fails is no stranger's doing."""
    world.memory.faults.append(fault)
    with pytest.raises(Unavailable):
        await world.admission.by_assertion(world.assertion(), None, CALLER)
    assert world.strangers.take() == {}


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancelled_admission_never_admits_unrecorded(world: World, turns: int) -> None:
    """Cancelled at any await: admitted only if it is recorded."""
    assertion = world.assertion()
    admitted = await cancelled_after(world.admission.by_assertion(assertion, None, CALLER), turns)
    if admitted is not None:
        assert world.memory.kinds() == ["assertion.used"]


async def test_the_url_of_the_request_is_what_the_proof_is_held_against(world: World) -> None:
    """Not what the proof says of itself, and not where the token was issued for."""
    key = ProofKey()
    token = await api_token(world, key)
    proof = key.proof(NOW, url=URL, token=token)
    with pytest.raises(BrokerError) as refused:
        await world.admission.by_token(replace(presented(token, proof, "dpop"), url=f"{API}/keys/rotate"))
    assert refused.value.code is Code.PROOF_INVALID
