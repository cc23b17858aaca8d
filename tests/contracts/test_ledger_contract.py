"""What every ledger promises through the ports ``Ledger`` and ``Records``, whatever it is stored in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from broker.core.change import (
    AddEnrollment,
    AgentAbsent,
    Change,
    EnrollmentOpen,
    EpochIs,
    IdempotencyFresh,
    PutAgent,
    RateWithin,
    Receipt,
    Unused,
)
from broker.core.entry import Kind, entry
from broker.core.errors import Code, EpochMoved, GuardFailed, Refused, Unavailable
from broker.core.jwk import thumbprint
from broker.core.merkle import leaf_hash, verify_consistency, verify_inclusion
from broker.core.rules import Block, Rule
from broker.core.selector import Selector
from broker.ports import Hits, Idempotent, Place
from tests.support.ledgers import (
    NOW,
    TTL,
    Bench,
    added,
    digest,
    issued,
    lifted,
    noted,
    opened,
    outcomes,
    public_key,
    registered,
    removed,
    rotated,
    stored_key,
)


def sign(size: int, root: bytes) -> str:
    """Make a note that shows what was signed."""
    return f"{size} {root.hex()}"


@pytest.fixture
async def bench(place: Place) -> AsyncIterator[Bench]:
    """An open ledger of each kind; whatever a test does to it, it verifies afterwards."""
    async with opened(place, sign=sign) as bench:
        yield bench
        await bench.verified()


def failure(outcome: object) -> tuple[Code, int | None]:
    """Return code and waiting time of a guard that failed."""
    assert isinstance(outcome, GuardFailed)
    return outcome.code, outcome.retry_after


# --- committing -----------------------------------------------------------------------------------------------------


async def test_changes_get_their_places_in_order(bench: Bench) -> None:
    """The first entry is number 0; every entry can be read back, byte by byte, at the place its receipt names."""
    for number in range(5):
        change = noted(number=number)
        receipt = await bench.ledger.commit(change)
        assert receipt == Receipt(number, 0)
        record = await bench.ledger.record(number)
        assert record is not None
        assert record.body == change.entry.body
        assert record.members["number"] == number


async def test_concurrent_changes_each_get_a_place(bench: Bench) -> None:
    """However they are grouped, a thousand changes at once are a thousand entries, without gaps."""
    receipts = await outcomes(bench.ledger, [noted(number=number) for number in range(1000)])
    places = sorted(receipt.seq for receipt in receipts if isinstance(receipt, Receipt))
    assert places == list(range(1000))
    assert (await bench.ledger.head()).size == 1000


async def test_cancelling_the_caller_does_not_undo_the_change(bench: Bench) -> None:
    """A caller that goes away after its change was accepted leaves a committed change behind."""
    task = asyncio.create_task(bench.ledger.commit(noted(number=1)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bench.ledger.commit(noted(number=2))
    first = await bench.ledger.record(0)
    assert first is not None
    assert first.members["number"] == 1


async def test_a_refused_change_leaves_no_trace_and_disturbs_no_other(bench: Bench) -> None:
    """Of a batch, exactly the changes whose guards hold are applied."""
    used = Unused(digest("a"), int(NOW) + 60, "assertion")
    await bench.ledger.commit(noted(used))
    results = await outcomes(bench.ledger, [noted(number=1), noted(used, number=2), noted(number=3)])
    assert isinstance(results[0], Receipt)
    assert failure(results[1]) == (Code.ASSERTION_REPLAYED, None)
    assert isinstance(results[2], Receipt)
    numbers = [record.members.get("number") for record in await bench.ledger.records()]
    assert numbers == [None, 1, 3]


# --- the epoch ------------------------------------------------------------------------------------------------------


async def test_a_rule_moves_the_epoch_and_is_in_force_when_it_is_acknowledged(bench: Bench) -> None:
    """Who commits a rule sees it in the shared index, with its number and its end."""
    await bench.issue("tok_1", expires_at=int(NOW) + 5000)
    pending = Rule("rule_a", Selector(role="support-triage"), None, NOW, "op", "leaked")
    bench.revocations.rules.add(pending)
    receipt = await bench.ledger.commit(added(replace(pending, number=1)))
    assert receipt.epoch == 1
    assert bench.epoch == 1
    rule = bench.revocations.rules.get("rule_a")
    assert rule is not None
    assert rule.number == 1
    assert rule.ends_at == int(NOW) + 5000 + 300
    assert len(bench.revocations.rules) == 1
    assert await bench.ledger.rule(1) == rule


async def test_a_rule_outlives_its_moment_even_if_no_token_lives(bench: Bench) -> None:
    """A rule that hits nothing still stands for the margin."""
    rule = await bench.revoke(Selector(everything=True))
    assert rule.ends_at == NOW + 300


async def test_a_rule_for_one_token_ends_with_that_token(bench: Bench) -> None:
    """Agents that give their tokens back leave rules that are soon over, however long others' tokens live."""
    await bench.issue("tok_short", expires_at=int(NOW) + 60)
    await bench.issue("tok_long", expires_at=int(NOW) + 5000)
    assert (await bench.revoke(Selector(token="tok_short"))).ends_at == int(NOW) + 60 + 300
    assert (await bench.revoke(Selector(token="tok_short", role="support-triage"))).ends_at == int(NOW) + 60 + 300
    assert (await bench.revoke(Selector(token="tok_long"))).ends_at == int(NOW) + 5000 + 300
    assert (await bench.revoke(Selector(token="tok_unknown"))).ends_at == int(NOW) + 5000 + 300
    bench.clock.time = NOW + 100
    assert (await bench.revoke(Selector(token="tok_short"))).ends_at == NOW + 100 + 300


