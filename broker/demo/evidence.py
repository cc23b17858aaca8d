"""The third act of the demonstration: what the ledger proves, and that a forgery shows."""

from __future__ import annotations

from broker.demo.places import Places
from broker.demo.stage import DemoError, Stage


def play_evidence(stage: Stage, places: Places) -> None:
    """Show step 11. Raises ``DemoError`` if anything is not as promised. At the end the broker is stopped."""
    with stage.step(11, "The ledger proves what happened"):
        stage.stop("broker")
        _verify(stage, places)


def _verify(stage: Stage, places: Places) -> None:
    stage.command("ledger", "verify", "--file", str(places.ledger))
    copy = places.folder / "tampered.db"
    data = bytearray(places.ledger.read_bytes())
    place = data.find(b'"reason":"prompt injection')
    if place < 0:
        msg = "the revocation is not in the ledger"
        raise DemoError(msg)
    data[place + len(b'"reason":"')] ^= 1
    copy.write_bytes(data)
    stage.say("one bit of one entry is changed in a copy of the ledger:")
    stage.command("ledger", "verify", "--file", str(copy), expect=4)
