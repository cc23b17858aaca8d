"""Names that nobody can guess and that never repeat."""

from __future__ import annotations

import re
import time
from itertools import pairwise

from broker.clock import SystemClock
from broker.ids import RandomIds


def test_an_id_is_a_prefix_and_a_ulid() -> None:
    """128 bits in Crockford's base 32."""
    assert re.fullmatch(r"tok_[0-7][0-9A-HJKMNP-TV-Z]{25}", RandomIds().new("tok"))


def test_ids_do_not_repeat_or_count_up() -> None:
    """Within a millisecond too, each has fresh random bits: from one id the next cannot be told."""
    ids = RandomIds()
    made = [ids.new("tok")[4:] for _ in range(2000)]
    assert len(set(made)) == len(made)
    numbers = [
        int("".join(str("0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(c)).zfill(2) for c in one[10:])) for one in made
    ]
    steps = [abs(after - before) for before, after in pairwise(numbers)]
    assert min(steps) > 2**20


def test_ids_sort_by_time() -> None:
    """An id made a moment later is greater."""
    ids = RandomIds()
    first = ids.new("tok")
    deadline = time.time() + 0.002
    while time.time() < deadline:
        pass
    assert ids.new("tok") > first


def test_a_code_has_256_bits() -> None:
    """43 URL-safe characters, never the same."""
    ids = RandomIds()
    codes = {ids.secret() for _ in range(1000)}
    assert len(codes) == 1000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", code) for code in codes)


def test_the_clock_tells_unix_time() -> None:
    """The operating system's own."""
    before = time.time()
    assert before <= SystemClock().now() <= time.time()
