from __future__ import annotations

from typing import Any

import pytest

from broker.core.narrowing import MAX_SELECTORS, Part, covers, narrowed
from broker.core.policy import Policy
from broker.core.selector import Selector
from broker.core.widening import broadened
from tests.support.policies import PAYMENTS, TICKETS, compiled, document, put

ROLE = ["roles", "support-triage"]
OLD = put(
    document(),
    [*ROLE, "allow"],
    [
        *document()["roles"]["support-triage"]["allow"],
        {"identity_token": "vault", "claims": {"env": "prod"}, "groups": ["a", "b"]},
    ],
)
OTHER = {"audience": TICKETS, "scopes": ["tickets:read"]}
EVERYTHING = put(
    put(OLD, [*ROLE, "may_delegate_to"], [{"role": "support-reader", "own_grants": True, "impersonation": True}]),
    [*ROLE, "break_glass"],
    True,
)


def without(data: dict[str, Any], path: list[str | int]) -> dict[str, Any]:
    """Return a copy of a document without one part."""
    changed = put(data, path, None)
    inner: Any = changed
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return changed


def found(new: dict[str, Any], old: dict[str, Any] = OLD) -> list[tuple[Part, Selector | None, bool]]:
    """Return what a document narrows: the part, the selector, and whether that is exact."""
    return [(each.part, each.selector, each.exact) for each in narrowed(compiled(old), compiled(new))]


def triage(**fields: str) -> Selector:
    """Return a selector of the role that is narrowed."""
    return Selector(role="support-triage", **fields)  # type: ignore[arg-type]


