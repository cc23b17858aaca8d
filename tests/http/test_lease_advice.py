"""``GET /v1/policy/advice`` after real leases: what was used of the secrets, and a diff that takes the rest away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.core.proposing import advise
from broker.ledger.reading.usage_file import count_usage
from tests.support.broker_app import BrokerApp, Template, make_template, running_app
from tests.support.leases import LEASING, POLICY, leasing_token, reaping, settled, take
from tests.support.scripted_backend import ScriptedBackend


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with secrets to lease."""
    return make_template(tmp_path_factory.mktemp("advised") / "broker", POLICY, LEASING)


@pytest.fixture
async def app(template: Template, tmp_path: Path) -> AsyncIterator[BrokerApp]:
    """Run it, with its reaper."""
    async with (
        running_app(template, tmp_path / "broker", own_backends={"local": ScriptedBackend()}) as running,
        reaping(running),
    ):
        yield running


async def test_what_was_leased_is_told_and_the_rest_proposed_to_go(app: BrokerApp) -> None:
    """From the ledger of a running broker, and from its file without one: the same."""
    token = await app.token("alpha", "broker", "leases:take leases:read tasks:open")
    opened = await app.call("POST", "/v1/tasks", token=token, json={"purpose": "sort", "secrets": ["payroll"]})
    assert opened.status == 201
    leases = [(await take(app, await leasing_token(app))).json["lease_id"] for _ in range(3)]
    for lease in leases[:2]:
        await app.call("DELETE", f"/v1/leases/{lease}?wait=5", token=token)
        await settled(app, lease)
    operator = await app.operator("operator:read")
    reply = await app.call("GET", "/v1/policy/advice?force=true&role=workers", token=operator)
    assert reply.status == 200, reply.body
    (role,) = reply.json["roles"]
    found = {each["secret"]: each for each in role["secrets"]}
    assert (found["db"]["leases"], found["db"]["allowed"]) == (3, 900)
    assert 590 <= found["db"]["longest"] <= 600, "one is still held, for as long as the backend lets it live"
    assert (found["deed"]["leases"], found["deed"]["longest"]) == (0, None)
    limits = {each["name"]: each["most"] for each in role["limits"]}
    assert limits["live_leases"] == 3
    gone = {each["name"] for each in reply.json["proposals"] if each["edit"] == "remove_secret"}
    assert gone == {"deed", "letter", "absent", "elsewhere"}
    assert any("payroll" in note for note in role["notes"])

    def offline() -> list[tuple[str, Any]]:
        policy = app.services.policy_control.current()
        usage = count_usage(app.file, reply.json["since"])
        advice = advise(policy, usage, until=reply.json["until"], role="workers", force=True)
        return [(each.edit.value, each.name) for each in advice.proposals]

    assert offline() == [(each["edit"], each["name"]) for each in reply.json["proposals"]]
