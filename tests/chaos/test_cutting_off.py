"""Whoever is cut off refuses by itself in time; the receipt of the revocation waits for that, and names who it is."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.cutting_off import PLACES, cut_off
from tests.chaos.replicas import STALENESS
from tests.chaos.verifying import WITHIN


def test_a_replica_and_a_verifier_that_are_cut_off(tmp_path: Path) -> None:
    """Two of each, on a real PostgreSQL; bounds count from the last moment at which anything was heard."""
    story = cut_off(tmp_path / "run")
    told = story.propagation
    assert (told["applied"], told["waiting_for"], set(told["refusing"])) == (True, [], set(story.silent))
    assert (told["replicas"], told["replicas_applied"]) == (2, 1)
    assert (told["verifiers"], told["verifiers_applied"]) == (2, 1)
    assert story.accepted("replica-2") <= STALENESS
    assert story.accepted("verifier-2") <= WITHIN
    assert story.refused("replica-2", "rules_stale") > 0
    assert story.refused("verifier-2", "view_stale") > 0
    assert all(story.accepted(by) <= story.answered - story.blocked for by in PLACES)