async def test_a_decision_on_stale_rules_is_not_committed(bench: Bench) -> None:
    """A token decided before a rule cannot be committed after it (law 2)."""
    await bench.revoke(Selector(agent="mallory"))
    with pytest.raises(EpochMoved):
        await bench.issue("tok_1", epoch=0)
    assert (await bench.issue("tok_2", epoch=1)).epoch == 1


async def test_a_rule_in_the_same_batch_goes_first(bench: Bench) -> None:
    """Urgent changes overtake what waits; a token decided before is told, and sees the rule when it is told."""
    rule = Rule("rule_a", Selector(agent="mallory"), 1, NOW, "op", "leaked")
    results = await outcomes(bench.ledger, [issued(f"tok_{n}", 0) for n in range(50)] + [added(rule)])
    assert isinstance(results[-1], Receipt)
    refused = [result for result in results if isinstance(result, EpochMoved)]
    head = await bench.ledger.head()
    assert head.epoch == 1
    assert head.size + len(refused) == 51


async def test_epoch_moved_is_raised_only_after_the_rules_are_known(bench: Bench) -> None:
    """When a commit says that the epoch moved, the shared index already has the rule that moved it."""
    seen: list[int] = []

    async def issue() -> None:
        try:
            await bench.issue("tok_1", epoch=0)
        except EpochMoved:
            seen.append(bench.epoch)

    rule = Rule("rule_a", Selector(agent="mallory"), 1, NOW, "op", "leaked")
    await asyncio.gather(bench.ledger.commit(added(rule)), issue())
    assert seen in ([], [1])
    await issue()
    assert seen[-1] == 1


@pytest.mark.parametrize("number", [1, 3])
async def test_a_rule_with_the_wrong_number_is_decided_again(bench: Bench, number: int) -> None:
    """A rule's number is the epoch + 1; with any other, the rule was made on stale rules."""
    await bench.revoke(Selector(agent="mallory"))
    rule = Rule("rule_x", Selector(agent="eve"), number, NOW, "op", "leaked")
    change = added(rule)
    with pytest.raises(EpochMoved):
        await bench.ledger.commit(Change(change.entry, (EpochIs(1),), change.writes))
    assert bench.epoch == 1


