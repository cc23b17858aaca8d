"""Issuing identity tokens: what is released, what is recorded, and in which order."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest

from broker.core.change import AddRule, Change, EpochIs
from broker.core.entry import Kind, entry
from broker.core.errors import Code, Refused, Unavailable
from broker.core.grant import Ask
from broker.core.identity_token import IdentityClaims
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.issuance import MAX_ATTEMPTS, RECORDED_REFUSALS, Exchange, IssuedIdentity, TokenRequest
from broker.ports import Minted
from broker.signing.identity_token import IdentityTokenSigner
from tests.support.fakes import CALLER, NOW, Fault, cancelled_after
from tests.support.world import API, DOCUMENT, ISSUER, World, policy

ISSUED = "identity_token.issued"


def with_identities(**limits: int) -> dict[str, Any]:
    """Return the policy document with identity tokens for the agents of the role ``triage``."""
    document = copy.deepcopy(DOCUMENT)
    document["roles"]["triage"]["allow"] += [
        {"audience": "broker", "scopes": ["identity:issue"]},
        {"identity_token": "vault", "claims": {"env": "prod"}},
    ]
    document["roles"]["triage"]["limits"] = {"tokens_per_minute": 1000, **limits}
    return document


@pytest.fixture
def world() -> World:
    """A broker of its own for each test."""
    made = World()
    made.policy = policy(with_identities())
    return made


async def subject(world: World, name: str = "triage") -> str:
    """Return a token that can be exchanged."""
    return (await world.issue(name, "identity:issue", audience=API)).token


def request(world: World, token: str, audience: str = "vault", name: str = "triage") -> TokenRequest:
    """Return a request for an identity token, with a fresh assertion."""
    exchange = Exchange(subject_token=token, identity=True)
    return TokenRequest(assertion=world.assertion(name), ask=Ask(audience=audience, scopes=None), exchange=exchange)


async def take(world: World, token: str, **more: str) -> IssuedIdentity:
    """Exchange a token for an identity token."""
    return await world.identities.issue(request(world, token, **more), CALLER)


def commit_rule(world: World, number: int, selector: Selector) -> None:
    """Commit a rule as another request does."""
    rule = Rule(f"rule_other_{number}", selector, number, NOW, "op", "r")
    record = entry(Kind.RULE_ADDED, NOW, ref=rule.id, number=number, selector=rule.selector.to_dict())
    world.memory.apply(Change(record, (EpochIs(number - 1),), (AddRule(rule),)))


async def test_the_ledger_says_what_the_token_says(world: World) -> None:
    """The entry holds every claim, what the token came of, which line allowed it, and when it ends."""
    parent = await world.issue("triage", "identity:issue", audience=API)
    issued = await take(world, parent.token)
    (members,) = world.memory.members(Kind.IDENTITY_TOKEN_ISSUED)
    claims = issued.claims
    assert issued.seq == 1
    said = {name: members[name] for name in ("ref", "agent", "role", "task", "audience", "expires_at", "on_behalf_of")}
    assert said == {
        "ref": claims.jti,
        "agent": claims.agent,
        "role": claims.role,
        "task": parent.claims.task,
        "audience": "vault",
        "expires_at": int(NOW) + 300,
        "on_behalf_of": "triage",
    }
    assert members["parents"] == [parent.claims.jti]
    assert (members["claims"], members["allowed_by"]) == ({"env": "prod"}, "roles.triage.allow[2]")
    assert (members["policy"], members["key"]) == (world.policy.digest, world.ring.signing_kid(NOW))
    assert issued.token not in str(members)
    assert issued.token not in repr(issued)


@pytest.mark.parametrize("fault", list(Fault))
async def test_nothing_is_released_when_a_commit_fails(world: World, fault: Fault) -> None:
    """Whether the store applied the change or not: what is not known to be durable is not released."""
    token = await subject(world)
    world.memory.faults.append(fault)
    with pytest.raises(Unavailable) as failed:
        await take(world, token)
    assert failed.value.code is Code.LEDGER_UNAVAILABLE
    assert (await take(world, token)).claims.jti == world.memory.members(Kind.IDENTITY_TOKEN_ISSUED)[-1]["ref"]


async def test_nothing_is_released_when_the_token_fails_its_check(world: World) -> None:
    """A token that is not exactly what was meant is neither recorded nor released."""

    class Faulty(IdentityTokenSigner):
        """Puts another agent into what it signs."""

        def mint_checked(self, claims: IdentityClaims, now: float) -> Minted:
            minted = super().mint_checked(claims, now)
            header, payload, signature = minted.token.split(".")
            self._check(Minted(f"{header}.{payload}.{signature[:-4]}AAAA", minted.kid), claims.to_payload(), now)
            return minted

    token = await subject(world)
    world.identities._signer = Faulty(world.ring, world.clock, world.ids, issuer=ISSUER)
    with pytest.raises(Unavailable):
        await take(world, token)
    assert world.memory.kinds() == ["token.issued"]


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancelled_request_never_gets_what_is_not_recorded(world: World, turns: int) -> None:
    """Cancelled at any await: if a token came out, its entry is there; if none came out, at most an entry is there."""
    token = await subject(world)
    issued = await cancelled_after(take(world, token), turns)
    refs = [members["ref"] for members in world.memory.members(Kind.IDENTITY_TOKEN_ISSUED)]
    assert len(refs) <= 1
    if issued is not None:
        assert refs == [issued.claims.jti]


@pytest.mark.parametrize(
    "selector", [Selector(agent="triage"), Selector(scope="identity:issue"), Selector(role="triage")]
)
async def test_a_rule_that_gets_in_between_is_seen(world: World, selector: Selector) -> None:
    """The decision is made again, and the token that was to be exchanged is dead by then."""
    token = await subject(world)
    world.memory.before.append(lambda: commit_rule(world, 1, selector))
    with pytest.raises(Refused) as refused:
        await take(world, token)
    assert refused.value.code is Code.SUBJECT_TOKEN_INVALID
    assert world.memory.kinds() == ["token.issued", "rule.added", "identity_token.refused"]


async def test_a_rule_about_somebody_else_delays_nothing(world: World) -> None:
    """The token that comes out was decided after the rule."""
    token = await subject(world)
    world.memory.before.append(lambda: commit_rule(world, 1, Selector(agent="somebody")))
    await take(world, token)
    assert world.memory.members(Kind.IDENTITY_TOKEN_ISSUED)[0]["epoch"] == 1


async def test_rules_without_end(world: World) -> None:
    """A request that is always overtaken is told to come back."""
    token = await subject(world)
    for number in range(1, MAX_ATTEMPTS + 1):
        world.memory.before.append(partial(commit_rule, world, number, Selector(agent="somebody")))
    with pytest.raises(Unavailable) as busy:
        await take(world, token)
    assert (busy.value.code, busy.value.retry_after) == (Code.OVERLOADED, 1)


async def test_refusals_are_recorded_together_with_those_of_other_requests(world: World) -> None:
    """An agent has one number of refusals that get entries, whatever it asks for."""
    token = await subject(world)
    for number in range(RECORDED_REFUSALS + 2):
        asking = take(world, token, audience="nowhere") if number % 2 else world.issue("triage", "tickets:delete")
        with pytest.raises(Refused):
            await asking
    kinds = world.memory.kinds()[1:]
    assert (len(kinds), set(kinds)) == (RECORDED_REFUSALS, {"identity_token.refused", "token.refused"})


async def test_an_assertion_is_used_once(world: World) -> None:
    """The same request twice is one token."""
    token = await subject(world)
    asked = request(world, token)
    await world.identities.issue(asked, CALLER)
    with pytest.raises(Refused) as refused:
        await world.identities.issue(asked, CALLER)
    assert refused.value.code is Code.ASSERTION_REPLAYED
    assert world.memory.kinds().count(ISSUED) == 1


async def test_rates_count_tokens_of_any_kind(world: World) -> None:
    """An agent's identity tokens are among its tokens of a minute."""
    world.policy = policy(with_identities(tokens_per_minute=3))
    token = await subject(world)
    await take(world, token)
    await take(world, token)
    with pytest.raises(Refused) as refused:
        await take(world, token)
    assert refused.value.code is Code.RATE_LIMITED


async def test_without_a_token_to_exchange(world: World) -> None:
    """Who brings none gets none, however the request came about."""
    asked = TokenRequest(assertion=world.assertion(), ask=Ask(audience="vault", scopes=None))
    with pytest.raises(Refused) as refused:
        await world.identities.issue(asked, CALLER)
    assert refused.value.code is Code.SUBJECT_TOKEN_INVALID