CASES: list[tuple[str, dict[str, Any], list[tuple[Part, Selector | None, bool]]]] = [
    ("nothing", OLD, []),
    (
        "a scope",
        put(OLD, [*ROLE, "allow", 0, "scopes"], ["tickets:read"]),
        [(Part.SCOPE, triage(audience=TICKETS, scope="tickets:comment"), True)],
    ),
    ("an audience", without(OLD, [*ROLE, "allow", 1]), [(Part.AUDIENCE, triage(audience=PAYMENTS), True)]),
    ("a secret", without(OLD, [*ROLE, "allow", 2]), [(Part.SECRET, triage(secret="orders-db"), True)]),
    (
        "a secret that is another one",
        put(OLD, ["secrets", "orders-db", "path"], "database/creds/orders-rw"),
        [(Part.SECRET, triage(secret="orders-db"), True)],
    ),
    (
        "a secret from elsewhere",
        put(OLD, ["secrets", "orders-db", "backend"], "vault/eu"),
        [(Part.SECRET, triage(secret="orders-db"), True)],
    ),
    (
        "the life of a secret",
        put(OLD, [*ROLE, "allow", 2, "max_ttl"], "1m"),
        [(Part.LIFETIME, triage(secret="orders-db"), False)],
    ),
    (
        "an approval of a secret",
        put(OLD, [*ROLE, "allow", 2, "approval"], {"approvers": "finance", "quorum": 1, "expires": "5m"}),
        [(Part.APPROVAL, triage(secret="orders-db"), False)],
    ),
    (
        "proof in the tier of a secret",
        put(OLD, ["secrets", "orders-db", "tier"], "write"),
        [(Part.LIFETIME, triage(secret="orders-db"), False), (Part.PROOF, triage(secret="orders-db"), False)],
    ),
    (
        "encrypted delivery",
        put(
            put(OLD, ["tiers", "sealed"], {"max_ttl": "15m", "encrypted_delivery": "required"}),
            ["secrets", "orders-db", "tier"],
            "sealed",
        ),
        [(Part.ENCRYPTION, triage(secret="orders-db"), False)],
    ),
    ("an identity token", without(OLD, [*ROLE, "allow", 3]), [(Part.IDENTITY, None, False)]),
    (
        "the life of an identity token",
        put(OLD, [*ROLE, "allow", 3, "max_ttl"], "4m"),
        [(Part.LIFETIME, None, False)],
    ),
    (
        "a claim of an identity token",
        put(OLD, [*ROLE, "allow", 3, "claims"], {"env": "test"}),
        [(Part.IDENTITY, None, False)],
    ),
    ("a group of an identity token", put(OLD, [*ROLE, "allow", 3, "groups"], ["b"]), [(Part.IDENTITY, None, False)]),
    (
        "the life of a line",
        put(OLD, [*ROLE, "allow", 1, "max_ttl"], "1m"),
        [(Part.LIFETIME, triage(audience=PAYMENTS, scope="refunds:create"), False)],
    ),
    (
        "an approval of a line",
        put(
            put(OLD, ["roles", "finance", "members"], [{"agent": "boss"}, {"agent": "deputy"}]),
            [*ROLE, "allow", 1, "approval"],
            {"approvers": "finance", "quorum": 2, "expires": "5m"},
        ),
        [(Part.APPROVAL, triage(audience=PAYMENTS, scope="refunds:create"), False)],
    ),
    (
        "proof in a tier",
        put(OLD, ["tiers", "sensitive", "proof_of_possession"], "required"),
        [(Part.PROOF, triage(audience=PAYMENTS, scope="refunds:create"), False)],
    ),
    (
        "the life of a tier",
        put(OLD, ["tiers", "write", "max_ttl"], "1m"),
        [(Part.LIFETIME, triage(audience=TICKETS, scope="tickets:comment"), False)],
    ),
    (
        "delegating",
        without(OLD, [*ROLE, "may_delegate_to"]),
        [(Part.DELEGATION, Selector(role="support-reader"), False)],
    ),
    (
        "a member that an issuer vouches for",
        put(OLD, [*ROLE, "members"], [{"agent": "boss"}]),
        [(Part.MEMBER, triage(issuer="prod-cluster"), False)],
    ),
    (
        "one agent",
        put(OLD, ["roles", "finance", "members"], [{"agent": "other"}]),
        [(Part.MEMBER, Selector(role="finance", agent="boss"), True)],
    ),
    ("tasks must be opened", put(OLD, [*ROLE, "tasks"], "explicit"), [(Part.TASKS, triage(), False)]),
    ("a limit", put(OLD, [*ROLE, "limits", "tokens_per_minute"], 29), [(Part.LIMIT, None, False)]),
    ("a limit where there was none", put(OLD, [*ROLE, "limits", "actions"], {"a": 1}), [(Part.LIMIT, None, False)]),
    ("a limit's default", put(OLD, ["roles", "finance", "limits"], {"task_ttl": "59m"}), [(Part.LIMIT, None, False)]),
    (
        "who serves an audience",
        without(OLD, ["audiences", TICKETS, "served_by"]),
        [(Part.SERVED_BY, None, False)],
    ),
    ("the keys of an issuer", put(OLD, ["issuers", "gitlab", "algorithms"], ["RS256"]), [(Part.ISSUER, None, False)]),
    ("an issuer", without(OLD, ["issuers", "gitlab"]), [(Part.ISSUER, Selector(issuer="gitlab"), True)]),
]  # fmt: skip