async def test_a_rule_is_written_once(bench: Bench) -> None:
    """The same rule under a second number is a conflict, not a second rule."""
    rule = await bench.revoke(Selector(agent="mallory"))
    with pytest.raises(GuardFailed) as caught:
        await bench.ledger.commit(added(replace(rule, number=2)))
    assert caught.value.code is Code.CONFLICT


# --- single use -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "code"), [("assertion", Code.ASSERTION_REPLAYED), ("proof", Code.PROOF_REPLAYED)])
async def test_a_key_is_used_once_even_at_the_same_instant(bench: Bench, what: str, code: Code) -> None:
    """Of many changes with one key, exactly one is committed, in one batch or in several."""
    guard = Unused(digest("jti"), int(NOW) + 60, what)
    results = await outcomes(bench.ledger, [noted(guard) for _ in range(20)])
    assert sum(isinstance(result, Receipt) for result in results) == 1
    assert {failure(result) for result in results if not isinstance(result, Receipt)} == {(code, None)}
    with pytest.raises(GuardFailed):
        await bench.ledger.commit(noted(guard))


async def test_a_refused_change_uses_nothing_up(bench: Bench) -> None:
    """If another guard fails, the key may be used later and the rate has not counted."""
    key, rate = Unused(digest("jti"), int(NOW) + 60, "assertion"), RateWithin("agent/a", 1, NOW)
    with pytest.raises(EpochMoved):
        await bench.ledger.commit(noted(EpochIs(7), key, rate))
    with pytest.raises(GuardFailed):
        await bench.ledger.commit(noted(key, rate, AgentAbsent("a"), RateWithin("none", 0, NOW)))
    await bench.ledger.commit(noted(key, rate))


async def test_many_keys_in_one_batch(bench: Bench) -> None:
    """Keys are told apart, however many are looked up at once."""
    old = [digest(f"old{n}") for n in range(150)]
    await outcomes(bench.ledger, [noted(Unused(key, int(NOW) + 60, "proof")) for key in old])
    new = [digest(f"new{n}") for n in range(150)]
    results = await outcomes(bench.ledger, [noted(Unused(key, int(NOW) + 60, "proof")) for key in (*old, *new)])
    assert all(isinstance(result, GuardFailed) for result in results[:150])
    assert all(isinstance(result, Receipt) for result in results[150:])


# --- rates ----------------------------------------------------------------------------------------------------------


async def test_a_rate_is_exact_in_one_batch(bench: Bench) -> None:
    """Of fifty changes at the same moment, exactly as many as the limit are committed."""
    results = await outcomes(bench.ledger, [noted(RateWithin("agent/a", 7, NOW)) for _ in range(50)])
    assert sum(isinstance(result, Receipt) for result in results) == 7
    assert {failure(r)[0] for r in results if not isinstance(r, Receipt)} == {Code.RATE_LIMITED}


async def test_capacity_comes_back_when_the_refusal_said(bench: Bench) -> None:
    """``retry_after`` is when the next change is allowed: not earlier by more than its rounding, not later."""
    for second in (0.0, 12.0, 25.0):
        await bench.ledger.commit(noted(RateWithin("agent/a", 3, NOW + second)))
    with pytest.raises(GuardFailed) as caught:
        await bench.ledger.commit(noted(RateWithin("agent/a", 3, NOW + 30)))
    wait = caught.value.retry_after
    assert wait is not None
    assert 30 <= wait <= 40
    with pytest.raises(GuardFailed):
        await bench.ledger.commit(noted(RateWithin("agent/a", 3, NOW + 30 + wait - 1)))
    await bench.ledger.commit(noted(RateWithin("agent/a", 3, NOW + 30 + wait)))


