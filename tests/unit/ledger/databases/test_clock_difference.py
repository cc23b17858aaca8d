"""A replica whose clock is not that of the database."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from broker.core.errors import Code, Unavailable
from broker.core.selector import Selector
from tests.support.ledgers import FixedClock, opened
from tests.support.postgres import Postgres


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_a_wrong_clock_issues_nothing_and_revokes(postgres: Postgres, tmp_path: Path, minutes: int) -> None:
    """Its tokens would live too long or too short; a rule needs no clock (law 1). It goes on when that is mended."""
    place = replace(postgres.emptied_ledger(tmp_path / "ledger"), max_clock_difference=300)
    clock = FixedClock(time.time() + minutes * 60)
    async with opened(place, clock=clock) as bench:
        with pytest.raises(Unavailable) as caught:
            await bench.issue("tok_1")
        assert caught.value.code is Code.LEDGER_UNAVAILABLE
        assert "clock" in (bench.ledger.healthy() or "")
        assert (await bench.revoke(Selector(agent="alpha"))).number == 1
    clock.time = time.time()
    async with opened(place, clock=clock) as bench:
        assert bench.ledger.healthy() is None
        await bench.issue("tok_2")
