"""Rotations at any times, in any order, however hurried: what verifiers can rely on at every instant."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.change import StoredKey
from broker.core.key_schedule import JWKS_MAX_AGE, SHORTEST_LEAD, Rotation
from broker.core.secret import Secret
from broker.signing.keyring import KeyRing
from broker.signing.sealing import Sealer

SEALER = Sealer(Secret(bytes(range(32))))
START = 1_800_000_000.0
LONGEST = 900

rotations = st.tuples(
    st.integers(0, 4000),  # seconds since the last one
    st.one_of(st.none(), st.integers(SHORTEST_LEAD, 3000)),  # its lead, or an emergency
)


@dataclass
class Timeline:
    """A broker whose key ring is rotated, and the tokens that it signed on the way."""

    rows: dict[str, StoredKey] = field(default_factory=dict)
    ring: KeyRing = field(default_factory=lambda: KeyRing((), SEALER, longest_token=LONGEST))
    published_at: dict[str, float] = field(default_factory=dict)
    hurried: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    expiry: dict[str, float] = field(default_factory=dict)

    def apply(self, rotation: Rotation, now: float, *, emergency: bool) -> None:
        """Store the rows, and let the ring follow."""
        self.rows.update((row.kid, row) for row in rotation.rows)
        made = {row.kid for row in rotation.rows} - set(self.published_at)
        self.published_at.update(dict.fromkeys(made, now))
        if emergency:
            self.hurried |= made
        self.dead |= set(rotation.compromised)
        self.ring.replace(list(self.rows.values()))

    def observe(self, now: float) -> None:
        """Sign a token of the longest life, and hold the law against this instant."""
        published = {key["kid"] for key in self.ring.jwks(now)["keys"]}
        for alg in ("ES256", "EdDSA"):
            kid = self.ring.signer(now, alg=alg).kid
            assert kid in published
            assert kid not in self.dead
            assert kid in self.hurried or now - self.published_at[kid] >= SHORTEST_LEAD > JWKS_MAX_AGE
            self.expiry[kid] = now + LONGEST
        assert {kid for kid, expires in self.expiry.items() if expires > now} - self.dead <= published
        assert not published & self.dead
        assert all((kid in self.ring.verification_keys(now)) == (kid in published) for kid in self.rows)

    def pass_until(self, start: float, end: float) -> None:
        """Look at each instant at which something could change, just before it, and in between."""
        times = {time for row in self.rows.values() for time in (row.active_at, row.retires_at) if time is not None}
        times |= {time - 0.5 for time in times} | {start, end, start + (end - start) / 2}
        for now in sorted(time for time in times if start <= time <= end):
            self.observe(now)


def _opened() -> Timeline:
    timeline = Timeline()
    keys = [timeline.ring.generate(alg, "token", START, START) for alg in ("ES256", "EdDSA")]
    timeline.apply(Rotation(tuple(keys)), START, emergency=True)
    return timeline


@settings(deadline=None)
@given(st.lists(rotations, max_size=6))
def test_every_signing_key_was_known_in_time_and_stays_known_for_its_tokens(plan: list[tuple[int, int | None]]) -> None:
    """A key signs only after everybody can know it, and is published until its last token has expired or died.

    The first keys and those of an emergency sign at once: there, being unknown for a moment is the lesser evil.
    """
    timeline = _opened()
    now = START
    for wait, lead in plan:
        timeline.pass_until(now, now + wait)
        now += wait
        emergency = lead is None
        rotation = timeline.ring.replaced(now) if lead is None else timeline.ring.rotated(now, lead)
        timeline.apply(rotation, now, emergency=emergency)
        timeline.observe(now)
    timeline.pass_until(now, now + 20_000)
    final = {key["kid"] for key in timeline.ring.jwks(now + 20_000)["keys"]}
    assert len(final) == 2, "what is no longer needed is not published forever"


@settings(deadline=None)
@given(st.lists(rotations, max_size=4), st.lists(st.floats(-5000, 20_000), min_size=1, max_size=8))
def test_looking_at_the_ring_at_other_times_changes_nothing(
    plan: list[tuple[int, int | None]], looks: list[float]
) -> None:
    """Whatever was asked before, and in whatever order, the answer at an instant is the same."""
    timeline = _opened()
    now = START
    for wait, lead in plan:
        now += wait
        rotation = timeline.ring.replaced(now) if lead is None else timeline.ring.rotated(now, lead)
        timeline.apply(rotation, now, emergency=lead is None)
    for look in looks:
        fresh = KeyRing(list(timeline.rows.values()), SEALER, longest_token=LONGEST)
        assert timeline.ring.jwks(now + look) == fresh.jwks(now + look)
        assert timeline.ring.signing_kid(now + look) == fresh.signing_kid(now + look)
