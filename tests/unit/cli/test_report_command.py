"""``broker report``: what a real broker's ledger proves, as Markdown and as a page."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.broker_thread import BrokerThread
from tests.support.shell import Shell


def test_a_report_on_a_real_ledger(shell: Shell, broker: BrokerThread, tmp_path: Path) -> None:
    """Tokens, a refusal, a revocation with what it hit: each with the entries that show it, in both formats."""
    for _ in range(3):
        broker.run(broker.app.token("alpha"))
    refused = broker.run(broker.app.ask(broker.app.form("alpha", audience="https://tickets.example", scope="x:y")))
    assert refused.status == 400
    done = shell("revoke", "--agent", "alpha", "--reason", "<b>stolen</b> | laptop", "--incident", "INC-7", "--yes")
    assert done.code == 0, done.err
    file = broker.folder / "ledger.db"
    text = shell("report", "--file", file, "--since", "1h").out
    issued = [entry for entry in broker.entries("token.issued") if entry["agent"] == "alpha"]
    assert f"| alpha | {len(issued)} |" in text
    code = broker.entries("token.refused")[-1]["code"].replace("_", r"\_")
    assert rf"| {code} \(token\.refused\) | 1 |" in text
    assert rf"| agent=alpha | operator | \<b\>stolen\</b\> \| laptop | INC-7 | {len(issued)} | 0 | - | - |" in text
    assert "| the whole ledger | sound |" in text
    page = tmp_path / "report.html"
    assert shell("report", "--file", file, "--since", "1h", "--format", "html", "--output", page).code == 0
    assert "&lt;b&gt;stolen&lt;/b&gt; | laptop" in page.read_text()
    assert page.stat().st_mode & 0o777 == 0o600
    again = shell("report", "--file", file, "--since", "1h", "--output", page)
    assert again.code == 2, "no file is written over"


def test_only_the_time_that_was_asked_for(shell: Shell, made: Path) -> None:
    """What is outside of it is verified, and not told."""
    text = shell("report", "--file", made / "ledger.db", "--since", "2001-01-01T00:00:00Z", "--until", "2h").out
    assert "| entries | 2 |" in text
    assert "`agent.registered`: none" in text
    assert "From 2001-01-01T00:00:00Z until " in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("--since", "yesterday"),
        ("--since", "1h", "--until", "2h"),
        ("--since", "1h", "--format", "pdf"),
        ("--since", "1h", "--note", "/nowhere"),
        ("--since", "1h", "--output", "/nowhere/report"),
        (),
    ],
)
def test_what_cannot_be_reported(shell: Shell, made: Path, arguments: tuple[str, ...]) -> None:
    """No time that there is, no such format, no place to write to: one line, and nothing else."""
    done = shell("report", "--file", made / "ledger.db", *arguments)
    assert done.code in {2, 3}
    assert done.out == ""


def test_what_anchors_hold(shell: Shell, made: Path, tmp_path: Path) -> None:
    """Of each anchor, the largest checkpoint that was placed there is told."""
    copy = tmp_path / "ledger.db"
    copy.write_bytes((made / "ledger.db").read_bytes())
    with closing(sqlite3.connect(copy)) as database:
        for size in (2, 1):
            database.execute(
                "INSERT INTO anchorings VALUES ('a|b', ?, zeroblob(32), 1795300000, 'r', '')",
                (size,),
            )
        database.commit()
    assert r"| a\|b | 2 | 2026-11-21T" in shell("report", "--file", copy, "--since", "1h").out


def test_a_damaged_ledger_is_reported_as_such(shell: Shell, made: Path, tmp_path: Path) -> None:
    """The report is written, says what is wrong, and the command ends with 4."""
    copy = tmp_path / "ledger.db"
    copy.write_bytes((made / "ledger.db").read_bytes())
    with closing(sqlite3.connect(copy)) as database:
        database.execute("UPDATE entries SET agent = 'mallory' WHERE seq = 1")
        database.commit()
    done = shell("report", "--file", copy, "--since", "1h")
    assert done.code == 4
    assert "NOT sound" in done.out
    assert r"entry 1\: the columns agent differ" in done.out
