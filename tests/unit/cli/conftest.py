"""Fixtures for tests of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.cli.folder import make_folder
from tests.support.shell import Shell


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the shell that runs the tests gets in, and none is found by chance."""
    for name in ("BROKER_CONFIG", "BROKER_PORT", "BROKER_ISSUER", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    """The command line."""
    return Shell(capsys)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``broker init`` makes it, not to be changed."""
    folder = tmp_path_factory.mktemp("made") / "broker"
    make_folder(folder)
    return folder
