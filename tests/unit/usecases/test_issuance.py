"""Issuing: what is released, what is recorded, and in which order."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import jwt
import pytest

from broker.core.change import AddRule, Change, EpochIs
from broker.core.claims import AccessClaims
from broker.core.entry import Kind, entry
from broker.core.errors import Code, Refused, Unavailable
from broker.core.grant import Ask
from broker.core.identity import Agent
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.issuance import MAX_ATTEMPTS, RECORDED_REFUSALS, Issued, TokenRequest
from broker.ports import Minted, UnverifiedAssertion
from broker.revocation import BlockFor
from broker.signing.access_token import AccessTokenSigner
from tests.support.fakes import CALLER, NOW, Fault, cancelled_after, ledger_down
from tests.support.world import DOCUMENT, ISSUER, PAYMENTS, TICKETS, TOKEN_ENDPOINT, ProofKey, World, policy


@pytest.fixture
def world() -> World:
    """A broker of its own for each test."""
    return World()


def commit_rule(world: World, number: int, selector: Selector | None = None) -> None:
    """Commit a rule as another request does."""
    rule = Rule(f"rule_other_{number}", selector or Selector(agent="somebody"), number, NOW, "op", "r")
    record = entry(Kind.RULE_ADDED, NOW, ref=rule.id, number=number, selector=rule.selector.to_dict())
    world.memory.apply(Change(record, (EpochIs(number - 1),), (AddRule(rule),)))


async def test_a_token_says_what_was_granted(world: World) -> None:
    """The token carries the agent, the audience, the scopes, the role, the tier and the epoch it was decided at."""
    issued = await world.issue("triage", "tickets:comment", "tickets:read")
    claims = world.check.check(issued.token, NOW, TICKETS).claims
    assert claims == issued.claims
    assert (claims.iss, claims.sub, claims.client_id, claims.aud) == (ISSUER, "triage", "triage", TICKETS)
    assert claims.scopes == ("tickets:comment", "tickets:read")
    assert claims.task.startswith("task_")
    assert (claims.role, claims.tier, claims.issuer) == ("triage", "read", "registered")
    assert (claims.iat, claims.exp, claims.epoch) == (int(NOW), int(NOW) + 900, 0)
    assert jwt.get_unverified_header(issued.token)["typ"] == "at+jwt"


async def test_the_ledger_says_the_same_as_the_token(world: World) -> None:
    """The entry holds every claim that matters, how the agent proved itself, which line allowed it, and from where."""
    issued = await world.issue("triage")
    (members,) = world.memory.members(Kind.TOKEN_ISSUED)
    claims = issued.claims
    assert issued.seq == 0
    assert members["ref"] == claims.jti
    assert (members["agent"], members["audience"], members["scope"]) == ("triage", TICKETS, "tickets:read")
    assert (members["task"], members["epoch"], members["expires_at"]) == (claims.task, 0, claims.exp)
    assert members["key"] == world.signer.kid()
    assert members["allowed_by"] == "roles.triage.allow[0]"
    assert members["policy"] == world.policy.digest
    assert members["assertion"] == hashlib.sha256(b"assertion-1").hexdigest()
    assert (members["method"], members["assertion_id"][:4]) == ("private_key_jwt", "jti-")
    assert members["assertion_key"] == "assertion-key"
    assert (members["address"], members["request"], members["trace"]) == ("192.0.2.7", "req_1", CALLER.trace_id)


async def test_no_token_or_assertion_is_in_the_ledger(world: World) -> None:
    """Law 8: neither the token nor what was presented for it can be read out of a record."""
    issued = await world.issue()
    with pytest.raises(Refused):
        await world.issue("triage", "tickets:delete")
    bodies = b"".join(made.body for made in world.memory.entries)
    for secret in (issued.token, issued.token.rpartition(".")[2], "assertion-1", "assertion-2"):
        assert secret.encode() not in bodies
    assert issued.token not in repr(issued)


async def test_a_request_without_a_task_gets_one_of_its_own(world: World) -> None:
    """Two requests without a task do not share one, so that ending one leaves the other."""
    first, second = await world.issue(), await world.issue()
    assert first.claims.task.startswith("task_")
    assert first.claims.task != second.claims.task
    assert first.claims.jti != second.claims.jti


async def test_a_token_is_counted(world: World) -> None:
    """Operators see what is issued, by role and method."""
    await world.issue()
    assert world.meter.tokens == [("triage", "private_key_jwt")]
    assert not world.meter.refusals


# --- law 1: recorded before released --------------------------------------------------------------------------------


async def test_nothing_is_issued_when_the_ledger_is_down(world: World) -> None:
    """The caller gets 503 and no credential; nothing is counted as issued."""
    world.memory.down = True
    with pytest.raises(Unavailable) as failed:
        await world.issue()
    assert failed.value.code is Code.LEDGER_UNAVAILABLE
    assert not world.memory.entries
    assert not world.meter.tokens
    world.memory.down = False
    await world.issue()


@pytest.mark.parametrize("fault", list(Fault))
async def test_nothing_is_released_when_a_commit_fails(world: World, fault: Fault) -> None:
    """Whether the entry was written or not, no token goes out: at worst the ledger knows one too many."""
    world.memory.faults.append(fault)
    with pytest.raises(Unavailable):
        await world.issue()
    assert len(world.memory.entries) == (1 if fault is Fault.APPLIED else 0)
    issued = await world.issue()
    assert world.memory.members(Kind.TOKEN_ISSUED)[-1]["ref"] == issued.claims.jti


async def test_nothing_is_released_when_the_token_fails_its_check(world: World) -> None:
    """A token that is not exactly what was meant is neither recorded nor released."""

    class Faulty(AccessTokenSigner):
        """Signs with a fault in it; checks as always."""

        def mint(self, claims: AccessClaims) -> Minted:
            minted = super().mint(claims)
            header, payload, signature = minted.token.split(".")
            return Minted(f"{header}.{payload}.{signature[:-4]}AAAA", minted.kid)

    world.issuance._signer = Faulty(world.ring, world.clock, issuer=ISSUER)
    with pytest.raises(Unavailable) as failed:
        await world.issue()
    assert failed.value.code is Code.INTERNAL
    assert not world.memory.entries


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancelled_request_never_gets_what_is_not_recorded(world: World, turns: int) -> None:
    """Cancelled at any await: if a token came out, its entry is there; if none came out, at most an entry is there."""
    issued = await cancelled_after(world.issue(), turns)
    refs = [members["ref"] for members in world.memory.members(Kind.TOKEN_ISSUED)]
    assert len(refs) <= 1
    if issued is not None:
        assert refs == [issued.claims.jti]
    assert (await world.issue()).claims.jti not in refs


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancelled_refusal_is_recorded_once_at_most(world: World, turns: int) -> None:
    """A refused request that is cancelled releases nothing and leaves one record or none."""
    try:
        released = await cancelled_after(world.issue("triage", "tickets:delete"), turns)
    except Refused:
        released = None
    assert released is None
    assert world.memory.kinds() in ([], ["token.refused"])


# --- law 2: no grant is decided on stale rules ----------------------------------------------------------------------


async def test_a_rule_that_gets_in_between_makes_the_decision_again(world: World) -> None:
    """The token that comes out was decided and stamped after the rule: it lives, and the first one never existed."""
    world.memory.before.append(lambda: commit_rule(world, 1, Selector(agent="triage")))
    issued = await world.issue()
    assert issued.claims.epoch == 1
    assert world.memory.kinds() == ["rule.added", "token.issued"]
    assert world.lives(issued.token)


async def test_a_block_that_gets_in_between_is_obeyed(world: World) -> None:
    """A request that was decided before a block and would commit after it is refused."""
    request = world.request()

    def interrupt() -> None:
        world.revocations.blocks.add(blocked.block)  # type: ignore[arg-type]
        commit_rule(world, 2)

    blocked = await world.revoke(block=BlockFor(), agent="triage")
    assert blocked.block is not None
    world.revocations.blocks.lift(blocked.block.id)
    world.memory.before.append(interrupt)
    with pytest.raises(Refused) as refused:
        await world.issuance.issue(request, CALLER)
    assert refused.value.code is Code.BLOCKED
    assert "token.issued" not in world.memory.kinds()


async def test_a_policy_that_is_replaced_in_between_is_obeyed(world: World) -> None:
    """When the decision is made again, it is made by the policy that is in force then."""
    narrowed = DOCUMENT | {"roles": {"responders": DOCUMENT["roles"]["responders"]}}

    def interrupt() -> None:
        world.policy = policy(narrowed)
        commit_rule(world, 1)

    world.memory.before.append(interrupt)
    with pytest.raises(Refused) as refused:
        await world.issue()
    assert refused.value.code is Code.NO_ROLE
    (members,) = world.memory.members(Kind.TOKEN_REFUSED)
    assert members["policy"] == world.policy.digest


async def test_an_agent_that_is_removed_and_revoked_in_between_gets_nothing(world: World) -> None:
    """Who asks is judged again with the decision: else a token would be stamped after the rule that was to end it."""
    request = world.request()

    def interrupt() -> None:
        world.authenticator.failure = Refused(Code.ASSERTION_INVALID, "the assertion is not valid")
        commit_rule(world, 1, Selector(agent="triage"))

    world.memory.before.append(interrupt)
    with pytest.raises(Refused) as refused:
        await world.issuance.issue(request, CALLER)
    assert refused.value.code is Code.ASSERTION_INVALID
    assert "token.issued" not in world.memory.kinds()


async def test_attempts_are_bounded(world: World) -> None:
    """A flood of revocations cannot keep a request spinning: it is told to come back, and nothing is issued."""
    for number in range(1, MAX_ATTEMPTS + 1):
        world.memory.before.append(lambda number=number: commit_rule(world, number))  # type: ignore[misc]
    with pytest.raises(Unavailable) as failed:
        await world.issue()
    assert failed.value.code is Code.OVERLOADED
    assert failed.value.retry_after == 1
    assert world.memory.attempts == MAX_ATTEMPTS
    assert "token.issued" not in world.memory.kinds()


async def test_the_last_attempt_may_succeed(world: World) -> None:
    """The bound counts attempts, not interruptions."""
    for number in range(1, MAX_ATTEMPTS):
        world.memory.before.append(lambda number=number: commit_rule(world, number))  # type: ignore[misc]
    assert (await world.issue()).claims.epoch == MAX_ATTEMPTS - 1


# --- refusals of agents ---------------------------------------------------------------------------------------------


async def test_a_refusal_is_recorded_once_with_its_reason(world: World) -> None:
    """The caller gets the reference of the record that says who was refused what, why, and by which policy."""
    with pytest.raises(Refused) as refused:
        await world.issue("triage", "tickets:delete", task="T-9")
    assert refused.value.code is Code.SCOPE_NOT_ALLOWED
    (members,) = world.memory.members(Kind.TOKEN_REFUSED)
    assert members["ref"] == refused.value.refusal
    assert (members["code"], members["reason"]) == ("scope_not_allowed", refused.value.public)
    assert (members["agent"], members["audience"], members["scope"]) == ("triage", TICKETS, "tickets:delete")
    assert (members["task"], members["policy"]) == ("T-9", world.policy.digest)
    assert world.meter.refusals == {"scope_not_allowed": 1}
    assert world.strangers.take() == {}


async def test_a_refusal_uses_its_assertion_up(world: World) -> None:
    """Whoever sees a refused request go by cannot send it again with another wish."""
    assertion = world.assertion()
    asks = [Ask(audience=TICKETS, scopes=("tickets:delete",)), Ask(audience=TICKETS, scopes=("tickets:read",))]
    with pytest.raises(Refused):
        await world.issuance.issue(TokenRequest(assertion=assertion, ask=asks[0]), CALLER)
    with pytest.raises(Refused) as replayed:
        await world.issuance.issue(TokenRequest(assertion=assertion, ask=asks[1]), CALLER)
    assert replayed.value.code is Code.ASSERTION_REPLAYED
    assert world.memory.kinds() == ["token.refused"]


async def test_a_refusal_that_cannot_be_recorded_is_a_failure(world: World) -> None:
    """With the ledger down the answer is 503, not a refusal that nobody could look up."""
    world.memory.down = True
    with pytest.raises(Unavailable) as failed:
        await world.issue("triage", "tickets:delete")
    assert failed.value.code is Code.LEDGER_UNAVAILABLE
    assert not world.meter.refusals


@pytest.mark.parametrize(
    ("name", "scopes", "audience", "code"),
    [
        ("nobody", ("tickets:read",), TICKETS, Code.NO_ROLE),
        ("triage", ("refunds:create",), PAYMENTS, Code.AUDIENCE_NOT_ALLOWED),
        ("triage", ("tickets:read",), "https://elsewhere.example", Code.AUDIENCE_NOT_ALLOWED),
        ("triage", ("tickets:read",), None, Code.AUDIENCE_REQUIRED),
        ("payer", ("refunds:create",), PAYMENTS, Code.PROOF_REQUIRED),
    ],
)
async def test_each_denial_has_its_code(
    world: World, name: str, scopes: tuple[str, ...], audience: str | None, code: Code
) -> None:
    """The caller learns why, the ledger too, and nothing is issued."""
    with pytest.raises(Refused) as refused:
        await world.issue(name, *scopes, audience=audience)
    assert refused.value.code is code
    assert [members["code"] for members in world.memory.members(Kind.TOKEN_REFUSED)] == [code]
    assert "token.issued" not in world.memory.kinds()


async def test_a_refusal_keeps_the_claims_that_were_matched(world: World) -> None:
    """The record has what the policy looked at, also where a claim is nothing that an entry could hold as it is."""
    attributes: dict[str, Any] = {"repository_id": 2**60, "groups": ("a", "b"), "none": (), "empty": "", "ok": True}
    odd = Agent(id="github/x", issuer="github", subject="repo:x", attributes=attributes | {"gr\u00fcn\U0001f600": "x"})
    request = TokenRequest(
        assertion=world.authenticator.knows(odd, "odd"), ask=Ask(audience=TICKETS, scopes=("tickets:read",))
    )
    with pytest.raises(Refused):
        await world.issuance.issue(request, CALLER)
    (members,) = world.memory.members(Kind.TOKEN_REFUSED)
    assert members["attributes"] == {
        "repository_id": str(2**60),
        "groups": ["a", "b"],
        "ok": True,
        "gr\u00fcn\U0001f600": "x",
    }


async def test_an_agent_that_is_refused_all_the_time_fills_no_ledger(world: World) -> None:
    """Past the allowance its refusals are counted, not written; the answer stays the same, and other agents' count."""
    codes = []
    for _ in range(RECORDED_REFUSALS + 5):
        with pytest.raises(Refused) as refused:
            await world.issue("triage", "tickets:delete")
        codes.append((refused.value.code, refused.value.refusal is None))
    assert codes == [(Code.SCOPE_NOT_ALLOWED, False)] * RECORDED_REFUSALS + [(Code.SCOPE_NOT_ALLOWED, True)] * 5
    assert world.memory.kinds() == ["token.refused"] * RECORDED_REFUSALS
    assert world.strangers.take() == {"scope_not_allowed": 5}
    assert world.meter.refusals == {"scope_not_allowed": RECORDED_REFUSALS + 5}
    with pytest.raises(Refused) as other:
        await world.issue("other", "tickets:delete")
    assert other.value.refusal is not None
    world.clock.time += 61
    with pytest.raises(Refused) as later:
        await world.issue("triage", "tickets:delete")
    assert later.value.refusal is not None


