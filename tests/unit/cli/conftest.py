"""Fixtures for tests of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli.folder import make_folder
from tests.support.broker_app import Template, make_template
from tests.support.broker_thread import BrokerThread, broker_thread
from tests.support.shell import Shell, write_private_key


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


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker's folder with agents, to be copied."""
    return make_template(tmp_path_factory.mktemp("template") / "broker")


@pytest.fixture
def broker(template: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokerThread]:
    """A running broker, which commands find by the environment."""
    with broker_thread(template, tmp_path / "home") as running:
        monkeypatch.setenv("BROKER_CONFIG", str(running.config))
        monkeypatch.setenv("BROKER_PORT", str(running.port))
        yield running


@pytest.fixture
def alpha(template: Template, tmp_path: Path) -> Path:
    """The private key file of the registered agent ``alpha``."""
    return write_private_key(tmp_path / "alpha.pem", template.keys["alpha"])
