"""Revoking: in force at once, written once, answered honestly."""

from __future__ import annotations

import asyncio

import pytest

from broker.core.change import AddRule, Change, EpochIs
from broker.core.entry import Kind, entry
from broker.core.errors import BrokerError, Code, GuardFailed, Refused, Unavailable
from broker.core.revoking import MAX_REASON, MAX_TIME, Making, making
from broker.core.rules import Rule
from broker.core.selector import Selector, parse_selector
from broker.ports import Hits
from broker.revocation import LOOKUP_BOUND, BlockFor, Order, Outcome
from tests.support.fakes import CALLER, NOW, Fault, cancelled_after, settled
from tests.support.world import TICKETS, TRIAGE, World, order


@pytest.fixture
def world() -> World:
    """A broker of its own for each test."""
    return World()


def commit_other_rule(world: World, number: int) -> None:
    """Commit a rule as another request does."""
    rule = Rule(f"rule_other_{number}", Selector(agent="somebody"), number, NOW, "op", "r")
    record = entry(Kind.RULE_ADDED, NOW, ref=rule.id, number=number, selector=rule.selector.to_dict())
    world.memory.apply(Change(record, (EpochIs(number - 1),), (AddRule(rule),)))


def rules_written(world: World) -> list[str]:
    """Return the ids of the rules that have entries, in their order."""
    return [str(members["ref"]) for members in world.memory.members(Kind.RULE_ADDED)]


async def revoked(world: World, wanted: Order) -> Outcome:
    """Carry out an order."""
    return await world.revocation.revoke(wanted, CALLER)


# --- one rule, whatever it hits (law 3) -----------------------------------------------------------------------------


async def test_a_rule_kills_what_it_covers_and_nothing_issued_after_it(world: World) -> None:
    """Tokens from before are dead the moment the answer comes; the same agent's next token lives."""
    old, other = await world.issue(), await world.issue("other")
    outcome = await world.revoke(agent="triage")
    new = await world.issue()
    assert outcome.durable
    assert [world.lives(issued.token) for issued in (old, other, new)] == [False, True, True]


async def test_the_outcome_says_what_was_hit(world: World) -> None:
    """The count is of tokens that lived just before, by this rule: not expired ones, not those already dead."""
    one = await world.issue()
    await world.issue()
    await world.issue("other")
    first = await world.revoke(token=one.claims.jti)
    assert first.hits == Hits(tokens=1, tasks=1, agents=1, latest_expiry=int(NOW) + 900)
    second = await world.revoke(agent="triage")
    assert second.hits == Hits(tokens=1, tasks=1, agents=1, latest_expiry=int(NOW) + 900)
    third = await world.revoke(agent="triage")
    assert third.hits == Hits(tokens=0, tasks=0, agents=0, latest_expiry=None)


async def test_a_preview_says_the_same_and_changes_nothing(world: World) -> None:
    """What an operator sees before is what they get after."""
    await world.issue()
    selector = Selector(audience=TICKETS)
    preview = await world.revocation.preview(selector)
    assert "rule.added" not in world.memory.kinds()
    assert len(world.revocations.rules) == 0
    outcome = await revoked(world, order(selector))
    assert outcome.hits == preview


async def test_the_record_says_who_revoked_what_and_why(world: World) -> None:
    """The entry has the selector, the number, the reason, the incident, the operator and the block."""
    wanted = Order(selector=TRIAGE, reason="ticket 8812", by="alice", incident="inc_1", block=BlockFor(until=NOW + 60))
    outcome = await revoked(world, wanted)
    (members,) = world.memory.members(Kind.RULE_ADDED)
    assert outcome.block is not None
    assert members == {
        "v": 1,
        "kind": "rule.added",
        "at": int(NOW * 1000),
        "ref": outcome.rule.id,
        "number": 1,
        "selector": {"agent": "triage"},
        "by": "alice",
        "reason": "ticket 8812",
        "incident": "inc_1",
        "block": {"id": outcome.block.id, "until": int(NOW + 60)},
        **CALLER.members(),
    }
    assert (outcome.rule.number, outcome.block.rule) == (1, 1)
    assert world.meter.revocations == [True]


