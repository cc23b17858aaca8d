"""Commands that people have to agree to: waited for, gone on with later, and told with an exit code of their own."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker_app import TICKETS, BrokerApp, Template, make_template
from tests.support.broker_thread import BrokerThread, broker_thread
from tests.support.shell import Shell, write_private_key
from tests.support.team import REFUNDS, TEAM, TEAM_POLICY, claims_of, decide

POLICY = TEAM_POLICY.replace(
    "  gateways:\n",
    """\
  cautious:
    members: [{agent: operator}]
    allow:
      - audience: broker
        scopes: ["ledger:read"]
        approval: {approvers: finance, quorum: 1, expires: 10m}
  gateways:
""",
)
REFUND = ("--audience", REFUNDS, "--scope", "refunds:create")
READ = ("--audience", TICKETS, "--scope", "tickets:read")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with a team of agents."""
    return make_template(tmp_path_factory.mktemp("team") / "broker", POLICY, TEAM)


@pytest.fixture
def broker(team: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokerThread]:
    """Run it, where commands find it."""
    with broker_thread(team, tmp_path / "home") as running:
        monkeypatch.setenv("BROKER_CONFIG", str(running.config))
        monkeypatch.setenv("BROKER_PORT", str(running.port))
        yield running


@pytest.fixture
def agent(team: Template, tmp_path: Path) -> tuple[object, ...]:
    """The options that name the agent ``planner``."""
    return ("token", "--agent", "planner", "--key", write_private_key(tmp_path / "planner.pem", team.keys["planner"]))


async def _decided(app: BrokerApp, decision: str) -> str:
    """Decide as ``carol`` on the first request that comes, and return its id."""
    async with asyncio.timeout(20):
        while not (waiting := await app.entries("approval.requested")):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
    request = str(waiting[-1]["ref"])
    assert (await decide(app, "carol", request, decision)).status == 200
    return request


@pytest.fixture
def people(broker: BrokerThread) -> Iterator[Any]:
    """Somebody who will decide on the first request, while a command waits."""
    with ThreadPoolExecutor(1) as pool:

        def will(decision: str = "approve") -> Future[str]:
            return pool.submit(lambda: broker.run(_decided(broker.app, decision)))

        yield will


def test_an_agent_waits(shell: Shell, agent: tuple[object, ...], people: Any) -> None:  # noqa: ANN401 - the fixture's
    """Standard output has nothing but the token, standard error says what was waited for."""
    deciding = people()
    done = shell(*agent, *REFUND)
    assert done.code == 0, done.err
    assert claims_of(done.out.strip())["scope"] == "refunds:create"
    (line,) = done.err.splitlines()
    assert line.startswith("A person has to decide within ")
    assert line.endswith(f"broker approvals show {deciding.result()}")


def test_a_no_ends_the_wait(shell: Shell, agent: tuple[object, ...], people: Any) -> None:  # noqa: ANN401 - as above
    """With 1, and the broker's word for it."""
    deciding = people("deny")
    done = shell(*agent, *REFUND)
    assert (done.code, done.out) == (1, "")
    assert "broker: approval_denied: " in done.err
    deciding.result()


def test_another_command_goes_on_with_the_request(
    shell: Shell, broker: BrokerThread, agent: tuple[object, ...]
) -> None:
    """7 and the id, as JSON; with the id, once it is approved, the token; the same id again is refused."""
    pending = shell(*agent, *REFUND, "--wait", "0", "--json")
    assert (pending.code, pending.out) == (7, "")
    failure = json.loads(pending.err.splitlines()[-1])
    assert failure["code"] == "authorization_pending"
    request = failure["auth_req_id"]
    assert shell(*agent, *REFUND, "--wait", "0", "--auth-req-id", request).code == 7
    assert len(broker.entries("approval.requested")) == 1
    broker.run(decide(broker.app, "carol", request))
    assert shell(*agent, *READ, "--auth-req-id", request).code == 0  # which needs none, so that it is not used
    done = shell(*agent, *REFUND, "--wait", "0", "--auth-req-id", request)
    assert claims_of(done.out.strip())["scope"] == "refunds:create"
    again = shell(*agent, *REFUND, "--wait", "0", "--auth-req-id", request)
    assert (again.code, again.err.split(": ")[1]) == (1, "approval_invalid")


def test_an_id_that_is_none(shell: Shell, broker: BrokerThread, agent: tuple[object, ...]) -> None:
    """Whatever is typed there is refused in one line."""
    done = shell(*agent, *REFUND, "--auth-req-id", "apr_\x1b[2J")
    assert done.code == 1
    assert "\x1b" not in done.err


def test_break_glass(shell: Shell, broker: BrokerThread, agent: tuple[object, ...]) -> None:
    """With a reason, the token comes at once, where the role may."""
    done = shell(*agent, *REFUND, "--break-glass", "the customer is at the door")
    assert done.code == 0
    assert broker.entries("token.issued")[-1]["break_glass"] == "the customer is at the door"


def test_an_operators_command_waits(shell: Shell, broker: BrokerThread, people: Any) -> None:  # noqa: ANN401 - as above
    """Its token is bound to a key that ends with it: what people agree to could not be used by another command."""
    deciding = people()
    done = shell("ledger", "tail", "--json")
    assert done.code == 0, done.err
    assert f"broker approvals show {deciding.result()}" in done.err


def test_what_a_delegate_gets(
    shell: Shell, broker: BrokerThread, agent: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that names its only delegate, with details, is exchanged from standard input; others are refused it."""
    details = '[{"type": "ticket", "ids": ["T-1"]}]'
    whole = shell(*agent, *READ, "--may-act", "worker", "--details", details).out
    own = write_private_key(tmp_path / "worker.pem", broker.app.keys["worker"])
    delegate = ("token", "--agent", "worker", "--key", own, "--audience", TICKETS, "--exchange", "-", "--json")
    monkeypatch.setattr("sys.stdin", io.StringIO(whole))
    answer = shell(*delegate).json
    assert claims_of(answer["access_token"])["act"] == {"sub": "worker"}
    assert answer["authorization_details"] == [{"ids": ["T-1"], "type": "ticket"}]
    stranger = write_private_key(tmp_path / "stranger.pem", broker.app.keys["stranger"])
    monkeypatch.setattr("sys.stdin", io.StringIO(whole))
    refused = shell("token", "--agent", "stranger", "--key", stranger, "--audience", TICKETS, "--exchange", "-")
    assert (refused.code, refused.err.split(": ")[1]) == (1, "delegation_not_allowed")
