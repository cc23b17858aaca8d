"""Strict OAuth clients from npm work against ``broker serve`` unmodified."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.running_broker import TICKETS, RunningBroker, run

HERE = Path(__file__).parent
PROGRAMS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def npm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the locked npm packages and our scripts."""
    folder = tmp_path_factory.mktemp("npm")
    for file in (*HERE.glob("*.mjs"), *HERE.glob("package*.json")):
        (folder / file.name).write_text(file.read_text())
    run(["npm", "ci", "--no-audit", "--no-fund"], folder, PATH=f"{PROGRAMS}:{os.environ['PATH']}")
    return folder


def _node(npm: Path, script: str, broker: RunningBroker, key: Path, helper_key: Path) -> dict[str, Any]:
    environment = {"ISSUER": broker.issuer, "CLIENT": "alpha", "KEY": str(key), "RESOURCE": TICKETS}
    environment |= {"HELPER": "beta", "HELPER_KEY": str(helper_key)}
    output = run(["node", script], npm, PATH=f"{PROGRAMS}:{os.environ['PATH']}", **environment)
    answer: dict[str, Any] = json.loads(output)
    return answer


def test_oauth4webapi(npm: Path, broker: RunningBroker, key: Path, helper_key: Path) -> None:
    """A certified-strict client gets, validates, exchanges, introspects and revokes, and understands a refusal."""
    answer = _node(npm, "oauth4webapi.mjs", broker, key, helper_key)
    assert answer == {
        "token_type": "bearer",
        "expires_in": 900,
        "scope": "tickets:read",
        "subject": "alpha",
        "before": True,
        "after": False,
        "bound_type": "dpop",
        "exchanged": {
            "kind": "urn:ietf:params:oauth:token-type:access_token",
            "scope": "tickets:read",
            "act": {"sub": "beta"},
            "subject": "alpha",
        },
        "refused": {"name": "ResponseBodyError", "error": "invalid_scope", "status": 400},
    }


def test_openid_client(npm: Path, broker: RunningBroker, key: Path, helper_key: Path) -> None:
    """openid-client needs nothing but the issuer and the key."""
    answer = _node(npm, "openid-client.mjs", broker, key, helper_key)
    assert answer["token_type"] == "bearer"
    assert answer["scope"] == "tickets:read"
    assert answer["client_id"] == "alpha"
    assert answer["exchanged"] == "tickets:read"
    assert (answer["before"], answer["after"]) == (True, False)


def test_sd_jwt_status_list(npm: Path, broker: RunningBroker, key: Path, helper_key: Path) -> None:
    """A reader of status lists that knows nothing of rules finds the one token dead that was revoked."""
    answer = _node(npm, "status-list.mjs", broker, key, helper_key)
    valid = {"status": 0, "ttl": 30, "type": "application/statuslist+jwt"}
    assert answer == {"before": [valid, valid], "after": [{**valid, "status": 1}, valid]}
