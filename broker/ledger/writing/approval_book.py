"""Requests for approval and their votes inside one transaction: loaded, judged, changed, stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Row, bindparam, func, insert, or_, select, update

from broker.core.approval import (
    APPROVED,
    BREAK_GLASS,
    DENIED,
    PENDING,
    REDEEM_SECONDS,
    REVIEWED,
    UNREVIEWED,
    USED,
    ApprovalRequest,
    ApprovalState,
    Vote,
)
from broker.core.change import (
    AddApproval,
    ApprovalAbsent,
    ApprovalGranted,
    ApprovalPending,
    CastVote,
    Change,
    Guard,
    Review,
    Unreviewed,
    Write,
)
from broker.core.errors import Code, GuardFailed
from broker.core.selector import fact_line
from broker.ledger import schema
from broker.ledger.databases.expressions import has_text
from broker.ledger.rows import read_object
from broker.ledger.writing.task_rows import chunks

APPROVAL_GUARDS: Final = (ApprovalAbsent, ApprovalPending, ApprovalGranted, Unreviewed)
APPROVAL_WRITES: Final = (AddApproval, CastVote, Review)

_encode: Final = msgspec.json.Encoder(order="sorted").encode
_NOT_VALID: Final = GuardFailed(Code.APPROVAL_INVALID, "there is no approval of exactly this request to be used")
_UNKNOWN: Final = GuardFailed(Code.NOT_FOUND, "there is no such request")


@dataclass(slots=True)
class _Request:
    """A request for approval, as it changes."""

    request: ApprovalRequest
    state: str
    votes: list[Vote] = field(default_factory=list)
    decided_at: float | None = None
    used_at: float | None = None
    stored: bool = False
    changed: bool = False

    def move(self, state: str) -> None:
        self.state, self.changed = state, True


class ApprovalBook:
    """The requests that a batch is about."""

    def __init__(self) -> None:
        """Nothing is loaded."""
        self._requests: dict[str, _Request] = {}
        self._votes: list[tuple[str, Vote]] = []

    @classmethod
    def load(cls, connection: Connection, guards: Sequence[Guard], writes: Sequence[Write]) -> ApprovalBook:
        """Read every request that these guards and writes name."""
        book = cls()
        ids = {
            guard.approval_id for guard in guards if isinstance(guard, ApprovalPending | ApprovalGranted | Unreviewed)
        }
        ids |= {write.approval_id for write in writes if isinstance(write, CastVote | Review)}
        digests = {guard.digest for guard in guards if isinstance(guard, ApprovalAbsent)}
        for state in load_approvals(connection, list(ids), list(digests)):
            book._requests[state.request.id] = _Request(
                state.request, state.stored, list(state.votes), state.decided_at, state.used_at, stored=True
            )
        return book

    def judge(self, change: Change) -> GuardFailed | None:
        """Return why a change may not be applied, or None."""
        for guard in change.guards:
            failed: GuardFailed | None = None
            match guard:
                case ApprovalAbsent(digest, at):
                    failed = self._judge_absent(digest, at)
                case ApprovalPending():
                    failed = self._judge_pending(guard)
                case ApprovalGranted(approval_id, digest, at):
                    known = self._requests.get(approval_id)
                    unfit = known is None or known.request.digest != digest or _state(known, at) != APPROVED
                    failed = _NOT_VALID if unfit else None
                case Unreviewed(approval_id):
                    failed = self._judge_review(approval_id)
                case _:
                    pass
            if failed is not None:
                return GuardFailed(failed.code, failed.public)
        return None

    def _judge_absent(self, digest: str, at: float) -> GuardFailed | None:
        waiting = any(
            known.request.digest == digest and _state(known, at) == PENDING for known in self._requests.values()
        )
        return GuardFailed(Code.CONFLICT, "the same request waits for a decision already") if waiting else None

    def _judge_pending(self, guard: ApprovalPending) -> GuardFailed | None:
        known = self._requests.get(guard.approval_id)
        if known is None or known.request.kind == BREAK_GLASS:
            return _UNKNOWN
        state = _state(known, guard.at)
        if state != PENDING:
            return GuardFailed(Code.CONFLICT, f"there is nothing to decide any more: {state}")
        voted = any(vote.approver == guard.approver for vote in known.votes)
        return GuardFailed(Code.CONFLICT, "this approver has decided already") if voted else None

    def _judge_review(self, approval_id: str) -> GuardFailed | None:
        known = self._requests.get(approval_id)
        if known is None or known.request.kind != BREAK_GLASS:
            return _UNKNOWN
        return None if known.state == UNREVIEWED else GuardFailed(Code.CONFLICT, "it was reviewed already")

    def apply(self, change: Change) -> None:
        """Take up what a change does that was found good."""
        for guard in change.guards:
            if isinstance(guard, ApprovalGranted):
                known = self._requests[guard.approval_id]
                known.used_at = guard.at
                known.move(USED)
        for write in change.writes:
            match write:
                case AddApproval(request):
                    state = UNREVIEWED if request.kind == BREAK_GLASS else PENDING
                    self._requests[request.id] = _Request(request, state)
                case CastVote(approval_id, vote):
                    self._vote(self._requests[approval_id], vote)
                case Review(approval_id, vote):
                    known = self._requests[approval_id]
                    self._votes.append((approval_id, vote))
                    known.decided_at = vote.at
                    known.move(REVIEWED)
                case _:
                    pass

    def _vote(self, known: _Request, vote: Vote) -> None:
        known.votes.append(vote)
        self._votes.append((known.request.id, vote))
        agreed = sum(1 for one in known.votes if one.approve)
        if not vote.approve or agreed >= known.request.quorum:
            known.decided_at = vote.at
            known.move(APPROVED if vote.approve else DENIED)

    def flush(self, connection: Connection) -> None:
        """Write what has changed."""
        new = [known for known in self._requests.values() if not known.stored]
        if new:
            connection.execute(insert(schema.approvals), [_row(known) for known in new])
        changed = [known for known in self._requests.values() if known.stored and known.changed]
        if changed:
            rows = [{"i": k.request.id, "s": k.state, "d": k.decided_at, "u": k.used_at} for k in changed]
            connection.execute(_UPDATE, rows)
        if self._votes:
            connection.execute(insert(schema.votes), [_vote_row(approval, vote) for approval, vote in self._votes])


def load_approvals(connection: Connection, ids: Sequence[str], digests: Sequence[str] = ()) -> list[ApprovalState]:
    """Return the requests of these ids and these digests, as far as they are stored."""
    table = schema.approvals.c
    rows: dict[str, Row[Any]] = {}
    for some_ids in chunks(ids):
        rows |= {row.id: row for row in connection.execute(select(schema.approvals).where(table.id.in_(some_ids)))}
    for some in chunks(digests):
        waiting = select(schema.approvals).where(table.digest.in_(some), table.state == PENDING)
        rows |= {row.id: row for row in connection.execute(waiting)}
    return read_approvals(connection, list(rows.values()))


def read_approvals(connection: Connection, rows: Sequence[Row[Any]]) -> list[ApprovalState]:
    """Read requests from their rows, with their votes, in the same order."""
    votes: dict[str, list[Vote]] = {row.id: [] for row in rows}
    table = schema.votes.c
    for ids in chunks(list(votes)):
        query = select(schema.votes).where(table.approval.in_(ids)).order_by(table.at, table.approver)
        for row in connection.execute(query):
            votes[row.approval].append(Vote(**read_object(row.vote)))
    return [
        ApprovalState(
            request=_read_request(row.request),
            stored=row.state,
            votes=tuple(votes[row.id]),
            decided_at=row.decided_at,
            used_at=row.used_at,
        )
        for row in rows
    ]


def latest_vote_end(connection: Connection, token: str | None = None) -> float:
    """Return when the last request that people agreed to can be used no more; of those by one token, if it is given."""
    requests, votes = schema.approvals.c, schema.votes.c
    query = (
        select(func.max(requests.expires_at))
        .join_from(schema.approvals, schema.votes, requests.id == votes.approval)
        .where(requests.state.in_((PENDING, APPROVED)))
    )
    if token is not None:
        query = query.where(has_text(votes.vote, _encode(fact_line(("token", token))).decode().strip('"')))
    latest = connection.scalar(query)
    return 0 if latest is None else float(latest + REDEEM_SECONDS)


def ended_before(now: float) -> Any:  # noqa: ANN401 - a condition on columns
    """Return the condition that a request has ended so long before ``now`` that it may be forgotten."""
    table = schema.approvals.c
    return (table.state != UNREVIEWED) & (
        or_(
            table.expires_at + REDEEM_SECONDS <= now,
            table.state.in_((USED, DENIED, REVIEWED)) & (table.expires_at <= now),
        )
    )


def _state(known: _Request, at: float) -> str:
    return ApprovalState(request=known.request, stored=known.state).state(at)


def _row(known: _Request) -> dict[str, Any]:
    request = known.request
    return {
        "id": request.id,
        "digest": request.digest,
        "state": known.state,
        "quorum": request.quorum,
        "expires_at": request.expires_at,
        "request": _encode(asdict(request)).decode(),
        "decided_at": known.decided_at,
        "used_at": known.used_at,
    }


def _vote_row(approval: str, vote: Vote) -> dict[str, Any]:
    return {
        "approval": approval,
        "approver": vote.approver,
        "approve": vote.approve,
        "vote": _encode(asdict(vote)).decode(),
        "at": vote.at,
    }


def _read_request(text: str) -> ApprovalRequest:
    members = dict(read_object(text))
    members["chain"] = tuple(members["chain"])
    lifts = members["lifts"]
    members["lifts"] = None if lifts is None else (lifts[0], lifts[1])
    return ApprovalRequest(**members)


_approvals: Final = schema.approvals
_UPDATE: Final = (
    update(_approvals)
    .where(_approvals.c.id == bindparam("i"))
    .values(state=bindparam("s"), decided_at=bindparam("d"), used_at=bindparam("u"))
)
