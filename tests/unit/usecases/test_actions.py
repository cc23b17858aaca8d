"""Actions as a use case over a real ledger: who may ask, what is taken from budgets, and what is told to whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.actions import Actions, Wish
from broker.actions.conductor import RECORDED_REFUSALS, SETTLE_SECONDS
from broker.approvals import Approvals
from broker.core.action import MAX_TARGET, ActionState
from broker.core.change import Change, Receipt
from broker.core.claims import AccessClaims
from broker.core.errors import BrokerError, Code, Malformed, Pending
from broker.core.policy.matching import AgentMember
from broker.core.policy.model import Approval, BudgetApproval
from broker.core.task import Budget, TaskState
from broker.ports import Admitted, Ledger
from tests.support.fakes import CALLER
from tests.support.task_desk import ROLE, Desk, open_desk
from tests.support.world import API, PAYMENTS, TICKETS, agent

READ = "tickets:read"


class RuleInBetween:
    """A ledger in front of which a task is revoked, once, when somebody is about to commit."""

    def __init__(self, desk: Desk, task: str) -> None:
        self._desk = desk
        self._task: str | None = task

    async def commit(self, change: Change) -> Receipt:
        """Revoke, then let the change through to what it now meets."""
        task, self._task = self._task, None
        if task is not None:
            await self._desk.world.revoke(task=task)
        return await self._desk.world.ledger.commit(change)


class Gate:
    """Resource servers and the tokens that they are shown."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.world = desk.world
        self.actions = self.composed(self.world.ledger)
        self.by = self.server("tickets-server")

    def composed(self, ledger: Ledger) -> Actions:
        """Wire the use case over a ledger."""
        world = self.world
        return Actions(
            check=world.check,
            consent=world.consent,
            policy=lambda: world.policy,
            revocations=world.revocations,
            ledger=ledger,
            records=world.records,
            clock=world.clock,
            ids=world.ids,
            meter=world.meter,
        )

    def server(self, name: str) -> Admitted:
        """Return a resource server as it is admitted with a token of its own."""
        claims = self.desk.claims(name, scopes=("actions:reserve",))
        return Admitted(agent=agent(name), scopes=frozenset(claims.scopes), claims=claims)

    def token(self, **changes: Any) -> str:  # noqa: ANN401 - members of the claims
        """Sign a token for the ticket system."""
        return self.signed(self.desk.claims(**{"aud": TICKETS, "scopes": (READ,), "tier": "read", **changes}))

    def signed(self, claims: AccessClaims) -> str:
        """Sign any claims."""
        return self.world.signer.mint(claims).token

    async def task(self, most: int) -> tuple[TaskState, str]:
        """Open a task with a budget of readings, and sign a token in it."""
        state = await self.desk.open(budget=Budget(actions={READ: most}))
        return state, self.token(task=state.task.id)

    async def reserve(self, token: str, **wish: Any) -> ActionState:  # noqa: ANN401 - members of the wish
        """Reserve, by default one reading."""
        made = await self.actions.reserve(Wish(**{"token": token, "action": READ, **wish}), self.by, CALLER)
        return made.state

    async def refused(self, token: str, **wish: Any) -> BrokerError:  # noqa: ANN401 - as above
        """Reserve what cannot be, and return why."""
        with pytest.raises(BrokerError) as refused:
            await self.reserve(token, **wish)
        return refused.value

    def lifted_by(self, approvers: str, adds: int = 1) -> None:
        """Let people of a role lift the budgets of the agents' role."""
        approval = Approval(approvers=approvers, quorum=1, expires=600)
        role = replace(self.world.policy.roles[ROLE], budget_approval=BudgetApproval(approval=approval, adds=adds))
        self.world.policy = replace(self.world.policy, roles={**self.world.policy.roles, ROLE: role})

    async def approve(self, approval: str) -> None:
        """Agree as a person."""
        world = self.world
        people = Approvals(
            ledger=world.ledger,
            records=world.records,
            policy=lambda: world.policy,
            revocations=world.revocations,
            clock=world.clock,
            notifier=world.notifier,
            meter=world.meter,
        )
        claims = self.desk.claims("alice", role="responders", scopes=("approvals:decide",))
        alice = Admitted(agent=agent("alice"), scopes=frozenset(claims.scopes), claims=claims)
        assert (await people.decide(approval, "approve", "looked at it", alice, CALLER)).stored == "approved"

    async def settle(self, state: ActionState, outcome: str = "done", result: str | None = None) -> ActionState:
        """Settle."""
        return await self.actions.settle(state.action.id, outcome, result, self.by, CALLER)

    async def used(self, state: TaskState) -> int:
        """Return how many readings a task has used."""
        return (await self.desk.state(state)).balances[f"action:{READ}"].used


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[Gate]:
    """A broker of its own for each test, whose ledger is found whole at the end."""
    async with open_desk(tmp_path / "ledger.db") as desk:
        yield Gate(desk)
        assert await desk.verified() == ()


