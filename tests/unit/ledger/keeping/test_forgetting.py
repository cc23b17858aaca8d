"""Erasing what is personal: gone from the files, recorded, and every proof as good as before."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker.core.change import Change, ErasePersonal
from broker.core.entry import Kind, entry
from broker.core.erasing import Erased, Forgetting, erased_entry
from broker.core.errors import Unavailable
from broker.core.inquiry import EntryFilter
from broker.core.merkle import leaf_hash
from broker.core.selector import Selector
from broker.ledger.keeping import erasable
from broker.ledger.verify import verify_file
from tests.support.ledgers import NOW, TTL, Bench, FixedClock, opened

CANARY = "kanarienvogel"
LATER = NOW + TTL + 1


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """An open ledger."""
    async with opened(tmp_path / "ledger.db") as made:
        yield made


def noted(number: int, **members: Any) -> Change:  # noqa: ANN401 - JSON values
    """Return a change that records something with a purpose."""
    about = {"agent": "alpha", "purpose": f"{CANARY}-{number}-" + "x" * (number * 37 % 4000), **members}
    return Change(entry(Kind.TASK_HEARD, NOW + number, **about))


async def erase(bench: Bench, *places: int, erasure: str = "era_1") -> None:
    """Erase entries, and have the files forget it."""
    erased = Erased(erasure=erasure, forgetting=Forgetting(agent="alpha"), places=places, by="op", reason="asked for")
    await bench.ledger.commit(Change(erased_entry(erased, NOW, {}), (), (ErasePersonal(places),)))
    assert await bench.ledger.forget_erased()


def held(path: Path, text: str) -> bool:
    """Whether any of a ledger's files holds a text."""
    return any(text.encode() in file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


async def found(bench: Bench, wanted: Forgetting, *, now: float = LATER, **bounds: int) -> tuple[list[int], int]:
    """Return the places that can be forgotten, and how many cannot yet."""
    page = await bench.ledger.forgettable(wanted, now, after=bounds.get("after", -1), limit=bounds.get("limit", 500))
    return list(page.places), page.in_use


async def test_what_is_erased_is_in_no_file_any_more(bench: Bench) -> None:
    """Whatever the sizes, in whatever order: not in the database, not in its log; what is kept stays readable."""
    choice, count = random.Random(5), 60
    for number in range(count):
        await bench.ledger.commit(noted(number))
    head = await bench.ledger.head()
    left = list(range(count))
    for turn in range(5):
        places = sorted(choice.sample(left, 10))
        left = [place for place in left if place not in places]
        await erase(bench, *places, erasure=f"era_{turn}")
        assert [place for place in places if held(bench.path, f"{CANARY}-{place}-")] == []
    assert all(held(bench.path, f"{CANARY}-{place}-") for place in left)
    for place in range(count):
        record = await bench.ledger.record(place)
        assert record is not None
        assert ("purpose" in record.members, record.members.get("personal_erased")) == (
            (True, None) if place in left else (False, True)
        )
    proof = await bench.ledger.consistency(head.size, head.size + 5)
    assert proof, "the tree goes on"
    assert (await bench.verified()).size == count + 5


async def test_a_leaf_is_the_same_before_and_after(bench: Bench) -> None:
    """Erasing changes no byte that was hashed, and the salt is another one each time."""
    for _ in range(2):
        await bench.ledger.commit(noted(1))
    before = [await bench.ledger.record(place) for place in (0, 1)]
    salts = {record.personal.salt for record in before if record is not None and record.personal is not None}
    assert len(salts) == 2
    await erase(bench, 0)
    after = await bench.ledger.record(0)
    assert after is not None
    assert before[0] is not None
    assert leaf_hash(after.body) == leaf_hash(before[0].body)
    assert after.personal is None


async def test_questions_are_still_answered(bench: Bench) -> None:
    """Entries are found by whom they are for, until that is forgotten, and by their agents for good."""
    await bench.issue("tok_1", on_behalf_of="corp/bob", lineage="\nagent=corp/bob\ntoken=subject_1\n")
    about_bob, about_agent = EntryFilter(agent="corp/bob"), EntryFilter(agent="cluster/support/triage")
    assert [record.seq for record in (await bench.ledger.find(about_bob)).records] == [0]
    hits = await bench.ledger.hits(Selector(agent="corp/bob"), NOW)
    assert hits.tokens == 1, "rules find a living token by whom it is for"
    await erase(bench, 0)
    assert (await bench.ledger.find(about_bob)).records == []
    assert [record.seq for record in (await bench.ledger.find(about_agent)).records] == [0]
    assert not held(bench.path, "corp/bob")
    await bench.verified()


async def test_what_lives_keeps_what_is_personal(bench: Bench) -> None:
    """A token that lives, and a rule in force, are left alone; they can be forgotten when they are over."""
    await bench.issue("tok_1", address="192.0.2.7")
    await bench.revoke(Selector(agent="somebody"))
    everything = Forgetting(before=LATER + 1e6)
    assert await found(bench, everything, now=NOW + 1) == ([], 2)
    assert await found(bench, everything, now=LATER + 1000) == ([0, 1], 0)
    await erase(bench, 0, 1)
    rule = await bench.ledger.rule(1)
    assert rule is not None
    assert rule.reason == ""
    await bench.verified()


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        (Forgetting(ref="task_1"), [0]),
        (Forgetting(task="task_1"), [0, 1]),
        (Forgetting(agent="alpha"), [0, 1]),
        (Forgetting(agent="op"), [2]),
        (Forgetting(subject="corp/bob"), [1, 3]),
        (Forgetting(subject="bob"), []),
        (Forgetting(before=NOW + 2), [0, 1]),
        (Forgetting(agent="alpha", before=NOW + 1), [0]),
        (Forgetting(agent="al%"), []),
        (Forgetting(ref="' OR 1=1 --"), []),
    ],
    ids=str,
)
async def test_what_is_meant(bench: Bench, wanted: Forgetting, places: list[int]) -> None:
    """By reference, task, agent, subject and time, each whole and exact; a text that mentions a name does not count."""
    for change in (
        noted(0, ref="task_1", task="task_1"),
        noted(1, task="task_1", on_behalf_of="corp/bob"),
        noted(2, agent="beta", by="op", target="alpha"),
        noted(3, agent="beta", chain=["corp/bob", "beta"], reason='for "alpha", "by":"alpha"'),
        Change(entry(Kind.BROKER_STARTED, NOW + 4, agent="alpha", version="1")),
    ):
        await bench.ledger.commit(change)
    assert (await found(bench, wanted))[0] == places


