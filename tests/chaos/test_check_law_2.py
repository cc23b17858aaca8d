"""The checker calls a sound run sound, and finds each thing that it is there to find."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHECKER = Path(__file__).with_name("check_law_2.py")
BROKERS, VERIFIERS = 1.0, 15.0


@dataclass
class Story:
    """A ledger and a journal, as a run leaves them, and what is forged about them."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    note: str | None = None

    def grant(self, jti: str, epoch: int, at: float, **members: object) -> None:
        """A token is issued and received."""
        known = {"role": "support", "tier": "read", "issuer": "registered", "task": f"task-{jti}"}
        entry = {
            "kind": "token.issued",
            "ref": jti,
            "agent": "alpha",
            "audience": "tickets",
            "scope": "read",
            "key": "k",
        }
        self.entries.append({**entry, **known, "at": int(at * 1000), "epoch": epoch, **members})
        claims = {"sub": "alpha", "client_id": "alpha", "aud": "tickets", "scope": "read", "jti": jti}
        jwt = _jwt({"kid": "k"}, {**claims, "broker": {**known, "epoch": epoch, **members}})
        self.lines.append({"what": "received", "jwt": jwt, "at": at})

    def revoke(self, number: int, selector: dict[str, object], at: float, **members: object) -> None:
        """A rule is made, acknowledged and applied within half a second."""
        name = f"rule_{number}"
        entry = {"kind": "rule.added", "ref": name, "number": number, "selector": selector, "at": int(at * 1000)}
        self.entries.append({**entry, **members})
        told = {"id": name, "rule": number, "durable": True, "applied": True, "selector": selector, "key": name}
        self.lines.append({"what": "revoked", "began": at, "ended": at + 0.5, **told})

    def judge(self, what: str, jti: str, at: float, by: str = "verifier-1") -> None:
        """Somebody judges a token."""
        self.lines.append({"what": what, "by": by, "token": jti, "began": at, "ended": at + 0.001, "code": None})

    def judged(self, folder: Path, *, torn: str = "") -> tuple[int, str]:
        """Run the checker; return its exit code and what it printed."""
        (folder / "journals").mkdir()
        export, note = folder / "export.jsonl", folder / "note.txt"
        export.write_text(
            "".join(json.dumps({"seq": seq, "entry": one}) + "\n" for seq, one in enumerate(self.entries))
        )
        (folder / "journals" / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.lines) + torn)
        note.write_text(self.note or self.checkpoint())
        bounds = ["--brokers-within", str(BROKERS), "--verifiers-within", str(VERIFIERS)]
        command = [sys.executable, str(CHECKER), str(folder / "journals"), str(export), "--note", str(note), *bounds]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def checkpoint(self) -> str:
        """Return the checkpoint of the ledger as it is now."""
        root = base64.b64encode(_root([_canonical(entry) for entry in self.entries])).decode()
        return f"broker\n{len(self.entries)}\n{root}\n\n\N{EM DASH} broker none\n"


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    middle = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + _root(leaves[:middle]) + _root(leaves[middle:])).digest()


def _jwt(*parts: dict[str, Any]) -> str:
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in [*map(_canonical, parts), b"none"])


def _sound() -> Story:
    story = Story()
    story.grant("tok_1", 0, 10.0)
    story.grant("tok_2", 0, 11.0, role="triage")
    story.judge("accepted", "tok_1", 12.0)
    story.judge("accepted", "tok_2", 12.0, "broker:1")
    story.revoke(1, {"role": "support"}, 20.0)
    story.judge("accepted", "tok_1", 20.4)  # between the call and its answer
    story.judge("refused", "tok_1", 20.6)
    story.judge("accepted", "tok_2", 30.0)  # which the rule is not about
    story.grant("tok_3", 1, 31.0)
    story.judge("accepted", "tok_3", 32.0)  # which the rule is about, and which is younger
    story.revoke(2, {"agent": "alpha", "tier": "write"}, 40.0, block={"id": "block_1", "until": 50})
    story.grant("tok_4", 2, 41.0)
    story.grant("tok_5", 2, 51.0, tier="write")  # after the block
    story.revoke(3, {"everything": True}, 60.0, block={"id": "block_2"})
    story.entries.append({"kind": "block.lifted", "ref": "block_2", "at": 61_000})
    story.grant("tok_6", 3, 62.0)
    story.grant("tok_7", 3, 45.0, tier="write")  # after the block, by a clock that was set back
    return story


SOUND = _sound()


def _forge(place: int, **members: object) -> Callable[[Story], object]:
    """Return a forgery of one entry, which is told nobody else."""
    return lambda story: story.entries[place].update(members)


def _told(place: int, **members: object) -> Callable[[Story], object]:
    return lambda story: story.lines[place].update(members)


def _late(by: str, at: float, jti: str = "tok_1") -> Callable[[Story], object]:
    return lambda story: story.judge("accepted", jti, at, by)


def _unapplied(by: str, at: float) -> Callable[[Story], object]:
    """The answer did not say applied, and then somebody accepted: what counts is the bound."""

    def forge(story: Story) -> None:
        next(line for line in story.lines if line["what"] == "revoked")["applied"] = False
        story.judge("accepted", "tok_1", at, by)

    return forge