@pytest.mark.parametrize(("new", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_became_narrower(new: dict[str, Any], expected: list[tuple[Part, Selector | None, bool]]) -> None:
    """Each part of a role that allows less is told with the selector of the grants that it concerns."""
    assert found(new) == expected


@pytest.mark.parametrize("new", [case[1] for case in CASES[1:]], ids=[case[0] for case in CASES[1:]])
def test_going_back_is_not_narrower(new: dict[str, Any]) -> None:
    """What narrowed a policy makes it wider when it is taken back; a policy is never wider than itself."""
    assert broadened(compiled(new), compiled(OLD))
    assert broadened(compiled(new), compiled(new)) == ()


def test_terms_of_delegation_and_break_glass() -> None:
    """Terms that a delegate loses concern its tokens; break-glass the scopes that people approve."""
    less = put(EVERYTHING, [*ROLE, "may_delegate_to"], ["support-reader"])
    assert found(less, EVERYTHING) == [(Part.DELEGATION, Selector(role="support-reader"), False)] * 2
    assert found(put(EVERYTHING, [*ROLE, "break_glass"], False), EVERYTHING) == [
        (Part.APPROVAL, triage(audience=PAYMENTS, scope="refunds:create"), False)
    ]


def test_break_glass_concerns_secrets_that_people_approve() -> None:
    """Whoever took one without asking might not get it now."""
    asking = {"approvers": "finance", "quorum": 1, "expires": "5m"}
    old = put(without(EVERYTHING, [*ROLE, "allow", 1]), [*ROLE, "allow", 1, "approval"], asking)
    assert found(put(old, [*ROLE, "break_glass"], False), old) == [(Part.APPROVAL, triage(secret="orders-db"), False)]


def test_another_tier_on_the_same_terms_takes_nothing_away() -> None:
    """What the tier is called says nothing about who can have the secret."""
    twin = put(OLD, ["tiers", "twin"], {"max_ttl": "15m"})
    assert found(put(twin, ["secrets", "orders-db", "tier"], "twin")) == []


def test_a_line_for_every_agent_of_an_issuer_admits_the_others() -> None:
    """A member line that is replaced by a wider one was not narrowed."""
    wide = put(OLD, [*ROLE, "members"], [{"issuer": "prod-cluster", "any_subject": True}])
    assert found(wide) == []
    one = put(OLD, [*ROLE, "members"], [{"agent": "prod-cluster/support/triage"}])
    assert found(wide, one) == []
    assert broadened(compiled(OLD), compiled(wide))


def test_one_rule_does_for_what_a_wider_one_covers() -> None:
    """A role that is gone, or an issuer, needs no rules for its parts; the reasons stay together."""
    new = document()
    del new["roles"]["support-triage"]
    new["roles"]["support-reader"]["allow"][0]["max_ttl"] = "1m"
    made = covers(narrowed(compiled(OLD), compiled(new)))
    assert [cover.selector for cover in made] == [
        triage(),
        Selector(role="support-reader", audience=TICKETS, scope="tickets:read"),
    ]
    gone = without(put(OLD, [*ROLE, "members"], [{"agent": "boss"}]), ["issuers", "prod-cluster"])
    (cover,) = covers(narrowed(compiled(OLD), compiled(gone)))
    assert cover.selector == Selector(issuer="prod-cluster")
    assert len(cover.reasons) == 2


def test_what_no_fact_tells_is_told_in_words() -> None:
    """Limits concern what comes, so that nothing covers them."""
    (cover,) = covers(narrowed(compiled(OLD), compiled(put(OLD, [*ROLE, "limits", "tokens_per_minute"], 1))))
    assert cover.selector is None
    assert cover.reasons == ("role support-triage: tokens_per_minute 1 (was 30)",)


def test_many_selectors_of_a_role_become_one() -> None:
    """Every verifier keeps every rule, so there are not many of them for one role."""

    def policy(ttl: str, count: int) -> Policy:
        scopes = [f"s:{number}" for number in range(count)]
        known = OLD["audiences"][TICKETS]["scopes"] | {scope: {"tier": "read"} for scope in scopes}
        data = put(OLD, ["audiences", TICKETS, "scopes"], known)
        return compiled(put(data, [*ROLE, "allow", 0], {"audience": TICKETS, "scopes": scopes, "max_ttl": ttl}))

    few = covers(narrowed(policy("2m", MAX_SELECTORS), policy("1m", MAX_SELECTORS)))
    assert len(few) == MAX_SELECTORS
    (one,) = covers(narrowed(policy("2m", MAX_SELECTORS + 1), policy("1m", MAX_SELECTORS + 1)))
    assert (one.selector, one.exact, len(one.reasons)) == (triage(), False, MAX_SELECTORS + 1)


LATER = {
    "members": [{"issuer": "prod-cluster", "any_subject": True}],
    "allow": [{"audience": TICKETS, "scopes": ["tickets:read", "tickets:comment"]}],
    "limits": {"tokens_per_minute": 30, "role_tokens_per_minute": 300},
}


@pytest.mark.parametrize(
    ("later", "wider"),
    [
        (LATER, False),
        (LATER | {"limits": {"tokens_per_minute": 31, "role_tokens_per_minute": 300}}, True),
        (LATER | {"limits": {"tokens_per_minute": 30}}, True),
        (LATER | {"may_delegate_to": ["finance"]}, True),
        (LATER | {"break_glass": True}, True),
        (LATER | {"budget_approval": {"approvers": "finance", "quorum": 1, "expires": "5m"}}, True),
        (LATER | {"allow": [{"audience": TICKETS, "scopes": ["tickets:comment"], "details": ["agent_task"]}]}, True),
        (LATER | {"members": [{"issuer": "gitlab", "any_subject": True}], "may_delegate_to": ["finance"]}, False),
        (LATER | {"members": [{"agent": "triage"}], "may_delegate_to": ["finance"]}, False),
        (LATER | {"members": [{"agent": "prod-cluster/a/b"}], "may_delegate_to": ["finance"]}, True),
        (LATER | {"members": [{"issuer": "prod-cluster", "subject": "x"}], "may_delegate_to": ["finance"]}, False),
    ],
)
def test_a_later_role_that_would_answer_instead(later: dict[str, Any], wider: bool) -> None:
    """Taking a scope from a role is not narrower if a later one has it on easier terms, for the same agents."""
    old = put(put(OLD, ["roles", "later"], later), [*ROLE, "limits", "task_ttl"], "1h")
    new = put(old, [*ROLE, "allow", 0, "scopes"], ["tickets:read"])
    assert bool(broadened(compiled(old), compiled(new))) is wider


def test_a_later_role_with_longer_tokens_would_answer_instead() -> None:
    """The shortest life among a request's scopes counts, so a later role may give one of them no longer than that."""
    old = put(put(OLD, ["roles", "later"], LATER), [*ROLE, "allow", 0, "max_ttl"], "5m")
    new = put(old, [*ROLE, "allow", 0, "scopes"], ["tickets:read"])
    assert any("later" in text for text in broadened(compiled(old), compiled(new)))


def test_the_order_of_roles_counts() -> None:
    """A policy with its roles in another order is another policy."""
    new = document(roles=dict(reversed(OLD["roles"].items())))
    assert broadened(compiled(OLD), compiled(new)) == ("the order of the roles is another one",)


def test_acting_as_another_delegate_is_wider() -> None:
    """Whoever is a delegate under two roles acts under the first; without it, under the other one."""
    data = put(OLD, ["roles", "auditor"], {"members": [{"agent": "reader"}], "allow": OLD["roles"]["finance"]["allow"]})
    old = put(data, [*ROLE, "may_delegate_to"], ["support-reader", {"role": "auditor", "own_grants": True}])
    new = put(data, [*ROLE, "may_delegate_to"], [{"role": "auditor", "own_grants": True}])
    assert any("as auditor" in text for text in broadened(compiled(old), compiled(new)))
    moved = put(old, ["roles", "support-reader", "members"], [{"agent": "reader"}, {"agent": "second"}])
    lost = put(old, ["roles", "support-reader", "members"], [{"agent": "second"}])
    assert any("as auditor" in text for text in broadened(compiled(moved), compiled(lost)))


def test_more_groups_are_wider_not_narrower() -> None:
    """A group that is added takes nothing away."""
    more = put(OLD, [*ROLE, "allow", 3, "groups"], ["c", "b", "a"])
    assert found(more) == []
    assert broadened(compiled(OLD), compiled(more))


def test_a_later_role_with_more_identity_tokens_answers_on_easier_terms() -> None:
    """A role that loses ``identity:issue`` leaves the answer to the next one, whose identity tokens may say more."""
    scope = {"audience": "broker", "scopes": ["identity:issue"]}
    roles = {
        "first": {"members": [{"agent": "a"}], "allow": [scope, {"identity_token": "vault"}, OTHER]},
        "second": {"members": [{"agent": "a"}], "allow": [scope, {"identity_token": "vault", "groups": ["admins"]}]},
    }
    before = {"version": 1, "tiers": {"read": {"max_ttl": "5m"}}, "roles": roles}
    before["audiences"] = {TICKETS: {"scopes": {"tickets:read": {"tier": "read"}}}}
    assert broadened(compiled(before), compiled(without(before, ["roles", "first", "allow", 0])))
    same = put(before, ["roles", "second", "allow", 1], {"identity_token": "vault"})
    assert broadened(compiled(same), compiled(without(same, ["roles", "first", "allow", 0]))) == ()
