"""Requests for approval inside the ledger: rules live for as long as anything that people agreed to could be used."""

from __future__ import annotations

from dataclasses import replace

from broker.core.approval import REDEEM_SECONDS, ApprovalRequest, Vote
from broker.core.change import AddApproval, ApprovalGranted, ApprovalPending, CastVote, Change, EpochIs, Receipt
from broker.core.entry import Kind, entry
from broker.core.rules import Rule
from broker.core.selector import Selector, facts_text
from broker.ports import Place
from tests.support.ledgers import NOW, added, opened, outcomes

MARGIN = 300
DIGEST = "0" * 64
LATE = int(NOW) + 90_000


def asking(name: str, expires_at: int = LATE) -> Change:
    """Return the change that puts a request before one of finance."""
    request = ApprovalRequest(
        id=name,
        kind="token",
        digest=DIGEST,
        agent="planner",
        issuer="registered",
        role="planners",
        asked={},
        approvers="finance",
        quorum=1,
        requested_at=NOW,
        expires_at=expires_at,
    )
    return Change(entry(Kind.APPROVAL_REQUESTED, NOW, ref=name), (), (AddApproval(request),))


def voting(name: str, *, approve: bool = True) -> Change:
    """Return the change by which carol decides, before any rule."""
    vote = Vote(
        approver="carol",
        issuer="registered",
        role="finance",
        approve=approve,
        reason="x",
        at=NOW,
        epoch=0,
        token=facts_text({("token", "tok_carol"), ("agent", "carol")}),
    )
    record = entry(Kind.APPROVAL_VOTED, NOW, ref=name, by="carol", approve=approve)
    return Change(record, (EpochIs(0), ApprovalPending(name, "carol", NOW)), (CastVote(name, vote),))


async def test_a_rule_lives_as_long_as_what_was_approved_before_it(place: Place) -> None:
    """Else the word of an approver who was revoked would count again once the rule is forgotten."""
    async with opened(place) as bench:
        await bench.issue("tok_carol", agent="carol")
        await bench.issue("tok_dave", agent="dave")
        await bench.ledger.commit(asking("apr_1"))
        await bench.ledger.commit(voting("apr_1"))
        last = LATE + REDEEM_SECONDS + MARGIN
        assert (await bench.revoke(Selector(agent="carol"))).ends_at == last
        assert (await bench.revoke(Selector(token="tok_carol"))).ends_at == last
        assert (await bench.revoke(Selector(token="tok_dave"))).ends_at == int(NOW) + 900 + MARGIN


async def test_a_vote_counts_from_the_transaction_that_it_is_cast_in(place: Place) -> None:
    """A rule that is written together with it lives as long."""
    async with opened(place) as bench:
        await bench.ledger.commit(asking("apr_1"))
        rule = replace(added(Rule("rule_1", Selector(agent="carol"), 1, NOW, "op", "because")), urgent=False)
        assert all(isinstance(one, Receipt) for one in await outcomes(bench.ledger, [voting("apr_1"), rule]))
        known = bench.revocations.rules.get("rule_1")
        assert known is not None
        assert known.ends_at == LATE + REDEEM_SECONDS + MARGIN


async def test_rules_wait_for_nothing_that_nobody_agreed_to_or_that_was_used(place: Place) -> None:
    """Requests that wait, or were denied or used, keep no rule alive: agents could make as many as they like."""
    async with opened(place) as bench:
        for name in ("apr_1", "apr_2", "apr_3"):
            await bench.ledger.commit(asking(name))
        await bench.ledger.commit(voting("apr_2", approve=False))
        await bench.ledger.commit(voting("apr_3"))
        used = entry(Kind.TOKEN_ISSUED, NOW, ref="tok_1", epoch=0, expires_at=int(NOW) + 60)
        await bench.ledger.commit(Change(used, (EpochIs(0), ApprovalGranted("apr_3", DIGEST, NOW))))
        assert (await bench.revoke(Selector(agent="carol"))).ends_at == int(NOW) + 60 + MARGIN
