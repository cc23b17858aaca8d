"""Count what was used of a policy in a ledger file, without a broker."""

from __future__ import annotations

from broker.core.usage import Usage
from broker.ledger.reading.offline import read_file
from broker.ledger.reading.usage import UsageCount
from broker.ports import Place


def count_usage(place: Place, since: float) -> Usage:
    """Count what was used, in a ledger file that a broker may be using at the same time.

    Raises ``Unavailable`` if the file cannot be read as a ledger.
    """
    counting = UsageCount(since)
    for one in counting.passes():
        read_file(place, one)
    return counting.result()