def _twice(story: Story) -> None:
    story.entries.insert(1, story.entries[0])


def _one_key(story: Story) -> None:
    for line in story.lines:
        if line["what"] == "revoked":
            line["key"] = "same"


def _fast(story: Story) -> None:
    story.entries[0]["at"] = 10**9
    story.entries[5]["tier"] = "write"


def _root_moved(story: Story) -> None:
    story.note = story.checkpoint()
    story.entries[0]["agent"] = "beta"


FORGERIES: dict[str, tuple[Callable[[Story], object], str]] = {
    "a token is lost": (lambda story: story.entries.pop(0), "tok_1 was given, and is in the ledger 0 times"),
    "a token is there twice": (_twice, "tok_1 was given, and is in the ledger 2 times"),
    "a token is given twice": (lambda story: story.lines.append(story.lines[0]), "tok_1 was given twice"),
    "a token says another epoch": (_forge(3, epoch=0), "tok_3 says epoch 1, and its entry 0"),
    "a grant on stale rules": (_forge(3, epoch=0), "tok_3 has epoch 0, and there are 1 rules"),
    "a grant on rules to come": (_forge(0, epoch=1), "tok_1 has epoch 1, and there are 0 rules"),
    "a rule is lost": (lambda story: story.entries.pop(2), "rule_1 was acknowledged, and is in the ledger 0"),
    "a rule is passed over": (_forge(2, number=2), "rule_1 has number 2 after epoch 0"),
    "a rule is another one": (_forge(2, selector={"role": "triage"}), "rule_1 was acknowledged as 1"),
    "one call makes two rules": (_one_key, "one revocation became two rules: rule_1 and rule_2"),
    "a grant in spite of a block": (_forge(5, tier="write"), "tok_4 was granted in spite of the block block_1"),
    "a clock that was fast before the block": (_fast, "tok_4 was granted in spite of the block block_1"),
    "a block that is not lifted": (lambda story: story.entries.pop(8), "tok_6 was granted in spite of"),
    "accepted after applied": (_late("verifier-2", 20.7), "tok_1 was accepted by verifier-2 200 ms after rule 1"),
    "introspected after applied": (_late("broker:1", 20.7), "tok_1 was accepted by broker:1 200 ms after rule 1"),
    "a rule for everything": (
        _late("verifier-2", 61.0, "tok_5"),
        "tok_5 was accepted by verifier-2 500 ms after",
    ),
    "a broker beyond its bound": (_unapplied("broker:1", 22.0), "tok_1 was accepted by broker:1 500 ms after rule 1"),
    "a verifier beyond its bound": (_unapplied("verifier-2", 36.0), "tok_1 was accepted by verifier-2 500 ms after"),
    "accepted and never given": (_late("verifier-1", 5.0, "tok_0"), "tok_0 was accepted by verifier-1, and nobody"),
    "an entry is changed": (_root_moved, "the tree: the checkpoint in note.txt has another root for 11 entries"),
}


def test_a_sound_run(tmp_path: Path) -> None:
    """Nothing is found, and the figures are those of the run. A line that was never finished counts for none."""
    code, said = SOUND.judged(tmp_path, torn='{"what": "accep')
    assert code == 0, said
    counted = {"received": 7, "revoked": 3, "applied": 3, "accepted": 5, "refused": 1}
    assert json.loads(said) == {"entries": 11, "rules": 3, **counted}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery(name: str, tmp_path: Path) -> None:
    """Each property can be refuted, and the line says what it is about."""
    story, (forge, says) = copy.deepcopy(SOUND), FORGERIES[name]
    forge(story)
    code, said = story.judged(tmp_path)
    assert code == 1, said
    assert says in said


@pytest.mark.parametrize(("by", "at"), [("broker:1", 21.4), ("verifier-2", 35.4)])
def test_within_the_bound(by: str, at: float, tmp_path: Path) -> None:
    """While nobody said that a rule is applied, each place has the time of its bound."""
    story = copy.deepcopy(SOUND)
    _unapplied(by, at)(story)
    assert story.judged(tmp_path)[0] == 0


@pytest.mark.parametrize("without", ["received", "accepted"])
def test_too_little_to_mean_anything(without: str, tmp_path: Path) -> None:
    """A run in which nothing happened proves nothing."""
    story = Story(SOUND.entries, [line for line in SOUND.lines if line["what"] != without])
    if without == "received":
        story.lines = [line for line in story.lines if line["what"] == "revoked"]
    code, said = story.judged(tmp_path)
    assert code == 2
    assert "too little to mean anything" in said


def test_a_journal_that_cannot_be_read(tmp_path: Path) -> None:
    """What is not understood is not passed over."""
    story = Story(SOUND.entries, [*SOUND.lines, {"jwt": "?"}])
    assert story.judged(tmp_path)[0] == 2


def test_it_needs_nothing_of_the_broker() -> None:
    """And neither does what it reads ledgers with."""
    assert "broker." not in "".join(line for line in CHECKER.read_text().splitlines() if "import" in line)
