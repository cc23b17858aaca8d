"""Telling systemd how a service is doing."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from broker.systemd import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_whoever_asked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, abstract: bool) -> None:
    """At a path, or at a name in the abstract namespace, which systemd writes with an @."""
    name = f"{tmp_path.name}-notify" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else name)
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else name)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all", "@nobody-listens-here"])
def test_a_service_runs_whether_or_not_it_is_heard(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Nobody asked, or nobody is there."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")