async def test_rates_of_different_keys_do_not_meet(bench: Bench) -> None:
    """Each key has its own count; a change counts under each of its keys once."""
    await bench.ledger.commit(noted(RateWithin("agent/a", 1, NOW), RateWithin("role/r", 3, NOW)))
    await bench.ledger.commit(noted(RateWithin("agent/b", 1, NOW), RateWithin("role/r", 3, NOW)))
    twice = (RateWithin("agent/c", 9, NOW), RateWithin("agent/c", 8, NOW))
    await bench.ledger.commit(noted(*twice, RateWithin("role/r", 3, NOW)))
    with pytest.raises(GuardFailed):
        await bench.ledger.commit(noted(RateWithin("role/r", 3, NOW)))
    await bench.ledger.commit(noted(RateWithin("agent/c", 2, NOW)))


async def test_a_clock_that_is_set_back_frees_nothing(bench: Bench) -> None:
    """Counts that lie in the future of a change still count."""
    await bench.ledger.commit(noted(RateWithin("agent/a", 1, NOW)))
    with pytest.raises(GuardFailed):
        await bench.ledger.commit(noted(RateWithin("agent/a", 1, NOW - 3600)))


# --- agents, enrolment, keys ----------------------------------------------------------------------------------------


async def test_a_name_is_registered_once(bench: Bench) -> None:
    """Two registrations of one name at the same moment: one agent, one conflict."""
    changes = [registered("triage", key, AgentAbsent("triage")) for key in ("one", "two")]
    results = await outcomes(bench.ledger, changes)
    assert isinstance(results[0], Receipt)
    assert failure(results[1]) == (Code.CONFLICT, None)
    agent = await bench.ledger.registered_agent("triage")
    assert agent is not None
    assert agent.jwk == public_key("one")
    assert agent.key == thumbprint(agent.jwk)


async def test_a_registered_agent_is_never_older_than_the_last_commit(bench: Bench) -> None:
    """Cached answers end with the commit that changes them: absent, registered, replaced, removed."""
    assert await bench.ledger.registered_agent("triage") is None
    await bench.ledger.commit(registered("triage", "one"))
    for key in ("two", "three"):
        first = await bench.ledger.registered_agent("triage")
        assert first is not None
        await bench.ledger.commit(registered("triage", key))
        second = await bench.ledger.registered_agent("triage")
        assert second is not None
        assert second.jwk["x"] == key
    assert [agent.name for agent in await bench.ledger.registered_agents()] == ["triage"]
    await bench.ledger.commit(removed("triage"))
    assert await bench.ledger.registered_agent("triage") is None
    assert list(await bench.ledger.registered_agents()) == []


async def test_the_last_of_several_writes_to_one_name_wins(bench: Bench) -> None:
    """Within one batch, changes of one name apply in their order."""
    changes = [registered("a", "1"), removed("a"), registered("a", "2"), registered("b", "1")]
    await outcomes(bench.ledger, changes)
    keys = {agent.name: agent.jwk["x"] for agent in await bench.ledger.registered_agents()}
    assert keys == {"a": "2", "b": "1"}


async def test_an_enrolment_code_works_once_for_its_name_in_its_time(bench: Bench) -> None:
    """A code is refused for another name, after its end, and after its use."""
    code = digest("code")
    created = entry(Kind.ENROLLMENT_CREATED, NOW, agent="triage")
    await bench.ledger.commit(Change(created, (), (AddEnrollment(code, "triage", "op", NOW + 600),)))
    assert await bench.ledger.enrollment(code, NOW) == "triage"
    assert await bench.ledger.enrollment(code, NOW + 600) is None
    assert await bench.ledger.enrollment(digest("other"), NOW) is None
    for bad in (EnrollmentOpen(code, "other", NOW), EnrollmentOpen(code, "triage", NOW + 600)):
        with pytest.raises(GuardFailed) as caught:
            await bench.ledger.commit(noted(bad))
        assert caught.value.code is Code.ENROLLMENT_INVALID
    redeem = registered("triage", "k", EnrollmentOpen(code, "triage", NOW))
    results = await outcomes(bench.ledger, [redeem, redeem])
    assert isinstance(results[0], Receipt)
    assert failure(results[1]) == (Code.ENROLLMENT_INVALID, None)
    assert await bench.ledger.enrollment(code, NOW) is None