# --- who may ask ----------------------------------------------------------------------------------------------------


async def test_a_foreign_server_cannot_tell_a_good_token_from_garbage(gate: Gate) -> None:
    """For whoever does not serve the audience, good, ended, revoked, forged and no tokens all look the same."""
    good = gate.token(aud=PAYMENTS, scopes=("refunds:create",), tier="bound")
    revoked = gate.desk.claims(aud=PAYMENTS, scopes=("refunds:create",))
    await gate.world.revoke(token=revoked.jti)
    ended = gate.token(aud=PAYMENTS, exp=int(gate.world.clock.time) - 1)
    shown = [good, gate.signed(revoked), ended, good[:-8] + "AAAAAAAA", "x.y.z", "", "é" * 50_000]
    told = [await gate.refused(token, action="refunds:create") for token in shown]
    assert {(error.code, error.public) for error in told} == {(Code.SUBJECT_TOKEN_INVALID, told[0].public)}


async def test_a_server_learns_what_is_wrong_with_tokens_of_its_own(gate: Gate) -> None:
    """It is told whether a token ended or was revoked, and that is no failure of its own authentication."""
    revoked = gate.desk.claims(aud=TICKETS, scopes=(READ,))
    await gate.world.revoke(token=revoked.jti)
    told = [await gate.refused(token) for token in (gate.signed(revoked), gate.token(exp=int(gate.world.clock.time)))]
    assert [error.code for error in told] == [Code.SUBJECT_TOKEN_INVALID] * 2
    assert ["revoked" in told[0].public, "expired" in told[1].public] == [True, True]


async def test_a_server_that_was_revoked_after_it_was_admitted_reserves_nothing(gate: Gate) -> None:
    """The rule counts from the moment it is in force, for requests that are under way, too."""
    state, token = await gate.task(3)
    await gate.world.revoke(agent="tickets-server")
    assert (await gate.refused(token)).code is Code.TOKEN_REVOKED
    assert await gate.used(state) == 0


async def test_a_token_for_the_brokers_own_api_is_served_by_nobody(gate: Gate) -> None:
    """No resource server can use up budgets with an agent's token for the broker."""
    assert (await gate.refused(gate.token(aud=API, scopes=(READ,)))).code is Code.SUBJECT_TOKEN_INVALID


async def test_an_action_must_be_within_the_token(gate: Gate) -> None:
    """Its name must be a scope of the token, or the scope that it is said to fall under."""
    token = gate.token()
    assert (await gate.refused(token, action="tickets:close")).code is Code.INSUFFICIENT_SCOPE
    assert (await gate.refused(token, scope="tickets:close")).code is Code.INSUFFICIENT_SCOPE
    assert (await gate.reserve(token, action="search", scope=READ)).action.name == "search"


async def test_what_refuses_an_agent_is_recorded_up_to_a_number(gate: Gate) -> None:
    """Too small, ended and revoked tokens of its own resource are a server's to report; strangers write nothing."""
    revoked = gate.desk.claims(aud=TICKETS, scopes=(READ,))
    await gate.world.revoke(token=revoked.jti)
    ended = gate.token(exp=int(gate.world.clock.time))
    small = gate.desk.claims(aud=TICKETS, scopes=("tickets:comment",))
    for token in (gate.signed(small), gate.signed(revoked), ended):
        await gate.refused(token, target="T-1")
    entries = await gate.desk.entries("action.refused")
    assert [entry["code"] for entry in entries] == ["insufficient_scope", *["subject_token_invalid"] * 2]
    assert {(entry["agent"], entry["by"], entry["action"], entry["target"]) for entry in entries} == {
        ("triage", "tickets-server", READ, "T-1")
    }
    assert [entry["token"] for entry in entries[:2]] == [small.jti, revoked.jti]
    for token in (gate.token(aud=PAYMENTS, scopes=("refunds:create",)), "x.y.z", ended[:-8] + "AAAAAAAA"):
        await gate.refused(token)
    for _ in range(RECORDED_REFUSALS):
        await gate.refused(gate.signed(small))
    assert len(await gate.desk.entries("action.refused")) == RECORDED_REFUSALS
    assert gate.world.meter.refusals["insufficient_scope"] == RECORDED_REFUSALS + 1
    await gate.refused(gate.signed(gate.desk.claims("other", aud=TICKETS, scopes=("tickets:comment",))))
    assert len(await gate.desk.entries("action.refused")) == RECORDED_REFUSALS + 1