async def test_a_rule_that_others_overtake_gets_the_next_number(world: World) -> None:
    """Two revocations at once both count; each has its own number."""
    world.memory.before.append(lambda: commit_other_rule(world, 1))
    outcome = await world.revoke(agent="triage")
    assert outcome.rule.number == 2
    assert world.revocations.rules.epoch == 2


async def test_many_at_once_are_numbered_without_gaps(world: World) -> None:
    """However they interleave, each rule is written once."""
    outcomes = await asyncio.gather(*(world.revoke(token=f"tok_{n}") for n in range(20)))
    assert sorted(outcome.rule.number or 0 for outcome in outcomes) == list(range(1, 21))
    assert len(set(rules_written(world))) == len(rules_written(world)) == 20
    assert world.memory.attempts == 20  # one after the other, without getting in each other's way


@pytest.mark.parametrize("fault", list(Fault))
async def test_one_that_fails_in_a_burst_holds_no_other_up(world: World, fault: Fault) -> None:
    """Those that were numbered after it are numbered again; it is written later, once."""
    failing = 4

    def fail() -> None:
        world.memory.faults.append(fault)

    world.memory.before.extend([*[lambda: None] * (failing - 1), fail])
    outcomes = await asyncio.gather(*(world.revoke(token=f"tok_{n}") for n in range(12)))
    # What was written although it failed is known to be written as soon as the ledger is used again.
    assert [outcome.durable for outcome in outcomes].count(False) == (1 if fault is Fault.NOT_APPLIED else 0)
    assert await world.revocation.write_pending() == 0
    assert sorted(rules_written(world)) == sorted(outcome.rule.id for outcome in outcomes)
    assert world.memory.attempts < 3 * len(outcomes)


async def test_a_burst_with_a_reused_key_in_it_is_sorted_out(world: World) -> None:
    """The guard of one fails in the middle: it is answered from the first, the others are written."""
    wanted = [order(Selector(token=f"tok_{n}"), key="same" if n in {2, 5} else f"k{n}") for n in range(8)]
    wanted[5] = wanted[2]
    outcomes = await asyncio.gather(*(revoked(world, one) for one in wanted))
    assert outcomes[2].rule.id == outcomes[5].rule.id
    assert len(rules_written(world)) == len(world.revocations.rules) == 7


async def test_counting_never_holds_the_answer_up(world: World) -> None:
    """A count that takes long is left out; the rule is durable and in force all the same."""
    issued = await world.issue()
    world.reading.gate = asyncio.Event()
    outcome = await world.revoke(agent="triage")
    assert outcome.durable
    assert outcome.hits is None
    assert not world.lives(issued.token)
    world.reading.gate.set()
    await settled()


async def test_a_count_that_fails_does_not_fail_the_revocation(world: World) -> None:
    """Reading broken, writing not: the answer says durable, without a count."""
    world.reading.down = True
    outcome = await world.revoke(agent="triage")
    assert (outcome.durable, outcome.hits) == (True, None)


# --- with the ledger down (law 1) -----------------------------------------------------------------------------------


async def test_it_acts_while_the_ledger_is_down_and_says_so(world: World) -> None:
    """In force in memory at once, not durable, and told to the operator's log."""
    issued = await world.issue()
    world.memory.down = True
    outcome = await world.revoke(agent="triage")
    assert not outcome.durable
    assert outcome.rule.number is None
    assert not world.lives(issued.token)
    assert world.meter.revocations == [False]
    assert world.events.logged == [
        ("error", "rule.not_durable", {"rule": outcome.rule.id, "code": "ledger_unavailable"})
    ]


async def test_it_is_written_when_the_ledger_is_back(world: World) -> None:
    """Once, under the next number; what it had killed stays dead, and what is granted after it lives."""
    issued = await world.issue()
    world.memory.down = True
    outcome = await world.revoke(agent="triage")
    assert await world.revocation.write_pending() == 1
    world.memory.down = False
    assert await world.revocation.write_pending() == 0
    assert await world.revocation.write_pending() == 0
    assert rules_written(world) == [outcome.rule.id]
    assert world.events.names() == ["rule.not_durable", "rule.written_late"]
    assert not world.lives(issued.token)
    assert world.lives((await world.issue()).token)


