"""``broker exec`` with database credentials from a real OpenBao, as the page on leasing secrets has it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.openbao import OpenBao
from tests.support.postgres import Postgres
from tests.support.running_broker import RunningBroker

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "lease-secrets.md").read_text()
OPERATORS = """
  operators:
    members: [{agent: operator}]
    allow:
      - {audience: broker, scopes: ["operator:read", "leases:read", "agents:write", "revocations:write"]}
"""
REPORT = """#!{python}
import json, os, pathlib, psycopg, sys
path = os.environ.get("CREDENTIALS")
data = json.loads(pathlib.Path(path).read_text()) if path else {{}}
user = data.get("username") or os.environ["PG_USERNAME"]
password = data.get("password") or os.environ["PG_PASSWORD"]
with psycopg.connect(host=os.environ["PGHOST"], user=user, password=password, dbname="postgres") as connection:
    print(json.dumps([*connection.execute("SELECT current_user").fetchone(), password]))
"""


@dataclass
class Ground:
    """Everything that the page takes for granted."""

    broker: RunningBroker
    postgres: Postgres
    folder: Path

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a command line of the page, where it says to."""
        program = [sys.executable, "-m", "broker", *shlex.split(line)[1:]]
        environment = {**os.environ, "BROKER_CONFIG": str(self.broker.config), "PGHOST": self.postgres.host}
        return subprocess.run(
            program, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    def lets_in_no_more(self, user: str, password: str) -> bool:
        """Whether PostgreSQL refuses a user, within some seconds."""
        for _ in range(100):
            if not self.postgres.lets_in(user, password):
                return True
            time.sleep(0.1)
        return False


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Start PostgreSQL, OpenBao and a broker with the page's policy."""
    policy = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0] + OPERATORS
    broker = RunningBroker(tmp_path_factory.mktemp("exec"), policy=policy)
    with Postgres() as postgres, OpenBao() as bao:
        bao.with_broker_policy()
        bao.with_database(postgres)
        broker.initialise()
        (broker.home / "token").write_text(bao.token("broker"))
        with broker.config.open("a") as file:
            file.write(
                f'\n[backends.vault]\naddress = "{bao.url}"\nsign_in = {{method = "token", token_file = "token"}}\n'
            )
        broker.start()
        broker.agent("triage")
        report = broker.folder / "report.sh"
        report.write_text(REPORT.format(python=sys.executable))
        report.chmod(0o700)
        yield Ground(broker, postgres, broker.folder)
        broker.stop()


def page_lines(beginning: str) -> list[str]:
    """Return the page's command lines that begin so."""
    return [line for line in PAGE.splitlines() if line.startswith(beginning)]


@pytest.mark.parametrize("line", page_lines("broker exec "))
def test_a_program_signs_in_to_the_database(ground: Ground, line: str) -> None:
    """It does while it runs, with credentials of its own; nobody does with them afterwards."""
    done = ground.run(line)
    assert done.returncode == 0, done.stderr
    user, password = json.loads(done.stdout)
    assert user.startswith("v-")
    assert ground.lets_in_no_more(user, password)
    lease = ground.broker.ask("leases", "list")["leases"][0]
    assert (lease["state"], lease["because"], lease["agent"]) == ("revoked", "returned", "triage")


def test_a_script_takes_and_returns(ground: Ground) -> None:
    """The lines of the page in a shell, with the id that was told."""
    evaluated, returned = page_lines("eval ")[0], page_lines("broker lease return ")[0]
    function = f'broker() {{ {shlex.quote(sys.executable)} -m broker "$@"; }}'
    script = f'{function}\n{evaluated}\nprintf "%s\\n" "$PG_USERNAME" "$PG_PASSWORD"'
    environment = {**os.environ, "BROKER_CONFIG": str(ground.broker.config)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=ground.folder, env=environment, capture_output=True, text=True, check=False
    )
    user, password = done.stdout.split()
    assert ground.postgres.lets_in(user, password), done.stderr
    (lease,) = re.findall(r"broker lease return (\S+)", done.stderr)
    told = ground.run(re.sub(r"lease_\S+", lease, returned))
    assert told.stdout.startswith(f"{lease}: revoked\n"), told.stderr
    assert not ground.postgres.lets_in(user, password)
