"""Token Status Lists: which tokens are dead by the rules in force, for verifiers that speak only that standard.

The bits follow from the rules and from what the ledger holds of tokens; nothing is kept of a list but in memory. A
token that a rule has killed stays dead, and one that is issued later is not killed by rules before it (law 2). So only
rules that came since a list was last made can change it, and each is looked up for it once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from broker.core.errors import Code, Refused
from broker.core.policy import LONGEST_TTL
from broker.core.rules import Rule
from broker.core.status_list import ALL, NONE, OPEN_SECONDS, TTL, joined, status_list_payload, uri_of
from broker.ports import Clock, Listed, Revocations, StatusRecords

KEPT: Final = 256
"""How many lists are kept in memory, some 40 KiB each at the most."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A list as it was made: by which rules, and when. ``listed`` is one of its tokens."""

    listed: Listed
    epoch: int
    bits: bytes = field(repr=False)
    token: str = field(repr=False)
    at: float


class StatusLists:
    """Makes lists when they are asked for, each again when it has grown old or a rule has come."""

    def __init__(
        self,
        *,
        issuer: str,
        records: StatusRecords,
        revocations: Revocations,
        sign: Callable[[Mapping[str, Any], float], str],
        clock: Clock,
    ) -> None:
        """``issuer`` is the broker's public URL; ``sign`` returns a payload as a signed token, at a time."""
        self._issuer = issuer
        self._records = records
        self._revocations = revocations
        self._sign = sign
        self._clock = clock
        self._made: OrderedDict[str, _Made] = OrderedDict()
        self._making = asyncio.Lock()
        self._recalled = 0
        revocations.rules.watch(self._heard)

    async def current(self, list_id: str) -> str:
        """Return the signed list, by all rules that are in force in this process, durable or not.

        Raises ``Refused`` (``NOT_FOUND``) if no token that can be alive is in it.
        """
        made = self._made.get(list_id)
        if made is not None and self._is_current(made):
            return made.token
        listed = await self._records.listed(list_id) if made is None else made.listed
        if listed is None or _is_over(listed, self._clock.now()):
            raise Refused(Code.NOT_FOUND, "there is no such status list, or all of its tokens have expired")
        async with self._making:
            made = self._made.get(list_id)
            if made is None or not self._is_current(made):
                made = await self._make(list_id, listed, made)
        return made.token

    def _heard(self, rule: Rule, before: int) -> None:
        """Forget all lists if a rule comes into force that they may be thought to know already, by its number.

        So it is with those that were forgotten while the clock was ahead.
        """
        if rule.number is not None and rule.number <= before:
            self._made.clear()
            self._recalled += 1

    def _is_current(self, made: _Made) -> bool:
        rules = self._revocations.rules
        return made.epoch == rules.epoch and not rules.pending() and 0 <= self._clock.now() - made.at < TTL

    async def _make(self, list_id: str, listed: Listed, earlier: _Made | None) -> _Made:
        """Make a list from what it was; remember it, unless rules counted that may yet be taken back."""
        now, rules = self._clock.now(), self._revocations.rules
        if earlier is not None and now < earlier.at:
            earlier = None  # the clock was set back: tokens that had expired for a moment are alive again
        recalled = self._recalled
        epoch, newer = rules.epoch, [rule for rule in rules.live() if earlier is None or rule.rank > earlier.epoch]
        bits = await self._bits(list_id, listed, newer, now, before=NONE if earlier is None else earlier.bits)
        token = self._sign(status_list_payload(uri_of(self._issuer, list_id), bits, now), now)
        made = _Made(listed, epoch, bits, token, now)
        if recalled == self._recalled and all(rule.number is not None for rule in newer):
            self._keep(list_id, made)
        return made

    async def _bits(self, list_id: str, listed: Listed, newer: Sequence[Rule], now: float, *, before: bytes) -> bytes:
        """Return the bits by rules that are newer than the bits ``before``.

        A rule for everything kills also what this ledger does not know, since an older copy of it may have been
        accepted in place of a lost one. No later token gets a place in such a list.
        """
        if any(rule.selector.everything and rule.rank > listed.epoch for rule in newer):
            return ALL
        if not newer or before == ALL:
            return before
        return joined(before, await self._records.dead_in(list_id, newer, now))

    def _keep(self, list_id: str, made: _Made) -> None:
        self._made[list_id] = made
        self._made.move_to_end(list_id)
        if len(self._made) > KEPT:
            self._made.popitem(last=False)


def _is_over(listed: Listed, now: float) -> bool:
    """Whether all tokens of a list have expired: none was issued long after another."""
    return listed.at + OPEN_SECONDS + LONGEST_TTL <= now
