"""``broker init``: everything or nothing, private, and never over anything that is there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from broker.cli.folder import FILES, make_folder
from broker.cli.outcome import Failure
from broker.config import load_config
from broker.ledger.verify import verify_file
from broker.policy_file import load_policy
from broker.signing.master_key import KeyFile, load_master_key
from tests.support.shell import Shell


def _listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_laptop_can_go_on_from_here(shell: Shell, tmp_path: Path) -> None:
    """One command makes a folder whose settings, policy, key and ledger all work together without editing."""
    done = shell("init", tmp_path / "new" / "broker")
    assert done.code == 0, done.err
    folder = tmp_path / "new" / "broker"
    config = load_config(folder / "broker.toml", {})
    policy = load_policy(config.policy, config.issuer)
    assert set(policy.roles) == {"operators"}
    load_master_key(KeyFile(folder / "master.key"))
    report = verify_file(config.ledger)
    assert report.sound
    assert report.size == 2, "the first keys and the first operator are on record"
    assert f"broker serve --config {folder / 'broker.toml'}" in done.out


def test_everything_is_private(made: Path) -> None:
    """The folder and every file in it are for their owner alone."""
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    for path in made.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


def test_json_says_where_things_are(shell: Shell, tmp_path: Path) -> None:
    """A program learns the settings file, the issuer and the operator."""
    answer = shell("init", tmp_path / "b", "--json").json
    assert answer["config"] == str(tmp_path / "b" / "broker.toml")
    assert answer["issuer"] == "http://127.0.0.1:8640"
    assert answer["operator"] == "operator"


def test_no_secret_is_printed(shell: Shell, tmp_path: Path) -> None:
    """Neither key appears in what the command prints."""
    done = shell("init", tmp_path / "b")
    master = (tmp_path / "b" / "master.key").read_text().strip()
    assert master not in done.out + done.err
    assert "PRIVATE" not in done.out + done.err


@pytest.mark.parametrize("name", [*FILES, "ledger.db-wal", "ledger.db.lock"])
def test_nothing_is_overwritten(shell: Shell, tmp_path: Path, name: str) -> None:
    """If any of the files is there, nothing is touched, and the text names it."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / name).write_text("precious")
    done = shell("init", tmp_path / "b")
    assert done.code == 2
    assert done.err.startswith("broker: already_initialised: ")
    assert name in done.err
    assert _listing(tmp_path / "b") == {name: b"precious"}


def test_a_dangling_link_is_there_too(shell: Shell, tmp_path: Path) -> None:
    """A link to nowhere is not written through."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "operator.pem").symlink_to(tmp_path / "elsewhere")
    assert shell("init", tmp_path / "b").code == 2
    assert not (tmp_path / "elsewhere").exists()


def test_other_files_are_left_alone(shell: Shell, tmp_path: Path) -> None:
    """A folder that holds other things can be used, and they stay as they are."""
    folder = tmp_path / "b"
    folder.mkdir(mode=0o755)
    (folder / "README").write_text("mine")
    assert shell("init", folder).code == 0
    assert (folder / "README").read_text() == "mine"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_an_empty_folder_is_closed_to_others(shell: Shell, tmp_path: Path) -> None:
    """An empty folder that exists was made for this: it becomes private."""
    folder = tmp_path / "b"
    folder.mkdir()
    folder.chmod(0o777)
    assert shell("init", folder).code == 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_shared_folder_is_refused(shell: Shell, tmp_path: Path) -> None:
    """Where others may write, they could replace the keys."""
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "README").write_text("mine")
    folder.chmod(0o777)
    done = shell("init", folder)
    assert done.code == 2
    assert done.err.startswith("broker: folder_exposed: ")
    assert list(_listing(folder)) == ["README"]


def test_a_file_is_no_folder(shell: Shell, tmp_path: Path) -> None:
    """A file of that name is refused."""
    (tmp_path / "b").write_text("mine")
    done = shell("init", tmp_path / "b")
    assert (done.code, done.err.count("\n")) == (2, 1)


@pytest.mark.parametrize("existed", [True, False])
def test_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existed: bool) -> None:
    """If something cannot be made half-way, what was made before is removed again, the new folder included."""
    folder = tmp_path / "b"
    if existed:
        folder.mkdir()
        (folder / "README").write_text("mine")
    real = os.open

    def full(path: str | Path, *rest: int, **named: int) -> int:
        if str(path).endswith("operator.pem"):
            raise OSError(28, "No space left on device")
        return real(path, *rest, **named)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(Failure) as caught:
        make_folder(folder)
    assert "No space left" in caught.value.text
    assert folder.exists() == existed
    if existed:
        assert list(_listing(folder)) == ["README"]


def test_settings_do_not_leak_in(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made belongs to the file, not to the variables of the shell that happened to make it."""
    monkeypatch.setenv("BROKER_LEDGER_PATH", str(tmp_path / "elsewhere.db"))
    assert shell("init", tmp_path / "b").code == 0
    assert (tmp_path / "b" / "ledger.db").exists()
    assert not (tmp_path / "elsewhere.db").exists()
