"""Secrets of AWS Secrets Manager, over real HTTP: given as stored, rotated once at the end, failures told apart."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from broker.backends.aws_secrets_manager import SecretsManagerBackend
from broker.backends.aws_session import AwsAccount
from broker.core.errors import BackendFailed, Code
from broker.core.lease import LeaseOrder
from tests.support import hostile_server
from tests.support.fakes import FakeClock
from tests.support.hostile_server import Answer, HostileServer
from tests.support.moto_aws import REGION, AwsClient, Fault, Relay, always, client, json_error, once, own_token

NAME = "prod/stripe"
VALUE = "sk_live_hush"
STORED = json.dumps({"api_key": VALUE, "account": "acct_1"})
NOW = int(time.time())
ORDER = LeaseOrder(
    lease="lse_1",
    secret="stripe",
    settings={"secret_id": NAME, "on_revoke": "rotate"},
    ttl=600,
    ends_by=NOW + 3600,
    agent="agent:alpha",
    role="reader",
    task="task_1",
    task_ends=NOW + 7200,
    on_behalf_of="team:orders",
)


def _order(**settings: object) -> LeaseOrder:
    return replace(ORDER, settings={**ORDER.settings, **settings})


def _backend(url: str, *, seconds: float = 30.0) -> SecretsManagerBackend:
    account = AwsAccount(region=REGION, endpoint=url, timeout_seconds=seconds)
    return SecretsManagerBackend("aws-secrets-manager", account, clock=FakeClock(NOW), own_token=own_token)


@pytest.fixture
async def backend(aws: Relay) -> AsyncIterator[SecretsManagerBackend]:
    """A backend on the relay."""
    made = _backend(aws.url)
    yield made
    await made.close()


@pytest.fixture
def manager(aws: Relay, moto: str) -> Iterator[AwsClient]:
    """Secrets Manager itself."""
    with client("secretsmanager", moto) as made:
        yield made


def _rotating(manager: AwsClient) -> None:
    """Store a secret that has rotation."""
    manager.create_secret(Name=NAME, SecretString="first")
    manager.rotate_secret(SecretId=NAME, RotationRules={"AutomaticallyAfterDays": 30})
    manager.put_secret_value(SecretId=NAME, SecretString=STORED)


async def _taken(backend: SecretsManagerBackend, order: LeaseOrder = ORDER) -> tuple[object, dict[str, str]]:
    taken = await backend.take(order, await backend.prepare(order))
    return json.loads(taken.data.reveal()), dict(taken.handle)


# --- taking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "settings", "expected"),
    [
        ({"SecretString": STORED}, {}, {"api_key": VALUE, "account": "acct_1"}),
        ({"SecretString": STORED}, {"key": "api_key"}, {"api_key": VALUE}),
        ({"SecretString": '{"port": 5432}'}, {"key": "port"}, {"port": 5432}),
        ({"SecretString": VALUE}, {}, {"value": VALUE}),
        ({"SecretString": '["a"]'}, {}, {"value": '["a"]'}),
        ({"SecretString": '{"a": 1, "a": 2}'}, {}, {"value": '{"a": 1, "a": 2}'}),
        ({"SecretBinary": b"\x00\xff"}, {}, {"value_base64": "AP8="}),
    ],
)
async def test_a_value_is_given_as_it_is_stored(
    backend: SecretsManagerBackend,
    manager: AwsClient,
    stored: dict[str, Any],
    settings: dict[str, str],
    expected: object,
) -> None:
    """A JSON object as such or one member of it, other text under ``value``, bytes in base64; it cannot be revoked."""
    manager.create_secret(Name=NAME, **stored)
    order = _order(**settings)
    taken = await backend.take(order, await backend.prepare(order))
    assert json.loads(taken.data.reveal()) == expected
    assert (taken.lease_seconds, taken.renewable, taken.revocable) == (None, True, False)
    assert VALUE not in repr(taken)


async def test_the_version_with_the_label_of_the_policy(backend: SecretsManagerBackend, manager: AwsClient) -> None:
    """The current version, unless the policy names another label."""
    manager.create_secret(Name=NAME, SecretString="old")
    manager.put_secret_value(SecretId=NAME, SecretString="new")
    assert (await _taken(backend))[0] == {"value": "new"}
    assert (await _taken(backend, _order(version_stage="AWSPREVIOUS")))[0] == {"value": "old"}


@pytest.mark.parametrize(
    ("stored", "settings"),
    [
        (STORED, {"key": "password"}),
        (VALUE, {"key": "api_key"}),
        (STORED, {"secret_id": "prod/other"}),
        (STORED, {"version_stage": "nowhere"}),
        (STORED, {"region": "us-east-1"}),
        (STORED, {"region": "us east"}),
        (STORED, {"secret_id": ""}),
        (STORED, {"secret_id": 7}),
    ],
)
async def test_what_cannot_be_given_is_refused(
    backend: SecretsManagerBackend, manager: AwsClient, stored: str, settings: dict[str, object]
) -> None:
    """Somebody must change something; no value is in the text, and nothing was made."""
    manager.create_secret(Name=NAME, SecretString=stored)
    with pytest.raises(BackendFailed) as refused:
        await _taken(backend, _order(**settings))
    assert (refused.value.code, refused.value.uncertain) == (Code.BACKEND_REFUSED, False)
    assert VALUE not in f"{refused.value.public}{refused.value!r}"


async def test_no_secret_is_logged(
    backend: SecretsManagerBackend, manager: AwsClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Boto logs whole answers at DEBUG; here it does not, whatever the level of the root."""
    manager.create_secret(Name=NAME, SecretString=STORED)
    with caplog.at_level(logging.DEBUG):
        await _taken(backend)
    assert VALUE not in caplog.text