async def test_what_is_left_is_exact_for_each_of_many_at_once(gate: Gate) -> None:
    """No two reservations of one budget are told the same number, and the last one is told that it was the last."""
    _, token = await gate.task(20)
    wish = Wish(token=token, action=READ)
    made = await asyncio.gather(*(gate.actions.reserve(wish, gate.by, CALLER) for _ in range(20)))
    assert sorted(one.left for one in made if one.left is not None) == list(range(20))
    unlimited = await gate.actions.reserve(Wish(token=gate.token(), action=READ), gate.by, CALLER)
    assert unlimited.left is None


@pytest.mark.parametrize(
    "wish",
    [
        {"action": ""},
        {"action": "a" * 200},
        {"action": "tickets:read\u0000"},
        {"action": "tickets\uff1aread"},  # a full-width colon is no colon
        {"count": 0},
        {"count": -1},
        {"count": 1001},
        {"count": 2**70},
        {"scope": ""},
        {"scope": f"{READ} tickets:close"},
        {"scope": "x" * 5000},
        {"target": ""},
        {"target": "t" * (MAX_TARGET + 1)},
        {"target": "a\u202eb"},
        {"digest": ""},
        {"digest": "sha256:" + "A" * 64},
        {"digest": "sha256:" + "0" * 63},
        {"digest": "sha256:" + "0" * 64 + "\n"},
        {"digest": "md5:" + "0" * 32},
    ],
)
async def test_what_cannot_be_meant_is_refused_before_anything_else(gate: Gate, wish: dict[str, Any]) -> None:
    """The text names the field, repeats nothing of it, and nothing is written."""
    with pytest.raises(Malformed) as refused:
        await gate.reserve("not even a token", **wish)
    assert refused.value.public.startswith(next(iter(wish)))
    assert len(refused.value.public) < 100
    assert await gate.desk.entries("action.refused") == []


# --- budgets --------------------------------------------------------------------------------------------------------


async def test_one_key_reserves_once_however_often_it_comes_at_the_same_time(gate: Gate) -> None:
    """Ten copies of one request, with room for one: all get the one reservation, none hears that nothing is left."""
    state, token = await gate.task(1)
    made = await asyncio.gather(*(gate.reserve(token, idempotency_key="k") for _ in range(10)))
    assert len({one.action.id for one in made}) == 1
    assert await gate.used(state) == 1
    assert (await gate.refused(token, idempotency_key="another")).code is Code.BUDGET_USED_UP
    assert (await gate.refused(token, idempotency_key="k", target="T-2")).code is Code.IDEMPOTENCY_KEY_REUSED


async def test_keys_of_different_servers_never_meet(gate: Gate) -> None:
    """The same key, sent by another server for the same audience, is another request."""
    _, token = await gate.task(3)
    audience = gate.world.policy.audiences[TICKETS]
    both = replace(audience, served_by=(*audience.served_by, AgentMember("second-server")))
    gate.world.policy = replace(gate.world.policy, audiences={**gate.world.policy.audiences, TICKETS: both})
    first = await gate.reserve(token, idempotency_key="k")
    gate.by = gate.server("second-server")
    assert (await gate.reserve(token, idempotency_key="k")).action.id != first.action.id


async def test_a_rule_in_between_stops_the_reservation(gate: Gate) -> None:
    """A token that is revoked after it was found good, and before the commit, reserves nothing (law 2)."""
    state, token = await gate.task(3)
    gate.actions = gate.composed(RuleInBetween(gate.desk, state.task.id))
    assert (await gate.refused(token)).code is Code.SUBJECT_TOKEN_INVALID
    assert await gate.used(state) == 0
    assert await gate.desk.entries("action.reserved") == []


async def test_a_rule_about_somebody_else_in_between_stops_nothing(gate: Gate) -> None:
    """It is judged again by the rules of the moment, and entered with their epoch."""
    state, token = await gate.task(3)
    gate.actions = gate.composed(RuleInBetween(gate.desk, "task_of_somebody_else"))
    await gate.reserve(token)
    assert await gate.used(state) == 1
    assert [entry["epoch"] for entry in await gate.desk.entries("action.reserved")] == [1]


