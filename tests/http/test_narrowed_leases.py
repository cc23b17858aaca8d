"""A policy that becomes narrower meets live leases: what it takes away is revoked by the reload, the rest lives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.core.lease import LeaseStatus
from tests.support.broker_app import BrokerApp, Template, make_template, running_app
from tests.support.leases import LEASING, POLICY, leasing_token, reaping, settled, state_of, take
from tests.support.scripted_backend import ScriptedBackend
from tests.support.team import delegated

REVOKING = POLICY.replace("version: 1", "version: 1\non_narrowing: revoke")
APPROVAL = "approval: {approvers: deciders, quorum: 1, expires: 5m}"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with secrets to lease."""
    return make_template(tmp_path_factory.mktemp("narrowed") / "broker", REVOKING, LEASING)


@pytest.fixture
def backend() -> ScriptedBackend:
    """A backend that does as it is told."""
    return ScriptedBackend()


@pytest.fixture
async def app(template: Template, tmp_path: Path, backend: ScriptedBackend) -> AsyncIterator[BrokerApp]:
    """Run it, with its reaper."""
    async with (
        running_app(template, tmp_path / "broker", own_backends={"local": backend}) as running,
        reaping(running),
    ):
        yield running


async def reload(app: BrokerApp, text: str, *, preview: bool = False) -> list[dict[str, Any]]:
    """Put another policy in force, or preview that; return what it narrows."""
    assert text != app.broker.config.policy.read_text()
    app.broker.config.policy.write_text(text)
    token = await app.operator("policy:write")
    reply = await app.call("POST", "/v1/policy/reload", token=token, json={"preview": preview})
    assert reply.status == 200, reply.body
    found: list[dict[str, Any]] = reply.json["narrowing"]
    return found


async def lease_of(app: BrokerApp, token: str, secret: str = "db") -> str:
    """Take a lease and return its id."""
    reply = await take(app, token, secret)
    assert reply.status == 201, reply.body
    return str(reply.json["lease_id"])


async def test_leases_of_a_secret_that_is_dropped_end(app: BrokerApp, backend: ScriptedBackend) -> None:
    """Those of this role and this secret, and no others; the preview counted them."""
    alpha, quiet = await leasing_token(app), await leasing_token(app, "quiet")
    dropped = [await lease_of(app, alpha) for _ in range(2)]
    kept = await lease_of(app, quiet)
    narrower = REVOKING.replace(
        "    allow:\n      - {secret: db}\n      - {secret: deed}", "    allow:\n      - {secret: deed}"
    )
    [previewed] = await reload(app, narrower, preview=True)
    assert previewed["selector"] == {"role": "workers", "secret": "db"}
    assert previewed["hits"]["leases"] == {"revocable": 2, "expires_only": 0, "latest_expiry": None}
    assert len(backend.alive) == 3

    token = await app.operator("policy:write")
    done = (await app.call("POST", "/v1/policy/reload", token=token)).json
    [effect] = done["narrowing"]
    assert effect["hits"]["leases"]["revocable"] == 2
    for lease in dropped:
        state = await settled(app, lease)
        assert (state.status, state.because, state.rule) == (LeaseStatus.REVOKED, "revoked", effect["rule"])
    assert list(backend.alive) == [kept]
    assert (await state_of(app, kept)).status is LeaseStatus.LIVE
    shown = await app.call("GET", f"/v1/revocations/{effect['rule']}", token=await app.operator("operator:read"))
    assert shown.json["leases"]["revoked"] == 2
    refused = await take(app, alpha)
    assert (refused.status, refused.json["code"]) == (403, "secret_not_allowed")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (
            "      - {secret: db}\n      - {secret: deed}",
            f"      - {{secret: db, {APPROVAL}}}\n      - {{secret: deed}}",
            "approval",
        ),
        ("db: {backend: local, tier: read", "db: {backend: local, tier: proven", "bound to a key"),
        ("db: {backend: local, tier: read", "db: {backend: local, tier: sealed", "encrypted"),
        ("tier: read, generate: 32}\n  deed", "tier: read, generate: 33}\n  deed", "another one"),
        (
            "      - {secret: db}\n      - {secret: deed}",
            "      - {secret: db, max_ttl: 1m}\n      - {secret: deed}",
            "1m",
        ),
    ],
    ids=["approval", "proof", "encryption", "another secret", "life"],
)
async def test_leases_on_easier_terms_end(app: BrokerApp, before: str, after: str, words: str) -> None:
    """Whoever may still have it asks again, on the new terms."""
    lease = await lease_of(app, await leasing_token(app))
    effects = await reload(app, REVOKING.replace(before, after))
    told = [reason for effect in effects for reason in effect["reasons"]]
    assert any(words in reason for reason in told), told
    assert (await settled(app, lease)).status is LeaseStatus.REVOKED


async def test_a_lease_ends_with_the_role_that_it_was_delegated_from(app: BrokerApp) -> None:
    """A lease of a delegate has the facts of the whole line."""
    token = await delegated(app, "quiet", await leasing_token(app))
    lease = await lease_of(app, token)
    gone = REVOKING.replace("    may_delegate_to: [quiets]\n", "")
    await reload(app, gone)
    assert (await settled(app, lease)).status is LeaseStatus.REVOKED


async def test_leases_are_kept_if_the_policy_says_so(app: BrokerApp, backend: ScriptedBackend) -> None:
    """They live on, but are not renewed past what the new policy allows."""
    token = await leasing_token(app)
    lease = await lease_of(app, token)
    kept = POLICY.replace(
        "    allow:\n      - {secret: db}\n      - {secret: deed}", "    allow:\n      - {secret: deed}"
    )
    [effect] = await reload(app, kept.replace("version: 1", "version: 1\non_narrowing: keep"))
    assert (effect["rule"], effect["hits"]["leases"]["revocable"]) == (None, 1)
    assert lease in backend.alive
    renewed = await app.call("POST", f"/v1/leases/{lease}/renew", token=token, json={})
    assert (renewed.status, renewed.json["code"]) == (403, "secret_not_allowed")