async def test_a_token_granted_before_a_pending_rule_is_written_is_dead(world: World) -> None:
    """The ledger is back, the rule is not written yet: a token issued in between is covered and stays dead."""
    world.memory.down = True
    await world.revoke(agent="triage")
    world.memory.down = False
    between = await world.issue()
    assert not world.lives(between.token)
    await world.revocation.write_pending()
    assert not world.lives(between.token)


async def test_pending_rules_are_written_in_the_order_they_were_made(world: World) -> None:
    """The first failure ends a round: the others are tried after it, in their order."""
    world.memory.down = True
    made = [await world.revoke(agent=name) for name in ("a", "b", "c")]
    world.memory.down = False
    world.memory.faults.append(Fault.NOT_APPLIED)
    assert await world.revocation.write_pending() == 3
    assert await world.revocation.write_pending() == 0
    assert rules_written(world) == [outcome.rule.id for outcome in made]


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_rule_whose_outcome_was_unknown_is_not_written_twice(world: World, key: str | None) -> None:
    """Failed but applied: the ledger knows the rule when it is back, and no second one is made of it."""
    world.memory.faults.append(Fault.APPLIED)
    outcome = await revoked(world, order(key=key, block=BlockFor()))
    assert not outcome.durable
    assert await world.revocation.write_pending() == 0
    assert rules_written(world) == [outcome.rule.id]
    rule = world.revocations.rules.get(outcome.rule.id)
    assert rule is not None
    assert rule.number == 1
    assert len(world.revocations.blocks.live(NOW)) == 1


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_rule_in_doubt_that_others_follow_is_not_written_twice(world: World, key: str | None) -> None:
    """Also when other rules were made since, so that the epoch moved by more than one."""
    world.memory.faults.append(Fault.APPLIED)
    outcome = await revoked(world, order(key=key))
    commit_other_rule(world, 2)
    await world.revoke(agent="other")
    assert await world.revocation.write_pending() == 0
    assert rules_written(world).count(outcome.rule.id) == 1


async def test_writing_late_twice_at_once_writes_once(world: World) -> None:
    """Two rounds at the same time do not make two rules of one."""
    world.memory.down = True
    outcome = await world.revoke(agent="triage")
    world.memory.down = False
    left = await asyncio.gather(world.revocation.write_pending(), world.revocation.write_pending())
    assert list(left) == [0, 0]
    assert rules_written(world) == [outcome.rule.id]


async def test_an_unforeseen_error_from_the_ledger_is_raised_and_the_rule_kept(world: World) -> None:
    """Whatever the ledger raises, a rule that is in force is written later."""
    issued = await world.issue()
    commit = world.memory.commit

    async def broken(change: Change) -> None:
        raise RuntimeError("a bug")

    world.memory.commit = broken  # type: ignore[assignment,method-assign]
    with pytest.raises(RuntimeError, match="a bug"):
        await world.revoke(agent="triage")
    assert not world.lives(issued.token)
    world.memory.commit = commit  # type: ignore[method-assign]
    assert await world.revocation.write_pending() == 0
    assert len(rules_written(world)) == 1


# --- cancellation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancelled_request_does_not_undo_its_rule(world: World, turns: int) -> None:
    """Cancelled at any await, the rule was either never made, or is in force and written once."""
    issued = await world.issue()
    await cancelled_after(world.revoke(agent="triage"), turns)
    assert len(rules_written(world)) == len(world.revocations.rules)
    assert len(rules_written(world)) <= 1
    assert world.lives(issued.token) == (not rules_written(world))
    if turns > 1:
        assert rules_written(world)


@pytest.mark.parametrize("turns", range(2, 10))
async def test_a_cancelled_request_with_the_ledger_down_does_not_undo_its_rule(world: World, turns: int) -> None:
    """Nobody waits for the answer any more; the rule is in force and will be written."""
    issued = await world.issue()
    world.memory.down = True
    await cancelled_after(world.revoke(agent="triage"), turns)
    assert not world.lives(issued.token)
    world.memory.down = False
    assert await world.revocation.write_pending() == 0
    assert len(rules_written(world)) == 1


