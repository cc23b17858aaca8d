"""Requests for approval in a report: who asked, who decided, and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from broker.core.entry import Kind

MAX_REQUESTS: Final = 500
"""How many requests are told one by one; all votes are counted."""


@dataclass(slots=True)
class Request:
    """A request for approval, as far as its entries are in the time of the report."""

    seq: int
    agent: object
    wants: object
    quorum: object
    asked_at: int
    votes: list[tuple[int, object, bool]] = field(default_factory=list)
    decided_at: int | None = None

    @property
    def outcome(self) -> str:
        """What became of it, in a word."""
        if any(not approve for _, _, approve in self.votes):
            return "denied"
        return "approved" if self.decided_at is not None else "not decided"


@dataclass(slots=True)
class Approvals:
    """Follows requests and votes. A vote on a request from before the time of the report is only counted."""

    requests: dict[str, Request] = field(default_factory=dict)
    asked: int = 0
    approved: int = 0
    denied: int = 0

    def take(self, seq: int, members: Mapping[str, Any]) -> None:
        """Take up an entry."""
        kind, ref = members["kind"], str(members.get("ref"))
        if kind == Kind.APPROVAL_REQUESTED:
            self.asked += 1
            if len(self.requests) < MAX_REQUESTS:
                wants = members.get("approval_kind")
                self.requests[ref] = Request(seq, members.get("agent"), wants, members.get("quorum"), members["at"])
        elif kind == Kind.APPROVAL_VOTED:
            self._vote(seq, ref, members)

    def _vote(self, seq: int, ref: str, members: Mapping[str, Any]) -> None:
        approve = members.get("approve") is True
        self.approved += approve
        self.denied += not approve
        if (request := self.requests.get(ref)) is None:
            return
        request.votes.append((seq, members.get("by"), approve))
        if not approve or sum(vote for _, _, vote in request.votes) == request.quorum:
            request.decided_at = members["at"]
