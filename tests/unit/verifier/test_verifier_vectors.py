"""Our verifier makes of the vectors what any verifier must, and so does one in another language."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from broker.core.errors import BrokerError
from broker.core.feed import Heartbeat, RuleStatement
from broker.core.jwk import KeySet, parse_jwks
from broker.core.jwt import InvalidToken
from broker.core.pacing import Timing
from broker.core.snapshot import Snapshot
from broker.core.statement import StatementError
from broker.core.token_check import TokenCheck
from broker.verifier.broker_keys import BrokerKeys
from broker.verifier.statements import Statement, Statements
from broker.verifier.view import News, RolledBack, View
from tests.support.virtual_time import VirtualTime

ROOT = Path(__file__).parents[3]
VECTORS = json.loads((ROOT / "tests" / "vectors" / "verifier.json").read_text())
SCRIPT = ROOT / "docs" / "verify_tokens.mjs"
NODE = Path(sys.executable).parent / "node"
MOST_LINES = 250


class Reader:
    """A view that is given one step after the other."""

    def __init__(self, keys: KeySet) -> None:
        self.time = VirtualTime()
        timing: Timing = self.time.timing()

        async def fetch() -> KeySet:
            return keys

        self.keys = BrokerKeys(fetch, timing)
        self.view = View(timing, max_staleness=VECTORS["max_staleness"], leeway=VECTORS["leeway"])
        self.statements = Statements(
            VECTORS["issuer"], keys=self.keys, leeway=VECTORS["leeway"], wall=lambda: self.time.wall
        )
        self.check = TokenCheck(issuer=VECTORS["issuer"], keys=lambda: keys, rules=lambda: self.view.rules)

    async def heard(self, event: str, data: str) -> str:
        """What an event is to the view."""
        try:
            return self._give(await self.statements.event(event, data)).name.lower()
        except (InvalidToken, StatementError, RolledBack):
            return "refused"

    def _give(self, statement: Statement) -> News:
        match statement:
            case Snapshot():
                return self.view.accept(statement, self.view.now())
            case RuleStatement():
                return self.view.take(statement)
            case Heartbeat():
                return self.view.confirm(statement, self.view.now())

    def asked(self, token: str) -> str:
        """What a token is."""
        try:
            self.check.check(token, self.time.wall, VECTORS["audience"])
            self.view.require_fresh()
        except BrokerError as error:
            return error.code.value
        return "good"


@pytest.mark.parametrize("sequence", VECTORS["sequences"], ids=lambda sequence: sequence["name"].replace(" ", "_"))
async def test_each_step_comes_to_what_it_must(sequence: dict[str, Any]) -> None:
    """Every event is taken, known, a gap or refused; every token is good or has its code."""
    reader = Reader(parse_jwks(json.dumps(VECTORS["jwks"]).encode()))
    for place, step in enumerate(sequence["steps"]):
        reader.time.advance(step["at"] - reader.time.wall)
        if "token" in step:
            assert reader.asked(step["token"]) == step["expect"], place
            continue
        assert await reader.heard(step["event"], step["data"]) == step["expect"], place
        rules = {rule.id: rule.number for rule in reader.view.rules.live()}
        assert (reader.view.epoch, reader.view.is_fresh(), rules) == (step["epoch"], step["fresh"], step["rules"]), (
            place
        )


def test_a_verifier_in_another_language_agrees() -> None:
    """It is short enough to be read, and needs nothing but Node."""
    text = SCRIPT.read_text()
    assert len(text.splitlines()) < MOST_LINES
    done = subprocess.run(
        [str(NODE), str(SCRIPT), str(ROOT / "tests" / "vectors" / "verifier.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{sum(len(one['steps']) for one in VECTORS['sequences'])} steps" in done.stdout


def test_the_other_verifier_can_fail(tmp_path: Path) -> None:
    """One expectation is turned round: it says so."""
    vectors = json.loads(json.dumps(VECTORS))
    vectors["sequences"][1]["steps"][2]["expect"] = "good"
    (tmp_path / "vectors.json").write_text(json.dumps(vectors))
    done = subprocess.run(
        [str(NODE), str(SCRIPT), str(tmp_path / "vectors.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "token_revoked" in done.stdout