async def test_keys_are_stored_and_replaced(bench: Bench) -> None:
    """A key comes back as it was put; putting the same kid again replaces it."""
    key, younger = stored_key("1"), replace(stored_key("2"), created_at=NOW + 1)
    await bench.ledger.commit(rotated(younger, key))
    assert list(await bench.ledger.keys()) == [key, younger]
    revoked = replace(key, revoked=True, retires_at=NOW + 9)
    await bench.ledger.commit(rotated(revoked))
    assert list(await bench.ledger.keys()) == [revoked, younger]


# --- blocks, idempotency --------------------------------------------------------------------------------------------


async def test_a_block_is_lifted_once(bench: Bench) -> None:
    """A block is in force with its rule's commit, and until one change lifts it."""
    selector = Selector(agent="mallory")
    block = Block("blk_1", selector, 1, NOW, "op", "leaked")
    await bench.ledger.commit(added(Rule("rule_1", selector, 1, NOW, "op", "leaked"), block))
    assert bench.revocations.blocks.live(NOW) == (block,)
    results = await outcomes(bench.ledger, [lifted("blk_1"), lifted("blk_1")])
    assert isinstance(results[0], Receipt)
    assert failure(results[1]) == (Code.NOT_FOUND, None)
    assert bench.revocations.blocks.live(NOW) == ()
    with pytest.raises(GuardFailed):
        await bench.ledger.commit(lifted("blk_unknown"))


async def test_an_idempotency_key_answers_for_one_request(bench: Bench) -> None:
    """The same request again is in use; another request under the key is an error; afterwards the key is free."""
    first = IdempotencyFresh("key", "print-1", "rule_1", int(NOW) + 60)
    other = replace(first, fingerprint="print-2")
    assert await bench.ledger.idempotent("key") is None
    await bench.ledger.commit(noted(first))
    assert await bench.ledger.idempotent("key") == Idempotent("print-1", "rule_1")
    results = await outcomes(bench.ledger, [noted(first), noted(other)])
    assert failure(results[0]) == (Code.IDEMPOTENCY_KEY_IN_USE, None)
    assert failure(results[1]) == (Code.IDEMPOTENCY_KEY_REUSED, None)
    await bench.ledger.commit(noted(replace(other, expires_at=int(NOW) + 200), at=NOW + 60))
    assert await bench.ledger.idempotent("key") == Idempotent("print-2", "rule_1")


# --- reading --------------------------------------------------------------------------------------------------------


async def test_rules_are_listed_youngest_first_in_pages(bench: Bench) -> None:
    """Paging by number shows every rule once."""
    for number in range(5):
        await bench.revoke(Selector(agent=f"agent-{number}"))
    assert [rule.number for rule in await bench.ledger.rules(limit=2)] == [5, 4]
    assert [rule.number for rule in await bench.ledger.rules(before=4, limit=9)] == [3, 2, 1]
    assert await bench.ledger.rule(6) is None


async def test_records_are_found_by_reference_and_in_pages(bench: Bench) -> None:
    """A reference finds the oldest entry that has it; pages follow each other without gaps."""
    await bench.issue("tok_1")
    await bench.ledger.commit(noted(ref="tok_1"))
    await bench.ledger.commit(noted())
    found = await bench.ledger.record_of("tok_1")
    assert found is not None
    assert found.seq == 0
    assert await bench.ledger.record_of("tok_2") is None
    assert await bench.ledger.record(3) is None
    assert [record.seq for record in await bench.ledger.records(limit=2)] == [0, 1]
    assert [record.seq for record in await bench.ledger.records(after=1)] == [2]
    assert list(await bench.ledger.records(limit=0)) == []