# --- idempotency ----------------------------------------------------------------------------------------------------


async def test_the_same_request_twice_is_one_rule(world: World) -> None:
    """The second answer is about the first rule."""
    first = await revoked(world, order(key="k", block=BlockFor(seconds=3600)))
    world.clock.time += 5
    second = await revoked(world, order(key="k", block=BlockFor(seconds=3600)))
    assert second == first
    assert len(rules_written(world)) == 1


async def test_a_repeated_request_does_not_kill_what_was_issued_since(world: World) -> None:
    """The rule is from then: a token issued after it lives, also while the request is repeated."""
    await revoked(world, order(key="k"))
    since = await world.issue()
    again = asyncio.ensure_future(revoked(world, order(key="k")))
    for _ in range(20):
        assert world.lives(since.token)
        await asyncio.sleep(0)
    assert (await again).rule.number == 1
    assert world.lives(since.token)


@pytest.mark.parametrize(
    "other",
    [
        order(Selector(agent="other"), key="k"),
        order(reason="another", key="k"),
        order(key="k", block=BlockFor()),
        Order(selector=TRIAGE, reason="it misbehaves", by="alice", incident="i", idempotency_key="k"),
    ],
)
async def test_a_key_is_good_for_one_request(world: World, other: Order) -> None:
    """Another body under the same key is refused, and does nothing."""
    await revoked(world, order(key="k"))
    victim = await world.issue("other")
    with pytest.raises(Refused) as refused:
        await revoked(world, other)
    assert refused.value.code is Code.IDEMPOTENCY_KEY_REUSED
    assert len(rules_written(world)) == len(world.revocations.rules) == 1
    assert world.lives(victim.token)


async def test_operators_do_not_share_keys(world: World) -> None:
    """The same key from another operator is another request."""
    await revoked(world, order(key="k"))
    await revoked(world, order(key="k", by="bob"))
    assert len(rules_written(world)) == 2


async def test_two_at_once_with_one_key_are_one_rule(world: World) -> None:
    """Both get the same answer, and one rule is left in force."""
    outcomes = await asyncio.gather(*(revoked(world, order(key="k", block=BlockFor())) for _ in range(4)))
    assert len({outcome.rule.id for outcome in outcomes}) == 1
    assert len(rules_written(world)) == len(world.revocations.rules) == 1
    assert len(world.revocations.blocks.live(NOW)) == 1


async def test_two_different_ones_at_once_with_one_key(world: World) -> None:
    """One is carried out, the other refused, and nothing of it stays."""
    answers = await asyncio.gather(
        revoked(world, order(key="k")), revoked(world, order(TRIAGE, reason="b", key="k")), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, BrokerError)]
    assert [error.code for error in refused] == [Code.IDEMPOTENCY_KEY_REUSED]
    assert len(rules_written(world)) == len(world.revocations.rules) == 1


async def test_a_look_up_that_hangs_does_not_hold_a_revocation_up(world: World) -> None:
    """Revoking comes first: a store that does not answer costs a moment, then the rule is in force."""
    issued = await world.issue()
    world.reading.gate = asyncio.Event()
    started = asyncio.get_running_loop().time()
    outcome = await revoked(world, order(key="k"))
    assert outcome.durable
    assert not world.lives(issued.token)
    assert asyncio.get_running_loop().time() - started < LOOKUP_BOUND * 20
    world.reading.gate.set()
    await settled()


async def test_a_repeated_request_whose_look_up_hangs_still_makes_one_rule(world: World) -> None:
    """The guard in the transaction is what counts; the answer comes when it can be read."""
    first = await revoked(world, order(key="k"))
    gate = world.reading.gate = asyncio.Event()
    again = asyncio.ensure_future(revoked(world, order(key="k")))
    await asyncio.sleep(LOOKUP_BOUND * 2)
    gate.set()
    assert (await again).rule == first.rule
    assert len(rules_written(world)) == len(world.revocations.rules) == 1


