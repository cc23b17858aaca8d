"""The page on anchors: its settings can be used as they stand, and its way to verify from the outside works."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from broker.config import WitnessAnchorSettings, load_config
from broker.core.entry import Kind
from broker.signing.cosignature import parse_witness_key
from tests.support.anchors import log_vkey
from tests.support.broker_app import Template, make_template, running_app, with_settings

ROOT = Path(__file__).parents[2]
VERIFIER = ROOT / "docs" / "verify_ledger.py"
FILE = "broker.jsonl"
PAGE = (ROOT / "docs" / "how-to" / "anchor-the-ledger.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_are_settings(tmp_path: Path) -> None:
    """All of them together, one of each kind."""
    path = tmp_path / "broker.toml"
    path.write_text('issuer = "https://broker.example"\n' + "\n".join(_blocks("toml")))
    anchors = load_config(path, {}).anchors
    assert list(anchors) == ["offsite", "locked", "witness-1", "logs"]
    witness = anchors["witness-1"]
    assert isinstance(witness, WitnessAnchorSettings)
    assert parse_witness_key(witness.vkey).name == "witness.example.org/w1"


def test_every_kind_of_entry_and_metric_is_named() -> None:
    """What an operator is to look for."""
    for word in (Kind.ANCHOR_FAILED, Kind.ANCHOR_RECOVERED, "anchor.lagging", "anchor.lost", "anchor.inconsistent"):
        assert f"`{word}`" in PAGE
    source = (ROOT / "broker" / "metrics.py").read_text()
    gauges = re.findall(r'^    "([a-z_]+)": "', source.partition("_ANCHOR_GAUGES")[2].partition("}")[0], re.MULTILINE)
    assert len(gauges) == 4
    assert all(f"`broker_anchor_{name}`" in PAGE for name in gauges)


@pytest.fixture
def template(tmp_path: Path) -> Template:
    """A broker with a file anchor."""
    settings = f'\n[anchors.offsite]\nkind = "file"\npath = {json.dumps(str(tmp_path / FILE))}\nevery_seconds = 1\n'
    return with_settings(make_template(tmp_path / "made"), tmp_path / "template", settings)


async def test_an_auditor_verifies_from_the_outside(template: Template, tmp_path: Path) -> None:
    """The last block of the page, run with the paths of a real broker: sound; and not, once the ledger was changed."""
    async with running_app(template, tmp_path / "broker") as app:
        await app.token("alpha")
        vkey = await log_vkey(app.services.records, app.issuer)
        ledger = app.file
    commands = _blocks("sh")[-1].replace("/mnt/evidence/broker.jsonl", str(tmp_path / FILE)).replace("VKEY", vkey)
    script = commands.replace("ledger.db", str(ledger)).replace("docs/verify_ledger.py", str(VERIFIER))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def run() -> subprocess.CompletedProcess[str]:
        command, environment = ["/bin/sh", "-e", "-c", script], {**os.environ, "PATH": path}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    sound = run()
    assert sound.returncode == 0, sound
    with closing(sqlite3.connect(ledger)) as database:
        database.execute("UPDATE entries SET body = replace(CAST(body AS TEXT), 'alpha', 'omega')")
        database.commit()
    assert run().returncode != 0