@pytest.mark.parametrize("audience", [TICKETS, None])
async def test_strangers_that_an_issuer_vouches_for_fill_no_ledger(world: World, audience: str | None) -> None:
    """GitHub vouches for anybody, under any number of names: without a role here, all of them share one allowance."""
    for number in range(RECORDED_REFUSALS + 5):
        who = Agent(id=f"github/1/ref:{number}", issuer="github", subject="repo:x")
        assertion = world.authenticator.knows(who, f"vouched-{number}", single_use=False)
        with pytest.raises(Refused):
            await world.issuance.issue(
                TokenRequest(assertion=assertion, ask=Ask(audience=audience, scopes=None)), CALLER
            )
    assert world.memory.kinds() == ["token.refused"] * RECORDED_REFUSALS
    assert sum(world.strangers.take().values()) == 5
    with pytest.raises(Refused) as refused:
        await world.issue("triage", "tickets:delete")
    assert refused.value.refusal is not None


# --- limits ---------------------------------------------------------------------------------------------------------


async def test_the_rate_of_an_agent_is_exact(world: World) -> None:
    """The sixth token in a minute is refused, with the time to wait; another agent of the role still gets its own."""
    for _ in range(5):
        await world.issue()
    with pytest.raises(Refused) as refused:
        await world.issue()
    assert refused.value.code is Code.RATE_LIMITED
    assert refused.value.retry_after == 60
    assert refused.value.refusal is not None
    assert world.memory.members(Kind.TOKEN_REFUSED)[0]["code"] == "rate_limited"
    await world.issue("other")