async def test_a_repeated_request_while_the_ledger_is_down_makes_one_rule(world: World) -> None:
    """The second answer is about the rule that waits to be written; another body is refused."""
    world.memory.down = world.reading.down = True
    first = await revoked(world, order(key="k"))
    assert await revoked(world, order(key="k")) == first
    with pytest.raises(Refused) as refused:
        await revoked(world, order(key="k", reason="another"))
    assert refused.value.code is Code.IDEMPOTENCY_KEY_REUSED
    world.memory.down = world.reading.down = False
    await world.revocation.write_pending()
    assert len(rules_written(world)) == 1
    again = await revoked(world, order(key="k"))
    assert (again.rule.id, again.durable) == (first.rule.id, True)


async def test_a_rule_that_was_promised_stays_although_its_key_went_to_another(world: World) -> None:
    """An answer said that it is in force: it is written without the key, not taken back."""
    world.memory.down = True
    promised = await revoked(world, order(key="k"))
    world.memory.down = False
    competitor = World()
    competitor.revocations, competitor.ids = world.revocations, world.ids
    competitor.compose(world.memory, world.reading)
    await revoked(competitor, order(key="k", reason="another"))
    assert await world.revocation.write_pending() == 0
    rule = world.revocations.rules.get(promised.rule.id)
    assert rule is not None
    assert rule.number == 2


async def test_a_key_may_hold_anything_a_header_can(world: World) -> None:
    """Bytes that are no Unicode come as lone surrogates; they are a key like any other."""
    first = await revoked(world, order(key="k\udcff"))
    assert await revoked(world, order(key="k\udcff")) == first
    assert (await revoked(world, order(key="k\udcfe"))).rule != first.rule


# --- blocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "until"),
    [(BlockFor(), None), (BlockFor(until=NOW + 60), NOW + 60), (BlockFor(seconds=3600), NOW + 3600)],
)
async def test_a_block_ends_when_it_was_told_to(world: World, block: BlockFor, until: float | None) -> None:
    """Until a time, for a time, or until it is lifted."""
    outcome = await world.revoke(agent="triage", block=block)
    assert outcome.block is not None
    assert outcome.block.until == until
    assert world.revocations.blocks.get(outcome.block.id) == outcome.block


@pytest.mark.parametrize(
    "block",
    [
        BlockFor(until=NOW),
        BlockFor(until=0),
        BlockFor(until=float("nan")),
        BlockFor(until=float("inf")),
        BlockFor(until=MAX_TIME + 1),
        BlockFor(until=1e300),
        BlockFor(seconds=0),
        BlockFor(seconds=-1),
        BlockFor(seconds=float("nan")),
        BlockFor(seconds=float("inf")),
        BlockFor(until=NOW + 1, seconds=1),
    ],
)
async def test_a_block_that_could_not_end_well_is_refused(world: World, block: BlockFor) -> None:
    """In the past, at no time, or beyond all times: refused before anything is in force."""
    with pytest.raises(Refused) as refused:
        await world.revoke(agent="triage", block=block)
    assert refused.value.code is Code.MALFORMED_REQUEST
    assert len(world.revocations.rules) == 0
    assert not world.memory.entries


async def test_lifting_leaves_dead_tokens_dead(world: World) -> None:
    """The block ends; the rule does not."""
    issued = await world.issue()
    outcome = await world.revoke(agent="triage", block=BlockFor())
    assert outcome.block is not None
    await world.revocation.lift(outcome.block.id, by="bob", reason="all clear", caller=CALLER)
    assert world.revocations.blocks.get(outcome.block.id) is None
    assert not world.lives(issued.token)
    (members,) = world.memory.members(Kind.BLOCK_LIFTED)
    assert (members["ref"], members["by"], members["reason"]) == (outcome.block.id, "bob", "all clear")


async def test_a_block_is_lifted_once(world: World) -> None:
    """A second time, and a block that never was, are not found and leave no entry."""
    outcome = await world.revoke(agent="triage", block=BlockFor())
    assert outcome.block is not None
    await world.revocation.lift(outcome.block.id, by="bob", reason="all clear", caller=CALLER)
    for block_id in (outcome.block.id, "blk_never"):
        with pytest.raises(GuardFailed) as failed:
            await world.revocation.lift(block_id, by="bob", reason="all clear", caller=CALLER)
        assert failed.value.code is Code.NOT_FOUND
    assert len(world.memory.members(Kind.BLOCK_LIFTED)) == 1


