"""Going on with an older ledger that was put in the place of a newer one: whatever was issued before is dead.

The part that is lost may have had rules, and tokens of their epochs, which no rule that merely follows those of the
older ledger would end. Verifiers may have seen its epochs, and never go back behind them. So the one rule that ends
everything takes a number that no rule of the lost part can have.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Final

from broker.core.change import AcceptRestore, Change, EpochIs
from broker.core.entry import MAX_INT, Kind, entry
from broker.core.errors import Code, Refused
from broker.core.policy import LONGEST_TTL
from broker.core.revoking import check_text
from broker.core.rules import Rule
from broker.core.selector import Selector
from broker.core.tree_head import KnownHead

NUMBERS_PER_SECOND: Final = 2**20
"""More rules than any broker makes in a second: each takes an entry, and a ledger writes some thousands of those."""

LEAST_JUMP: Final = 2**32
"""By how much the epoch moves at least, should the clock be behind: a lost part with as many rules would fill disks."""


def number_above(epoch: int, now: float) -> int:
    """Return a rule's number that no ledger which was at ``epoch`` once can have reached by ``now`` (Unix seconds).

    Rules are counted, so that a count of seconds times more than anybody makes in one is above every lost number, and
    above the number of an earlier restore, if that is lost as well. Raises ``Refused`` if the clock is far off.
    """
    number = max(epoch + LEAST_JUMP, int(now * NUMBERS_PER_SECOND))
    if number > MAX_INT:
        raise Refused(Code.INTERNAL, "the clock of this machine is centuries ahead; set it first")
    return number


def accepting(
    found: KnownHead, epoch: int, lost: Mapping[str, KnownHead], *, rule_id: str, now: float, by: str, reason: str
) -> Change:
    """Return the change by which the older ledger ``found``, at ``epoch``, is gone on with.

    ``lost`` is what others know of the newer one, by their names. Raises ``Refused`` (``MALFORMED_REQUEST``) for a
    reason that could not be read back safely.
    """
    check_text("reason", reason)
    number = number_above(epoch, now)
    everything = Selector(everything=True)
    # Nothing is known of what the lost part issued: the rule stays for as long as the longest-lived token can.
    rule = Rule(rule_id, everything, number, now, by, reason, ends_at=now + LONGEST_TTL)
    record = entry(
        Kind.RESTORE_ACCEPTED,
        now,
        ref=rule_id,
        number=number,
        selector=everything.to_dict(),
        by=by,
        reason=reason,
        size=found.size,
        root=_text(found.root),
        lost=_described(lost),
    )
    return Change(record, (EpochIs(epoch),), (AcceptRestore(rule, tuple(dict.fromkeys(lost.values()))),), urgent=True)


def _described(lost: Mapping[str, KnownHead]) -> Sequence[Mapping[str, object]]:
    return [{"known_to": name, "size": head.size, "root": _text(head.root)} for name, head in lost.items()]


def _text(root: bytes) -> str:
    return base64.b64encode(root).decode()