async def test_proofs_verify_against_the_head(bench: Bench) -> None:
    """Inclusion and consistency proofs convince a verifier that knows only sizes and roots."""
    heads = [await bench.ledger.head()]
    for number in range(9):
        await bench.ledger.commit(noted(number=number))
        heads.append(await bench.ledger.head())
    last = heads[-1]
    for seq in range(9):
        record = await bench.ledger.record(seq)
        assert record is not None
        proof = await bench.ledger.inclusion(seq, 9)
        assert verify_inclusion(leaf_hash(record.body), seq, 9, proof, last.root)
    for head in heads:
        proof = await bench.ledger.consistency(head.size, 9)
        assert verify_consistency(head.size, head.root, 9, last.root, proof)
    for bad in (bench.ledger.inclusion(9, 9), bench.ledger.inclusion(0, 10), bench.ledger.consistency(3, 2)):
        with pytest.raises(Refused):
            await bad


async def test_a_checkpoint_is_of_the_current_head(bench: Bench) -> None:
    """On demand, a checkpoint speaks of everything committed so far; without news it stays the same."""
    empty = await bench.ledger.checkpoint()
    assert empty.startswith("0 ")
    await bench.ledger.commit(noted())
    head = await bench.ledger.head()
    assert await bench.ledger.checkpoint() == sign(head.size, head.root)
    assert await bench.ledger.checkpoint() == sign(head.size, head.root)


# --- hits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "tokens"),
    [
        (Selector(everything=True), 3),
        (Selector(token="tok_a"), 1),
        (Selector(token="tok_x"), 0),
        (Selector(task="task_1"), 2),
        (Selector(agent="cluster/a"), 2),
        (Selector(role="reader"), 2),
        (Selector(issuer="cluster"), 3),
        (Selector(audience="https://b.example"), 1),
        (Selector(tier="write"), 1),
        (Selector(key="k1"), 2),
        (Selector(key="bound"), 1),
        (Selector(scope="tickets:read"), 2),
        (Selector(scope="tickets"), 0),
        (Selector(scope="tickets:%"), 0),
        (Selector(scope="TICKETS:READ"), 0),
        (Selector(role="reader", scope="tickets:write"), 1),
        (Selector(lease="lease_1"), 0),
        (Selector(secret="s"), 0),
    ],
)
async def test_hits_counts_what_a_selector_covers(bench: Bench, selector: Selector, tokens: int) -> None:
    """Each field is compared as a whole; what no token has hits none."""
    await bench.issue("tok_a", agent="cluster/a", role="reader", key="k1", scope="tickets:read tickets:write")
    await bench.issue("tok_b", agent="cluster/a", role="writer", key="k1", tier="write", scope="tickets:readall")
    await bench.issue(
        "tok_c",
        agent="cluster/b",
        role="reader",
        key="k2",
        task="task_2",
        audience="https://b.example",
        bound_key="bound",
    )
    await bench.issue("tok_old", expires_at=int(NOW))
    assert (await bench.ledger.hits(selector, NOW)).tokens == tokens


async def test_hits_counts_tasks_agents_and_the_last_expiry(bench: Bench) -> None:
    """Distinct tasks and agents are counted; nothing alive means no expiry."""
    for number in range(6):
        await bench.issue(
            f"tok_{number}", agent=f"a{number % 2}", task=f"t{number % 3}", expires_at=int(NOW) + 9 + number
        )
    assert await bench.ledger.hits(Selector(everything=True), NOW) == Hits(6, 3, 2, int(NOW) + 14)
    assert await bench.ledger.hits(Selector(role="none"), NOW) == Hits(0, 0, 0, None)