async def test_a_long_ledger_is_gone_through_in_parts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look is bounded by what it looks through and by what it finds; nothing is left out between two."""
    monkeypatch.setattr(erasable, "LOOKED_THROUGH", 7)
    for number in range(30):
        await bench.ledger.commit(noted(number))
    places: list[int] = []
    after, more = -1, True
    while more:
        page = await bench.ledger.forgettable(Forgetting(agent="alpha"), LATER, after=after, limit=3)
        assert len(page.places) <= 3
        places += page.places
        after, more = page.last, page.more
    assert places == list(range(30))


async def test_erasing_twice_is_harmless(bench: Bench) -> None:
    """What is gone is not found again, and a change that names it once more changes nothing."""
    await bench.ledger.commit(noted(0))
    await erase(bench, 0)
    assert await found(bench, Forgetting(agent="alpha")) == ([], 0)
    await erase(bench, 0)
    await bench.verified()


def spoil(sound: Path, folder: Path, sql: str, *values: object) -> Path:
    """Return a copy of a ledger in which somebody changed a row behind the broker's back."""
    copy = folder / "spoilt.db"
    shutil.copy(sound, copy)
    with closing(sqlite3.connect(copy)) as database:
        database.execute(sql, values)
        database.commit()
    return copy


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda _: ("UPDATE entries SET personal = NULL WHERE seq = 1",), "entry 1: its personal members are gone"),
        (
            lambda stored: ("UPDATE entries SET personal = ? WHERE seq = 1", stored[:-1] + b" }"),
            "entry 1: its personal members are not those",
        ),
        (
            lambda stored: ("UPDATE entries SET personal = ? WHERE seq = 1", bytes(16) + stored[16:]),
            "entry 1: its personal members are not those",
        ),
        (
            lambda stored: ("UPDATE entries SET personal = ? WHERE seq = 3", stored),
            "entry 3: its personal members are not those",
        ),
        (lambda _: ("UPDATE entries SET personal = 'text' WHERE seq = 1",), "entry 1: its personal members are not b"),
        (lambda _: ("UPDATE entries SET lineage = 'x' WHERE seq = 1",), "entry 1: the columns lineage differ"),
    ],
)
async def test_what_somebody_did_to_it_is_found(
    tmp_path: Path, change: Callable[[bytes], tuple[Any, ...]], says: str
) -> None:
    """Values that are gone without an erasure, changed, salted anew, or put beside an entry that promises none."""
    async with opened(tmp_path / "ledger.db") as bench:
        for number in range(3):
            await bench.ledger.commit(noted(number))
        await bench.ledger.commit(Change(entry(Kind.BROKER_STARTED, NOW, version="1")))
        await erase(bench, 0)
    assert verify_file(bench.path).sound
    with closing(sqlite3.connect(bench.path)) as database:
        stored = database.execute("SELECT personal FROM entries WHERE seq = 1").fetchone()[0]
    report = verify_file(spoil(bench.path, tmp_path, *change(stored)))
    assert [problem for problem in report.problems if problem.startswith(says)] != []