async def test_lifting_needs_the_ledger(world: World) -> None:
    """What takes protection away is recorded first: with the ledger down the block stays."""
    outcome = await world.revoke(agent="triage", block=BlockFor())
    assert outcome.block is not None
    world.memory.down = True
    with pytest.raises(Unavailable):
        await world.revocation.lift(outcome.block.id, by="bob", reason="all clear", caller=CALLER)
    assert world.revocations.blocks.get(outcome.block.id) is not None


async def test_a_block_that_was_not_written_yet_can_be_lifted(world: World) -> None:
    """It is written first, so that the ledger knows what was lifted."""
    world.memory.down = True
    outcome = await world.revoke(agent="triage", block=BlockFor())
    world.memory.down = False
    assert outcome.block is not None
    await world.revocation.lift(outcome.block.id, by="bob", reason="all clear", caller=CALLER)
    assert world.memory.kinds() == ["rule.added", "block.lifted"]
    assert world.revocations.blocks.get(outcome.block.id) is None


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancelled_lift_is_whole(world: World, turns: int) -> None:
    """Memory and ledger agree on whether the block is in force."""
    outcome = await world.revoke(agent="triage", block=BlockFor())
    assert outcome.block is not None
    await cancelled_after(world.revocation.lift(outcome.block.id, by="bob", reason="ok", caller=CALLER), turns)
    lifted = world.revocations.blocks.get(outcome.block.id) is None
    assert lifted == ("block.lifted" in world.memory.kinds())


# --- later questions about a rule -----------------------------------------------------------------------------------


async def test_the_outcome_of_a_pending_rule_shows_its_own_block(world: World) -> None:
    """Two rules wait to be written: each is shown with the block that was made with it."""
    world.memory.down = True
    plain = await world.revoke(agent="a")
    blocked = await world.revoke(agent="b", block=BlockFor())
    assert (await world.revocation.outcome(plain.rule)).block is None
    shown = await world.revocation.outcome(blocked.rule)
    assert (shown.block, shown.durable, shown.hits) == (blocked.block, False, None)


async def test_the_outcome_of_an_old_rule_counts_as_of_then(world: World) -> None:
    """What it hit then is what is shown, whatever was issued or revoked since."""
    await world.issue()
    outcome = await world.revoke(agent="triage")
    await world.issue()
    await world.revoke(everything=True)
    shown = await world.revocation.outcome(outcome.rule)
    assert shown.hits == outcome.hits == Hits(tokens=1, tasks=1, agents=1, latest_expiry=int(NOW) + 900)


async def test_an_outcome_that_cannot_be_counted_is_shown_without(world: World) -> None:
    """A store that cannot be read fails the count, not the answer."""
    outcome = await world.revoke(agent="triage")
    world.reading.down = True
    shown = await world.revocation.outcome(outcome.rule)
    assert (shown.rule, shown.hits, shown.durable) == (outcome.rule, None, True)


# --- bad orders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", " ", "\u3000", "a\nb", "a\x00", "\x1b[31mred", "a\u2028b", "\u202eabc", "\ud800", "x" * (MAX_REASON + 1)],
)
async def test_a_reason_is_one_line_that_says_something(world: World, text: str) -> None:
    """Empty, endless, or with characters that could forge a log line or hide: refused, and nothing happens."""
    for bad in (
        order(reason=text),
        Order(selector=TRIAGE, reason="fine", by="alice", incident=text),
    ):
        with pytest.raises(Refused) as refused:
            await revoked(world, bad)
        assert refused.value.code is Code.MALFORMED_REQUEST
    with pytest.raises(Refused):
        await world.revocation.lift("blk_1", by="alice", reason=text, caller=CALLER)
    assert len(world.revocations.rules) == 0
    assert world.memory.attempts == 0