async def test_hits_leaves_out_what_is_dead(bench: Bench) -> None:
    """Tokens that a rule killed do not count; younger ones do; a pending rule kills whatever it covers."""
    await bench.issue("tok_1", agent="a")
    await bench.issue("tok_2", agent="b")
    rule = await bench.revoke(Selector(agent="a"))
    await bench.issue("tok_3", agent="a")
    everything = Selector(everything=True)
    assert (await bench.ledger.hits(everything, NOW)).tokens == 2
    assert (await bench.ledger.hits(rule.selector, NOW)).tokens == 1
    bench.revocations.rules.add(Rule("rule_p", Selector(token="tok_3"), None, NOW, "op", "pending"))
    assert (await bench.ledger.hits(everything, NOW)).tokens == 1


async def test_hits_of_a_rule_are_what_it_killed(bench: Bench) -> None:
    """With ``before``, a rule that is in force already still counts what lived just before it."""
    await bench.issue("tok_1", agent="a")
    await bench.revoke(Selector(token="tok_1"))
    await bench.issue("tok_2", agent="a")
    rule = await bench.revoke(Selector(agent="a"))
    await bench.issue("tok_3", agent="a")
    assert (await bench.ledger.hits(rule.selector, NOW, before=rule.number)).tokens == 1
    assert (await bench.ledger.hits(rule.selector, NOW)).tokens == 1


# --- compaction, closing --------------------------------------------------------------------------------------------


async def test_what_has_ended_is_forgotten(bench: Bench) -> None:
    """After their end, keys, counts, codes, rules and blocks take no room; history and the epoch stay (law 11)."""
    later = NOW + TTL + 301
    await bench.ledger.commit(noted(Unused(digest("a"), int(NOW) + 60, "proof"), RateWithin("r", 1, NOW)))
    await bench.ledger.commit(noted(Unused(digest("b"), int(later) + 60, "proof"), RateWithin("r2", 1, later)))
    await bench.ledger.commit(noted(IdempotencyFresh("key", "p", "r", int(NOW) + 60)))
    selector = Selector(agent="a")
    block = Block("blk_1", selector, 1, NOW, "op", "x", until=NOW + 60)
    await bench.ledger.commit(added(Rule("rule_1", selector, 1, NOW, "op", "x"), block))
    assert await bench.ledger.compact(NOW) == 0
    assert len(bench.revocations.rules) == 1
    assert await bench.ledger.compact(later) == 3
    assert len(bench.revocations.rules) == 0
    assert bench.revocations.blocks.get("blk_1") is None
    assert bench.epoch == 1
    assert await bench.ledger.idempotent("key") is None
    assert (await bench.ledger.rule(1)) is not None
    await bench.ledger.commit(noted(Unused(digest("a"), int(later) + 60, "proof")))
    with pytest.raises(GuardFailed):
        await bench.ledger.commit(noted(Unused(digest("b"), int(later) + 60, "proof")))


async def test_closing_finishes_what_was_accepted_and_takes_no_more(bench: Bench) -> None:
    """Changes that wait when the ledger is closed are committed; later ones are refused."""
    waiting = [asyncio.create_task(bench.ledger.commit(noted(number=n))) for n in range(100)]
    await asyncio.sleep(0)
    await bench.ledger.close()
    receipts = await asyncio.gather(*waiting)
    assert sorted(receipt.seq for receipt in receipts) == list(range(100))
    for refused in (bench.ledger.commit(noted()), bench.ledger.head()):
        with pytest.raises(Unavailable) as caught:
            await refused
        assert caught.value.code is Code.STOPPING


async def test_a_poisonous_change_fails_alone(bench: Bench) -> None:
    """A change that the store cannot hold fails, and takes none of its batch with it."""
    good = [noted(number=n) for n in range(3)]
    bad = registered("x", "k")
    agent = bad.writes[0]
    assert isinstance(agent, PutAgent)
    poison = Change(bad.entry, (), (PutAgent(replace(agent.agent, created_at=object())),))  # type: ignore[arg-type]
    results = await outcomes(bench.ledger, [good[0], poison, good[1], good[2]])
    assert [isinstance(result, Receipt) for result in results] == [True, False, True, True]
    assert isinstance(results[1], Unavailable)
    assert bench.ledger.healthy() is None