async def test_a_task_that_nobody_opened_is_stored_when_it_first_counts(gate: Gate) -> None:
    """A token without a named task gets its role's budget of actions, exactly, also by requests at the same time."""
    gate.desk.limit(actions={READ: 5})
    token = gate.token()
    made = await asyncio.gather(*(gate.reserve(token) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(one, ActionState) for one in made) == 5
    assert {one.code for one in made if isinstance(one, BrokerError)} == {Code.BUDGET_USED_UP}
    assert (await gate.refused(token, action="search", scope=READ)).code is Code.BUDGET_USED_UP


async def test_an_exchanged_token_whose_task_is_not_stored_is_refused(gate: Gate) -> None:
    """Its task was stored when it was exchanged: what is not there now cannot be made up from the descendant."""
    token = gate.token(client_id="other", agents=("other",), parents=("tok_root",))
    assert (await gate.refused(token)).code is Code.TASK_NOT_OPEN


async def test_a_token_of_a_role_that_is_gone_makes_no_task(gate: Gate) -> None:
    """Nobody knows its limits any more."""
    assert (await gate.refused(gate.token(role="gone"))).code is Code.TASK_NOT_OPEN


async def test_the_actors_are_recorded(gate: Gate) -> None:
    """The log of an incident says who acted, for whom, in which task, by which token."""
    state, _ = await gate.task(3)
    claims = replace(gate.desk.handed_on(state), aud=TICKETS, scopes=(READ,))
    await gate.reserve(gate.signed(claims), target="T-8812")
    (entry,) = await gate.desk.entries("action.reserved")
    assert (entry["agent"], entry["on_behalf_of"], entry["actors"]) == ("other", "triage", ["other"])
    assert (entry["token"], entry["task"], entry["by"]) == (claims.jti, state.task.id, "tickets-server")


async def test_refusals_are_recorded_within_an_allowance(gate: Gate) -> None:
    """An agent whose budget is used up cannot fill the ledger; every refusal is counted."""
    _, token = await gate.task(0)
    for _ in range(RECORDED_REFUSALS + 5):
        assert (await gate.refused(token)).code is Code.BUDGET_USED_UP
    assert len(await gate.desk.entries("action.refused")) == RECORDED_REFUSALS
    assert gate.world.meter.refusals["budget_used_up"] == RECORDED_REFUSALS + 5


@pytest.mark.parametrize("named", [True, False])
async def test_a_person_can_lift_a_budget_of_which_nothing_was_used(gate: Gate, named: bool) -> None:
    """Also that of a task which nobody opened, and which nothing has made the ledger store so far."""
    gate.lifted_by("responders")
    gate.desk.limit(actions={READ: 1})
    state, inside = await gate.task(1)
    token = inside if named else gate.token()
    pending = await gate.refused(token, count=3)
    assert isinstance(pending, Pending)
    await gate.approve(pending.auth_req_id)
    made = await gate.reserve(token, count=3, auth_req_id=pending.auth_req_id)
    balances = (await gate.desk.records.task(made.action.task)).balances  # type: ignore[union-attr]
    assert (balances[f"action:{READ}"].limit, balances[f"action:{READ}"].used) == (4, 3)
    assert await gate.used(state) == (3 if named else 0)


async def test_requests_that_go_on_with_one_approval_lift_once(gate: Gate) -> None:
    """However often it comes at the same time: as many get through as were added, and nobody hears of a misuse."""
    gate.lifted_by("responders", adds=2)
    state, token = await gate.task(0)
    pending = await gate.refused(token)
    assert isinstance(pending, Pending)
    await gate.approve(pending.auth_req_id)
    again = [gate.reserve(token, auth_req_id=pending.auth_req_id) for _ in range(5)]
    made = await asyncio.gather(*again, return_exceptions=True)
    assert sum(isinstance(one, ActionState) for one in made) == 2
    assert {one.code for one in made if isinstance(one, BrokerError)} == {Code.AUTHORIZATION_PENDING}
    assert len({one.auth_req_id for one in made if isinstance(one, Pending)}) == 1
    assert (await gate.used(state), len(await gate.desk.entries("budget.raised"))) == (2, 1)


@pytest.mark.parametrize("changed", [{"count": 4}, {"action": "search", "scope": READ}])
async def test_an_approval_lifts_nothing_else(gate: Gate, changed: dict[str, Any]) -> None:
    """Not for more, not for another action, and not for another agent's token of the same task."""
    gate.lifted_by("responders", adds=2)
    state, token = await gate.task(0)
    pending = await gate.refused(token)
    assert isinstance(pending, Pending)
    await gate.approve(pending.auth_req_id)
    assert (await gate.refused(token, auth_req_id=pending.auth_req_id, **changed)).code is Code.APPROVAL_INVALID
    other = gate.signed(replace(gate.desk.handed_on(state), aud=TICKETS, scopes=(READ,)))
    assert (await gate.refused(other, auth_req_id=pending.auth_req_id)).code is Code.APPROVAL_INVALID
    assert (await gate.reserve(token, auth_req_id=pending.auth_req_id)).action.count == 1


# --- settling -------------------------------------------------------------------------------------------------------


async def test_what_is_settled_twice_says_what_was_first(gate: Gate) -> None:
    """The same outcome again is answered as it was recorded; another one is a conflict, and the budget stays."""
    state, token = await gate.task(3)
    made = await gate.reserve(token)
    first = await gate.settle(made, "done", "paid")
    assert await gate.settle(made, "done", "paid again") == first
    with pytest.raises(BrokerError) as refused:
        await gate.settle(made, "not_done")
    assert refused.value.code is Code.CONFLICT
    assert await gate.used(state) == 1
    assert len(await gate.desk.entries("action.settled")) == 1


async def test_settlements_that_race_agree(gate: Gate) -> None:
    """Of two outcomes at the same time one holds; those who said that one are answered, the others are refused."""
    state, token = await gate.task(3)
    made = await gate.reserve(token)
    outcomes = ["done", "not_done"] * 5
    answers = await asyncio.gather(*(gate.settle(made, one, one) for one in outcomes), return_exceptions=True)
    held = (await gate.actions.show(made.action.id)).outcome
    assert held in {"done", "not_done"}
    for said, answer in zip(outcomes, answers, strict=True):
        if said == held:
            assert isinstance(answer, ActionState)
            assert answer.result == held
        else:
            assert isinstance(answer, BrokerError)
            assert answer.code is Code.CONFLICT
    assert await gate.used(state) == (1 if held == "done" else 0)


async def test_there_is_an_end_to_settling(gate: Gate) -> None:
    """At ``settle_by`` and after, what was never settled counts as done for good."""
    state, token = await gate.task(3)
    first, second = await gate.reserve(token), await gate.reserve(token)
    gate.world.clock.time = int(gate.world.clock.time) + SETTLE_SECONDS - 0.001
    await gate.settle(first, "not_done")
    gate.world.clock.time = second.action.settle_by
    with pytest.raises(BrokerError) as refused:
        await gate.settle(second, "not_done")
    assert refused.value.code is Code.CONFLICT
    assert await gate.used(state) == 1


async def test_only_who_reserved_may_settle(gate: Gate) -> None:
    """To every other server, and for what was never reserved, there is no such action."""
    _, token = await gate.task(3)
    made = await gate.reserve(token)
    gate.by = gate.server("second-server")
    for one in (made, replace(made, action=replace(made.action, id="act_never"))):
        with pytest.raises(BrokerError) as refused:
            await gate.settle(one)
        assert (refused.value.code, refused.value.public) == (Code.NOT_FOUND, "no such action was reserved")


async def test_settling_works_whatever_was_revoked_meanwhile(gate: Gate) -> None:
    """The token, the task, the agent: what was begun gets its outcome, and the budget what was not done."""
    state, token = await gate.task(3)
    done, undone = await gate.reserve(token), await gate.reserve(token)
    await gate.world.revoke(task=state.task.id)
    await gate.world.revoke(agent="triage")
    await gate.settle(done, "done")
    await gate.settle(undone, "not_done")
    assert await gate.used(state) == 1
    assert (await gate.refused(token)).code is Code.SUBJECT_TOKEN_INVALID


@pytest.mark.parametrize(
    ("outcome", "result"), [("", None), ("Done", None), ("done", ""), ("done", "a\nb"), ("done", "x" * 513)]
)
async def test_an_outcome_must_be_one(gate: Gate, outcome: str, result: str | None) -> None:
    """Done or not done, with a few printable words."""
    _, token = await gate.task(3)
    made = await gate.reserve(token)
    with pytest.raises(Malformed):
        await gate.settle(made, outcome, result)
    assert (await gate.actions.show(made.action.id)).outcome is None