async def test_values_that_do_not_fit_are_never_shown(tmp_path: Path) -> None:
    """Whoever changes what stands beside an entry cannot have the broker tell it."""
    async with opened(tmp_path / "ledger.db") as bench:
        await bench.ledger.commit(noted(0))
    path = spoil(bench.path, tmp_path, "UPDATE entries SET personal = ?", bytes(16) + b'{"purpose":"good"}')
    async with opened(path, clock=FixedClock()) as bench:
        with pytest.raises(Unavailable, match="ledger_corrupt"):
            await bench.ledger.record(0)


async def test_a_crash_leaves_what_is_recorded_erased_and_nothing_else(tmp_path: Path) -> None:
    """Files that were copied at any moment verify: an entry says it, or the values are there."""
    path = tmp_path / "ledger.db"
    async with opened(path) as bench:
        for number in range(6):
            await bench.ledger.commit(noted(number))
        copies = []
        for place in range(3):
            await erase(bench, place, erasure=f"era_{place}")
            await bench.ledger.commit(noted(10 + place))
            copy = tmp_path / f"copy-{place}" / "ledger.db"
            copy.parent.mkdir()
            for suffix in ("", "-wal"):
                await asyncio.to_thread(shutil.copy, f"{path}{suffix}", f"{copy}{suffix}")
            copies.append(copy)
    for place, copy in enumerate(copies):
        async with opened(copy, clock=FixedClock()) as bench:
            assert (await found(bench, Forgetting(ref="x")))[0] == []
            assert (await found(bench, Forgetting(agent="alpha")))[0][0] == place + 1
            await bench.verified()


async def test_an_older_ledger_gets_the_column(tmp_path: Path) -> None:
    """Entries from before stay as they are: nothing is promised, nothing can be erased, all of it verifies."""
    async with opened(tmp_path / "ledger.db") as bench:
        await bench.issue("tok_1")
    with closing(sqlite3.connect(bench.path)) as database:
        database.execute("DROP TABLE accepted_heads")
        database.execute("DROP TABLE verifiers")
        database.execute("DROP TABLE replicas")
        database.execute("ALTER TABLE entries DROP COLUMN personal")
        database.execute("ALTER TABLE head DROP COLUMN changed")
        database.execute("UPDATE alembic_version SET version_num = '0005'")
        database.commit()
    async with opened(bench.path, clock=FixedClock()) as bench:
        assert await found(bench, Forgetting(ref="tok_1")) == ([], 0)
        await bench.issue("tok_2", address="192.0.2.7")
        assert await found(bench, Forgetting(agent="cluster/support/triage")) == ([1], 0)
        await bench.verified()
