"""What the feed needs beside the rules, and what stands for the connections of those who follow."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from broker.core.claims import AccessClaims
from broker.core.errors import Code, Unavailable
from broker.core.feed import heartbeat_payload, read_heartbeat, read_rule, rule_payload
from broker.core.identity import bearer
from broker.core.rules import Rule, RuleIndex
from broker.core.snapshot import read_snapshot, snapshot_payload
from broker.feed import Feed, FeedBounds
from broker.ports import Admitted, Revocations
from tests.support.broker_app import KeptEvents
from tests.support.fakes import FakeClock
from tests.support.virtual_time import VirtualTime

ISSUER = "https://broker.example"


class PlainStatements:
    """Says what a signer signs, as plain JSON. ``trouble`` keeps it from saying anything."""

    def __init__(self, revocations: Revocations) -> None:
        self._revocations = revocations
        self.trouble: Code | None = None
        self.most_pending = 1000

    def snapshot(self, now: float) -> str:
        rules = self._revocations.rules
        return self._said(snapshot_payload(rules, mark=f"m{rules.epoch}", issuer=ISSUER, now=now))

    def heartbeat(self, now: float) -> str:
        rules = self._revocations.rules
        pending = [rule.id for rule in rules.pending()]
        if len(pending) > self.most_pending:
            raise Unavailable(Code.OVERLOADED, "too many")
        return self._said(heartbeat_payload(rules.epoch, pending, mark=f"m{rules.epoch}", issuer=ISSUER, now=now))

    def rule(self, rule: Rule, previous: int, now: float) -> str:
        return self._said(rule_payload(rule, previous=previous, mark="m", issuer=ISSUER, now=now))

    def _said(self, payload: dict[str, Any]) -> str:
        if self.trouble is not None:
            raise Unavailable(self.trouble, "no key")
        return json.dumps(payload)


@dataclass
class CountingFeedMeter:
    """Keeps what was counted."""

    sent: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def fed(self, event: str, followers: int) -> None:
        self.sent[event] += followers

    def unfollowed(self, why: str) -> None:
        self.dropped[why] += 1


@dataclass(eq=False)
class FakeSink:
    """A connection: what it was sent, how much of that is unread, and how it ended."""

    data: bytes = b""
    unread: int = 0
    reads: bool = True
    over: str | None = None

    def tell(self, data: bytes) -> None:
        self.data += data
        self.unread += 0 if self.reads else len(data)

    def end(self) -> None:
        self.over = "ended"

    def drop(self) -> None:
        self.over = "dropped"

    def events(self) -> list[tuple[str, Any, str | None]]:
        """Return the events since the last time: name, what it says, id."""
        data, self.data = self.data, b""
        told = []
        for block in data.decode().split("\n\n"):
            members = dict(line.split(": ", 1) for line in block.splitlines())
            if "event" in members:
                told.append((members["event"], _read(members["event"], members["data"]), members.get("id")))
        return told


class Knowledge:
    """The port ``Freshness``: ``stale`` while others may have changed what this process does not know."""

    def __init__(self) -> None:
        self.stale = False

    async def ensure(self) -> None:
        if self.stale:
            raise Unavailable(Code.RULES_STALE, "the ledger cannot be read")


class Hall:
    """A feed on a clock that tests move, and the rules that it tells of."""

    def __init__(self, **bounds: int) -> None:
        self.revocations = Revocations(rules=RuleIndex())
        self.freshness = Knowledge()
        self.statements = PlainStatements(self.revocations)
        self.clock = FakeClock()
        self.time = VirtualTime(flows=False)
        self.meter = CountingFeedMeter()
        self.events = KeptEvents()
        self.feed = Feed(
            revocations=self.revocations,
            freshness=self.freshness,
            statements=self.statements,
            bounds=FeedBounds(**bounds),
            clock=self.clock,
            timing=self.time.timing(),
            meter=self.meter,
            events=self.events,
        )

    @property
    def rules(self) -> RuleIndex:
        return self.revocations.rules

    def join(self, after: int | None = None, agent: str = "gateway", epoch: int = 10**9) -> FakeSink:
        """Have somebody follow."""
        sink = FakeSink()
        self.feed.join(sink, self.admitted(agent, epoch), after)
        return sink

    def admitted(self, agent: str = "gateway", epoch: int = 10**9) -> Admitted:
        """Return one who was admitted by a token of ten minutes."""
        now = int(self.clock.now())
        claims = AccessClaims(
            iss=ISSUER,
            sub=agent,
            aud=f"{ISSUER}/v1",
            client_id=agent,
            iat=now,
            exp=now + 600,
            jti=f"tok_{agent}",
            scopes=("revocations:read",),
            epoch=epoch,
            task="task_1",
            role="watchers",
            tier="read",
            issuer="registered",
        )
        return Admitted(agent=bearer(agent, "registered"), scopes=frozenset(claims.scopes), claims=claims, kid="k")


def _read(name: str, data: str) -> Any:  # noqa: ANN401 - a statement of one of three kinds
    return {"rule": read_rule, "heartbeat": read_heartbeat, "snapshot": read_snapshot}[name](json.loads(data))