async def test_the_rate_of_a_role_counts_all_its_agents(world: World) -> None:
    """Eight a minute for the role, whoever takes them."""
    for name in ("triage",) * 5 + ("other",) * 3:
        await world.issue(name)
    with pytest.raises(Refused) as refused:
        await world.issue("other")
    assert refused.value.code is Code.RATE_LIMITED
    world.clock.time += 71
    await world.issue("other")


async def test_a_refused_request_does_not_count_towards_the_rate(world: World) -> None:
    """Being refused costs no token."""
    for _ in range(10):
        with pytest.raises(Refused):
            await world.issue("triage", "tickets:delete")
    await world.issue()


# --- strangers ------------------------------------------------------------------------------------------------------


async def test_a_stranger_leaves_nothing(world: World) -> None:
    """Law 10: an assertion that proves nothing is counted; no change is even tried."""
    request = TokenRequest(assertion=UnverifiedAssertion("forged"), ask=Ask(audience=TICKETS, scopes=None))
    for _ in range(100):
        with pytest.raises(Refused) as refused:
            await world.issuance.issue(request, CALLER)
        assert (refused.value.code, refused.value.refusal) == (Code.ASSERTION_INVALID, None)
        assert refused.value.__cause__ is None
    assert world.memory.attempts == 0
    assert world.strangers.take() == {"assertion_invalid": 100}
    assert world.meter.refusals == {"assertion_invalid": 100}