# --- renewing -------------------------------------------------------------------------------------------------------


async def test_a_lease_goes_on_while_the_secret_is_there(backend: SecretsManagerBackend, manager: AwsClient) -> None:
    """Renewing looks whether it is; one that is being deleted is gone."""
    manager.create_secret(Name=NAME, SecretString=STORED)
    _, handle = await _taken(backend)
    assert await backend.renew(handle, 300) == 300
    manager.delete_secret(SecretId=NAME)
    with pytest.raises(BackendFailed) as ended:
        await backend.renew(handle, 300)
    assert ended.value.code is Code.LEASE_ENDED
    manager.delete_secret(SecretId=NAME, ForceDeleteWithoutRecovery=True)
    with pytest.raises(BackendFailed) as ended:
        await backend.renew(handle, 300)
    assert ended.value.code is Code.LEASE_ENDED


# --- the end --------------------------------------------------------------------------------------------------------


async def test_rotation_is_asked_for_once(backend: SecretsManagerBackend, manager: AwsClient, aws: Relay) -> None:
    """Several leases of one value, revoked at the same time and once more, make one new version of it."""
    _rotating(manager)
    handles = [(await _taken(backend, replace(ORDER, lease=f"lse_{n}")))[1] for n in range(4)]
    before = manager.list_secret_version_ids(SecretId=NAME, IncludeDeprecated=True)["Versions"]
    ends = await asyncio.gather(*map(backend.revoke, handles))
    assert {(ended.revoked, ended.expires_at) for ended in ends} == {(False, None)}
    assert any("rotation requested" in (ended.note or "") for ended in ends)
    tokens = {asked.parameters["ClientRequestToken"] for asked in aws.of("RotateSecret")}
    assert len(tokens) == 1
    after = manager.list_secret_version_ids(SecretId=NAME, IncludeDeprecated=True)["Versions"]
    assert {each["VersionId"] for each in after} - {each["VersionId"] for each in before} == tokens
    asked = len(aws.of("RotateSecret"))
    again = await backend.revoke(handles[0])
    assert not again.revoked
    assert f"superseded by version {tokens.pop()}" in (again.note or "")
    assert len(aws.of("RotateSecret")) == asked


async def test_a_lost_answer_asks_for_the_same_rotation(
    backend: SecretsManagerBackend, manager: AwsClient, aws: Relay
) -> None:
    """Whether it was begun is uncertain; asking again cannot begin a second one."""
    _rotating(manager)
    _, handle = await _taken(backend)
    aws.fault = once(Fault(), "RotateSecret")
    with pytest.raises(BackendFailed) as failed:
        await backend.revoke(handle)
    assert (failed.value.code, failed.value.uncertain) == (Code.BACKEND_UNAVAILABLE, True)
    assert "rotation requested" in ((await backend.revoke(handle)).note or "")
    first, second = aws.of("RotateSecret")
    assert first.parameters == second.parameters