async def test_the_longest_order_fits_an_entry(world: World) -> None:
    """Every field at its longest, in characters that take the most bytes: it is still carried out and written."""
    wide = "\U00020000"
    fields = ("token", "lease", "task", "key", "agent", "secret", "backend", "role", "scope", "audience")
    selector = parse_selector({**dict.fromkeys(fields, wide * 512), "tier": '"' * 512, "issuer": "\\" * 512})
    wanted = Order(
        selector=selector, reason=wide * MAX_REASON, by="a" * 512, incident=wide * MAX_REASON, block=BlockFor()
    )
    assert (await revoked(world, wanted)).durable


# --- other processes of the same ledger -----------------------------------------------------------------------------


async def test_others_hear_only_of_rules_that_the_ledger_does_not_tell_them(world: World) -> None:
    """A rule that is durable is told by the ledger; one that is not is told before the answer, and settled once."""
    await world.revoke(agent="written")
    assert world.siblings.told == []
    world.memory.down = True
    outcome = await world.revoke(agent="triage", block=BlockFor())
    assert [made.rule.id for made in world.siblings.told] == [outcome.rule.id]
    assert await world.revocation.write_pending() == 1
    world.memory.down = False
    assert await world.revocation.write_pending() == 0
    assert len(world.siblings.told) == 1
    assert world.siblings.settled_rules == [outcome.rule.id]


async def test_a_rule_that_takes_long_to_write_is_told_meanwhile(world: World) -> None:
    """A disk that hangs holds up nobody's protection: the others know the rule before its commit has ended."""
    world.memory.held = asyncio.Event()
    revoking = asyncio.ensure_future(world.revoke(agent="triage"))
    await asyncio.wait_for(world.siblings.heard.wait(), 30)
    assert not revoking.done()
    world.memory.held.set()
    outcome = await revoking
    assert outcome.durable
    assert world.siblings.settled_rules == [outcome.rule.id]


async def test_a_rule_that_was_heard_is_in_force_and_left_to_its_writer(world: World) -> None:
    """It kills, blocks, answers for its idempotency key, and goes when it was withdrawn."""
    issued = await world.issue()
    made = made_elsewhere(order(key="k", block=BlockFor()))
    world.revocation.hear(made, adopt=False)
    assert not world.lives(issued.token)
    assert len(world.revocations.blocks.live(NOW)) == 1
    repeated = await revoked(world, order(key="k", block=BlockFor()))
    assert (repeated.rule.id, repeated.durable) == (made.rule.id, False)
    await world.revocation.write_pending()
    assert rules_written(world) == []
    world.revocation.forget(made.rule.id)
    world.revocation.forget(made.rule.id)
    assert world.lives(issued.token)
    assert world.revocations.blocks.live(NOW) == ()


async def test_a_rule_whose_writer_has_died_is_written_by_its_heir(world: World) -> None:
    """Once, whether or not the one that died got it written."""
    made = made_elsewhere(order())
    world.revocation.hear(made, adopt=False)
    world.revocation.hear(made, adopt=True)
    world.revocation.forget(made.rule.id)  # said of it when it belonged to somebody else
    assert await world.revocation.write_pending() == 0
    assert rules_written(world) == [made.rule.id]
    assert world.siblings.settled_rules == [made.rule.id]
    world.revocation.hear(made, adopt=True)
    assert await world.revocation.write_pending() == 0
    assert rules_written(world) == [made.rule.id]


async def test_hearing_late_of_a_rule_that_was_written_changes_nothing(world: World) -> None:
    """What is in force with its number does not go back to standing above every epoch."""
    made = made_elsewhere(order())
    world.revocation.hear(made, adopt=True)
    await world.revocation.write_pending()
    world.revocation.hear(made, adopt=False)
    assert world.lives((await world.issue()).token)
    world.revocation.forget(made.rule.id)
    rule = world.revocations.rules.get(made.rule.id)
    assert rule is not None
    assert rule.number == 1


def made_elsewhere(ordered: Order) -> Making:
    """Return a rule as another process makes it."""
    return making(ordered, rule_id="rule_elsewhere", block_id="blk_elsewhere", now=NOW, origin={})
