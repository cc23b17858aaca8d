"""``broker approvals``: what people are shown of requests, and their decisions."""

from __future__ import annotations

import pytest

from broker.cli.task import FLAG
from tests.support.broker_app import POLICY, TICKETS, Template, make_template
from tests.support.broker_thread import BrokerThread
from tests.support.shell import Shell

REFUNDS = "https://payments.internal"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker whose operator approves refunds, and whose agents may break the glass."""
    more = '          - "policy:write"\n          - "approvals:read"\n          - "approvals:decide"\n'
    policy = POLICY.replace('          - "policy:write"\n', more)
    policy = policy.replace("    limits: {tokens_per_minute: 100}\n", "    break_glass: true\n", 1)
    return make_template(tmp_path_factory.mktemp("approvals") / "broker", policy)


def _asked(broker: BrokerThread, **parameters: str) -> str:
    """Have an agent ask for something that a person must approve; return the id."""
    app = broker.app
    form = app.form("alpha", resource=REFUNDS, scope="refunds:create", **parameters)
    reply = broker.run(app.ask(form))
    assert reply.json["error"] == "authorization_pending", reply.body
    return str(reply.json["auth_req_id"])


def test_a_request_from_the_list_to_its_approval(shell: Shell, broker: BrokerThread) -> None:
    """It is listed with what it is for, shown in plain words, and approved once."""
    assert shell("approvals", "list").out == "There are no requests: pending.\n"
    broker.run(broker.app.token("alpha", TICKETS, "tickets:read"))
    request = _asked(broker)
    listed = shell("approvals", "list").out.splitlines()
    assert listed[1].split()[:3] == [request, "pending", "alpha"]
    shown = shell("approvals", "show", request).out
    assert "refunds:create at https://payments.internal" in shown
    assert "1 of the role operators" in shown
    assert "What this agent did before:" in shown
    assert "token.issued" in shown
    done = shell("approvals", "approve", request, "--reason", "ticket 8812")
    assert (done.code, done.out.splitlines()[0]) == (0, f"Request {request}: approved, 1 of 1 agreed")
    again = shell("approvals", "approve", request, "--reason", "once more")
    assert (again.code, again.err.split(": ")[1]) == (1, "conflict")
    (vote,) = broker.entries("approval.voted")
    assert (vote["by"], vote["reason"], vote["approve"]) == ("operator", "ticket 8812", True)


def test_a_denial(shell: Shell, broker: BrokerThread) -> None:
    """One denial decides, and the state is in the JSON."""
    request = _asked(broker)
    denied = shell("approvals", "deny", request, "--reason", "nobody asked for this", "--json").json
    assert (denied["state"], denied["votes"][0]["approve"]) == ("denied", False)
    assert [one["id"] for one in shell("approvals", "list", "--state", "denied", "--json").json["approvals"]] == [
        request
    ]


def test_what_was_taken_without_asking_is_reviewed(shell: Shell, broker: BrokerThread) -> None:
    """Its reason is the agent's own words: in quotation marks, and marked if it speaks to the reader."""
    app = broker.app
    reason = "you must approve this immediately"
    form = app.form("alpha", resource=REFUNDS, scope="refunds:create", break_glass=reason)
    assert broker.run(app.ask(form)).status == 200
    (waiting,) = shell("approvals", "list", "--state", "unreviewed", "--json").json["approvals"]
    assert f"{FLAG}“{reason}”" in shell("approvals", "show", waiting["id"]).out
    reviewed = shell("approvals", "review", waiting["id"], "--reason", "agreed by telephone")
    assert reviewed.out.startswith(f"Request {waiting['id']}: reviewed")
    assert shell("approvals", "list", "--state", "unreviewed").out == "There are no requests: unreviewed.\n"


@pytest.mark.parametrize("state", ["", "made-up", "PENDING"])
def test_a_state_that_is_none(shell: Shell, broker: BrokerThread, state: str) -> None:
    """States that do not exist are refused, with those that do."""
    done = shell("approvals", "list", "--state", state)
    assert (done.code, done.err.split(": ")[1]) == (1, "malformed_request") if state else done.code == 0


def test_a_request_that_is_not_there(shell: Shell, broker: BrokerThread) -> None:
    """Each command says so."""
    unknown = "apr_" + "0" * 26
    assert shell("approvals", "show", unknown).err.startswith("broker: not_found: ")
    assert shell("approvals", "deny", unknown, "--reason", "x").err.startswith("broker: not_found: ")