async def test_a_replayed_assertion_leaves_nothing(world: World) -> None:
    """Whoever replays may not be the agent: it is counted, not written in the agent's name."""
    request = world.request()
    await world.issuance.issue(request, CALLER)
    for _ in range(3):
        with pytest.raises(Refused) as refused:
            await world.issuance.issue(request, CALLER)
        assert refused.value.code is Code.ASSERTION_REPLAYED
    assert world.memory.kinds() == ["token.issued"]
    assert world.strangers.take() == {"assertion_replayed": 3}


async def test_a_replayed_assertion_with_a_bad_wish_leaves_nothing(world: World) -> None:
    """Also when the policy would refuse, the replay is what counts, once."""
    assertion = world.assertion()
    await world.issuance.issue(
        TokenRequest(assertion=assertion, ask=Ask(audience=TICKETS, scopes=("tickets:read",))), CALLER
    )
    bad = TokenRequest(assertion=assertion, ask=Ask(audience=TICKETS, scopes=("tickets:delete",)))
    with pytest.raises(Refused) as refused:
        await world.issuance.issue(bad, CALLER)
    assert refused.value.code is Code.ASSERTION_REPLAYED
    assert world.memory.kinds() == ["token.issued"]
    assert world.meter.refusals == {"assertion_replayed": 1}