async def test_a_rotation_that_is_under_way(backend: SecretsManagerBackend, manager: AwsClient, aws: Relay) -> None:
    """Its own is not asked for again; somebody else's is waited for."""
    _rotating(manager)
    _, handle = await _taken(backend)
    aws.fault = always(json_error("InternalServiceError", 500), "RotateSecret")
    with pytest.raises(BackendFailed):
        await backend.revoke(handle)
    token = aws.of("RotateSecret")[0].parameters["ClientRequestToken"]
    pending = manager.put_secret_value(SecretId=NAME, SecretString="x", VersionStages=["AWSPENDING"])
    with pytest.raises(BackendFailed) as refused:
        await backend.revoke(handle)
    assert (refused.value.code, refused.value.retry_after) == (Code.BACKEND_REFUSED, 60)
    assert pending["VersionId"] != token
    manager.put_secret_value(SecretId=NAME, SecretString="x", VersionStages=["AWSPENDING"], ClientRequestToken=token)
    assert "rotation requested" in ((await backend.revoke(handle)).note or "")
    assert len(aws.of("RotateSecret")) == 1


async def test_a_secret_without_rotation(backend: SecretsManagerBackend, manager: AwsClient, aws: Relay) -> None:
    """An operator must see that the policy wants what AWS does not do; asking would switch rotation on."""
    manager.create_secret(Name=NAME, SecretString=STORED)
    _, handle = await _taken(backend)
    with pytest.raises(BackendFailed) as refused:
        await backend.revoke(handle)
    assert refused.value.code is Code.BACKEND_REFUSED
    assert "no rotation" in refused.value.public
    assert aws.of("RotateSecret") == []


async def test_ends_that_rotate_nothing(backend: SecretsManagerBackend, manager: AwsClient, aws: Relay) -> None:
    """The policy may want none; a value that was never handed out needs none; a secret may be gone."""
    manager.create_secret(Name=NAME, SecretString=STORED)
    _, left = await _taken(backend, _order(on_revoke="leave"))
    _, wanted = await _taken(backend)
    ends = [await backend.revoke(left), await backend.revoke(await backend.prepare(ORDER))]
    manager.delete_secret(SecretId=NAME)
    ends.append(await backend.revoke(wanted))
    assert [ended.revoked for ended in ends] == [False] * 3
    notes = [ended.note or "" for ended in ends]
    assert "stays good" in notes[0]
    assert "never handed out" in notes[1]
    assert "no longer in Secrets Manager" in notes[2]
    assert aws.of("RotateSecret") == []


