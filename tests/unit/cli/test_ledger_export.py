"""``broker ledger export``: at least once each, from a broker or a file, and on from where it stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.broker_thread import BrokerThread
from tests.support.shell import Done, Shell


def _places(path: Path) -> list[int]:
    return [json.loads(line)["seq"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("form", ["jsonl", "cloudevents", "cef", "ocsf"])
def test_online_and_offline_say_the_same(shell: Shell, broker: BrokerThread, form: str) -> None:
    """Each entry is a line, the same from a broker and from its file."""
    broker.run(broker.app.token("alpha"))
    shell("ledger", "tail")
    online = shell("ledger", "export", "--format", form)
    offline = shell("ledger", "export", "--format", form, "--file", broker.folder / "ledger.db")
    assert (online.code, offline.code) == (0, 0)
    assert offline.out.startswith(online.out)
    assert len(offline.out.splitlines()) == len(broker.entries())


def test_it_goes_on_where_it_stopped(shell: Shell, broker: BrokerThread, tmp_path: Path) -> None:
    """With a cursor, a second run writes only what came since; both files are their owner's alone."""
    out, cursor, file = tmp_path / "out.jsonl", tmp_path / "cursor", broker.folder / "ledger.db"
    export = ("ledger", "export", "--file", file, "--output", out, "--cursor", cursor)
    assert shell(*export).code == 0
    first = _places(out)
    broker.run(broker.app.token("alpha"))
    assert shell(*export).code == 0
    assert _places(out) == list(range(len(broker.entries())))
    assert len(_places(out)) > len(first)
    assert int(cursor.read_text()) == len(_places(out))
    assert [path.stat().st_mode & 0o777 for path in (out, cursor)] == [0o600, 0o600]


def test_from_a_place_on(shell: Shell, made: Path, tmp_path: Path) -> None:
    """``--since`` names the first entry; a cursor that is there counts more, unless the ledger does not reach it."""
    export = ("ledger", "export", "--file", made / "ledger.db")
    places = [json.loads(line)["seq"] for line in shell(*export, "--since", "1").out.splitlines()]
    assert places[0] == 1
    (tmp_path / "cursor").write_text("2\n")
    assert shell(*export, "--since", "1", "--cursor", tmp_path / "cursor") == Done(0, "", "")
    (tmp_path / "cursor").write_text("3\n")
    done = shell(*export, "--cursor", tmp_path / "cursor")
    assert (done.code, done.out) == (4, "")
    assert done.err.startswith("broker: ledger_too_short: the ledger has no entry 2, ")


def test_a_torn_line(shell: Shell, made: Path, tmp_path: Path) -> None:
    """What a crash left of a line does not swallow the next one, which is its entry again."""
    out = tmp_path / "out.jsonl"
    out.write_text('{"seq":0,"ent')
    assert shell("ledger", "export", "--file", made / "ledger.db", "--output", out).code == 0
    torn, *rest = out.read_text().splitlines()
    assert torn == '{"seq":0,"ent'
    assert json.loads(rest[0])["seq"] == 0


@pytest.mark.parametrize("text", ["", "x", "-1", "1 2", "9" * 40, "\u0663"])
def test_a_file_that_is_no_cursor(shell: Shell, made: Path, tmp_path: Path, text: str) -> None:
    """It is not written over."""
    (tmp_path / "cursor").write_text(text)
    assert shell("ledger", "export", "--file", made / "ledger.db", "--cursor", tmp_path / "cursor").code == 2
    assert (tmp_path / "cursor").read_text() == text


def test_what_cannot_be_exported(shell: Shell, made: Path, tmp_path: Path) -> None:
    """An unknown format, a source that is none, no place to write to, a full disk."""
    export = ("ledger", "export", "--file", made / "ledger.db")
    assert shell(*export, "--format", "xml").code == 2
    assert shell(*export, "--source", "a b").code == 2
    assert shell(*export, "--output", tmp_path / "no" / "out").code == 2
    cursor = tmp_path / "cursor"
    full = subprocess.run(
        [sys.executable, "-m", "broker", *map(str, export), "--cursor", str(cursor)],
        stdout=os.open("/dev/full", os.O_WRONLY),
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (full.returncode, full.stderr.startswith(b"broker: output_failed: ")) == (3, True)
    assert not cursor.exists()


def test_killed_at_any_time_nothing_is_left_out(broker: BrokerThread, tmp_path: Path) -> None:
    """An export that follows is killed again and again while entries come; the last run completes the file."""
    out, cursor, file = tmp_path / "out.jsonl", tmp_path / "cursor", broker.folder / "ledger.db"
    export = [sys.executable, "-m", "broker", "ledger", "export", "--file", str(file), "--output", str(out)]
    export += ["--cursor", str(cursor)]
    for _ in range(3):
        running = subprocess.Popen([*export, "--follow"])
        size = out.stat().st_size if out.exists() else 0
        broker.run(broker.app.token("alpha"))
        end = time.monotonic() + 30
        while not (out.exists() and out.stat().st_size > size) and time.monotonic() < end:
            time.sleep(0.005)
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert out.stat().st_size > size
    subprocess.run(export, check=True)
    lines = [line for line in out.read_text().splitlines() if line.endswith("}}")]
    assert {json.loads(line)["seq"] for line in lines} == set(range(len(broker.entries())))