async def test_one_assertion_gives_one_token_however_many_ask_at_once(world: World) -> None:
    """Two requests at the same instant with the same assertion: one token."""
    request = world.request()
    answers = await asyncio.gather(*(world.issuance.issue(request, CALLER) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(answer, Issued) for answer in answers) == 1
    assert world.memory.kinds() == ["token.issued"]


async def test_a_reusable_platform_token_may_be_used_again(world: World) -> None:
    """Pitfall 10: platform tokens are not single-use."""
    assertion = world.assertion(single_use=False)
    request = TokenRequest(assertion=assertion, ask=Ask(audience=TICKETS, scopes=("tickets:read",)))
    await world.issuance.issue(request, CALLER)
    await world.issuance.issue(request, CALLER)
    assert world.memory.kinds() == ["token.issued"] * 2
    assert world.meter.tokens[0] == ("triage", "platform")


async def test_another_client_id_is_refused(world: World) -> None:
    """B.2 step 4: a ``client_id`` that the assertion does not prove is somebody else's."""
    request = world.request()
    mixed = TokenRequest(assertion=request.assertion, ask=request.ask, client_id="other")
    with pytest.raises(Refused) as refused:
        await world.issuance.issue(mixed, CALLER)
    assert refused.value.code is Code.CLIENT_AUTHENTICATION_FAILED
    assert world.memory.attempts == 0
    named = TokenRequest(assertion=request.assertion, ask=request.ask, client_id="triage")
    await world.issuance.issue(named, CALLER)


async def test_an_issuer_that_cannot_be_reached_is_no_refusal(world: World) -> None:
    """503 from the authenticator passes through, counted, with nothing written."""
    world.authenticator.failure = Unavailable(Code.ISSUER_UNAVAILABLE, "the issuer's keys cannot be had now")
    with pytest.raises(Unavailable) as failed:
        await world.issue()
    assert failed.value is world.authenticator.failure
    assert world.memory.attempts == 0


# --- proof of possession --------------------------------------------------------------------------------------------


async def test_a_proof_binds_the_token(world: World) -> None:
    """The token is bound to the key that signed the proof, and the ledger says so."""
    key = ProofKey()
    issued = await world.issue("payer", "refunds:create", audience=PAYMENTS, proof=key.proof(NOW))
    assert issued.claims.jkt == key.thumbprint
    assert world.memory.members(Kind.TOKEN_ISSUED)[0]["bound_key"] == key.thumbprint


async def test_a_proof_is_good_once(world: World) -> None:
    """The same proof with a fresh assertion is a replay, and leaves nothing."""
    proof = ProofKey().proof(NOW)
    await world.issue("payer", "refunds:create", audience=PAYMENTS, proof=proof)
    with pytest.raises(Refused) as refused:
        await world.issue("payer", "refunds:create", audience=PAYMENTS, proof=proof)
    assert refused.value.code is Code.PROOF_REPLAYED
    assert world.memory.kinds() == ["token.issued"]


@pytest.mark.parametrize(
    "proof",
    [
        "not-a-jwt",
        ProofKey().proof(NOW, method="GET"),
        ProofKey().proof(NOW, url=f"{ISSUER}/oauth2/revoke"),
        ProofKey().proof(NOW, url=TOKEN_ENDPOINT.replace("broker", "evil")),
        ProofKey().proof(NOW - 120),
        ProofKey().proof(NOW + 120),
    ],
)
async def test_a_bad_proof_is_refused_even_where_none_is_needed(world: World, proof: str) -> None:
    """Whoever sends a proof means it: a bad one never falls back to an unbound token."""
    with pytest.raises(Exception) as refused:  # noqa: PT011 - its code is looked at
        await world.issue("triage", proof=proof)
    assert getattr(refused.value, "code", None) is Code.PROOF_INVALID
    assert world.memory.attempts == 0


# --- blocks ---------------------------------------------------------------------------------------------------------


async def test_a_block_refuses_new_tokens_until_it_is_lifted(world: World) -> None:
    """The reason names the block; after lifting, tokens are issued again."""
    outcome = await world.revoke(block=BlockFor(), agent="triage")
    assert outcome.block is not None
    with pytest.raises(Refused) as refused:
        await world.issue()
    assert refused.value.code is Code.BLOCKED
    assert outcome.block.id in refused.value.public
    await world.issue("other")
    await world.revocation.lift(outcome.block.id, by="alice", reason="done", caller=CALLER)
    await world.issue()


async def test_the_ledger_failing_does_not_leave_a_bad_chain_of_causes(world: World) -> None:
    """The failure that callers see is the ledger's own."""
    world.memory.down = True
    with pytest.raises(Unavailable) as failed:
        await world.issue()
    assert failed.value.public == ledger_down().public
    assert failed.value.__cause__ is not failed.value


async def test_a_request_for_more_than_a_token_can_say_is_refused(world: World) -> None:
    """That is a refusal like any other, recorded, and no failure of the broker's."""
    document = {**DOCUMENT, "roles": {**DOCUMENT["roles"]}}
    allow = [{"audience": TICKETS, "scopes": ["tickets:read"], "details": ["agent_task"]}]
    document["roles"]["triage"] = {**DOCUMENT["roles"]["triage"], "allow": allow}
    world.policy = policy(document)
    details = ({"type": "agent_task", "actions": [f"tickets:{number:0>120}" for number in range(100)]},)
    with pytest.raises(Refused) as refused:
        await world.issue("triage", details=details)
    assert refused.value.code is Code.TOO_LARGE
    assert world.memory.kinds() == ["token.refused"]