@pytest.mark.parametrize("handle", [{}, {"secret_id": NAME}, {"kind": "stored", "name": "x"}])
async def test_handles_of_others_are_refused(backend: SecretsManagerBackend, handle: dict[str, str]) -> None:
    """A handle that this backend did not make ends nothing and says so."""
    for call in (backend.revoke(handle), backend.renew(handle, 1), backend.take(ORDER, handle)):
        with pytest.raises(BackendFailed) as refused:
            await call
        assert refused.value.code is Code.BACKEND_REFUSED


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code", "word"),
    [
        (json_error("ThrottlingException"), Code.BACKEND_UNAVAILABLE, "throttles"),
        (json_error("InternalServiceError", 500), Code.BACKEND_UNAVAILABLE, "InternalServiceError"),
        (Fault(503, b"<html>hush-hush</html>"), Code.BACKEND_UNAVAILABLE, "503"),
        (Fault(), Code.BACKEND_UNAVAILABLE, "connection broke"),
        (Fault(200, b"{}", seconds=4.5), Code.BACKEND_UNAVAILABLE, "in time"),
        (json_error("AccessDeniedException"), Code.BACKEND_REFUSED, "not allowed"),
        (json_error("DecryptionFailure"), Code.BACKEND_REFUSED, "DecryptionFailure"),
        (json_error("hush-hush <script>"), Code.BACKEND_REFUSED, "refused"),
        (json_error("ExpiredTokenException"), Code.BACKEND_REFUSED, "own credentials"),
        (Fault(200, b'{"SecretString": "hush-hush"'), Code.BACKEND_REFUSED, "no version"),
        (Fault(200, b'{"SecretString": "hush-hush"}'), Code.BACKEND_REFUSED, "no version"),
        (Fault(200, b'{"SecretString": 7, "VersionId": "hush-hush"}'), Code.BACKEND_REFUSED, "no value"),
        (Fault(302, b"hush-hush"), Code.BACKEND_REFUSED, "302"),
    ],
)
async def test_failures_are_told_apart(aws: Relay, manager: AwsClient, fault: Fault, code: Code, word: str) -> None:
    """What may work later, and what somebody must change, named by action and secret and never in AWS's words."""
    manager.create_secret(Name=NAME, SecretString=STORED)
    aws.fault = always(fault, "GetSecretValue")
    backend = _backend(aws.url, seconds=3.0)
    try:
        with pytest.raises(BackendFailed) as failed:
            await _taken(backend)
    finally:
        await backend.close()
    assert failed.value.code is code
    assert not failed.value.uncertain, "reading makes nothing"
    assert word in failed.value.public
    error: BaseException | None = failed.value
    while error is not None:
        assert "hush" not in f"{error!r}{error}{getattr(error, 'public', '')}"
        error = error.__cause__ or error.__context__


async def test_credentials_that_expired_are_looked_up_again(
    backend: SecretsManagerBackend, manager: AwsClient, aws: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: with what the machine has by then. The request is repeated with it."""
    manager.create_secret(Name=NAME, SecretString=STORED)
    await _taken(backend)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing2")
    aws.fault = lambda asked: json_error("ExpiredTokenException") if asked.access_key == "testing" else None
    results = await asyncio.gather(*(_taken(backend) for _ in range(5)))
    assert len(results) == 5
    assert aws.asked[-1].access_key == "testing2"
    asked = len(aws.asked)
    aws.fault = always(json_error("ExpiredTokenException"), "GetSecretValue")
    with pytest.raises(BackendFailed):
        await _taken(backend)
    assert len(aws.asked) == asked + 2


async def test_without_credentials(backend: SecretsManagerBackend, aws: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent, and the text says why."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(BackendFailed) as refused:
        await _taken(backend)
    assert refused.value.code is Code.BACKEND_REFUSED
    assert "no AWS credentials" in refused.value.public
    assert aws.asked == []


async def test_aws_is_down(aws: Relay) -> None:
    """It cannot be reached; nothing was made."""
    backend = _backend("http://127.0.0.1:1")
    with pytest.raises(BackendFailed) as failed:
        await _taken(backend)
    await backend.close()
    assert (failed.value.code, failed.value.uncertain) == (Code.BACKEND_UNAVAILABLE, False)
    with pytest.raises(BackendFailed) as closed:
        await _taken(backend)
    assert closed.value.code is Code.BACKEND_UNAVAILABLE


@pytest.mark.parametrize(
    "answer",
    [
        hostile_server.never,
        hostile_server.hang_up,
        hostile_server.no_http,
        hostile_server.endless,
        hostile_server.dripping,
        hostile_server.fifty_megabytes,
        hostile_server.truncated,
        hostile_server.endless_head,
        hostile_server.compressed_bomb,
        hostile_server.redirecting("http://127.0.0.1:1/"),
    ],
    ids=lambda answer: getattr(answer, "__name__", "redirecting"),
)
async def test_a_hostile_endpoint(aws: Relay, answer: Answer) -> None:
    """However it answers, it is given up, without reading much of it."""
    async with HostileServer(answer) as server:
        backend = _backend(server.url.removesuffix("/keys"), seconds=2.0)
        with pytest.raises(BackendFailed) as failed:
            await _taken(backend)
        await backend.close()
        assert failed.value.code in {Code.BACKEND_UNAVAILABLE, Code.BACKEND_REFUSED}
        assert sum(exchange.sent for exchange in server.exchanges) < 16 * hostile_server.MEBIBYTE
        assert len(server.exchanges) == 1
