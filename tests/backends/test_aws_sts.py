"""Sessions of IAM roles, over real HTTP: whose they are, how long they last, and that they can be denied."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import operator
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from fnmatch import fnmatchcase

import boto3  # type: ignore[import-untyped]
import pytest

from broker.backends.aws_deny_policy import MAX_CHARACTERS, PERIOD
from broker.backends.aws_session import AwsAccount
from broker.backends.aws_sts import StsBackend
from broker.core.errors import BackendFailed, Code, Unavailable
from broker.core.lease import LeaseOrder, Taken
from broker.core.secret import Secret
from broker.ids import RandomIds
from tests.support.fakes import FakeClock
from tests.support.moto_aws import (
    ACCOUNT,
    REGION,
    Asked,
    AwsClient,
    Fault,
    Relay,
    always,
    client,
    once,
    own_token,
    query_error,
)

NAME = "reader"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/agents/{NAME}"
OWN_ROLE = f"arn:aws:iam::{ACCOUNT}:role/broker"
POLICY = "broker-revoked-aws-sts"
NOW = int(time.time())
ORDER = LeaseOrder(
    lease="lse_01K9ABCDEFGHJKMNPQRSTVWXYZ",
    secret="bucket",
    settings={"role_arn": ROLE},
    ttl=1200,
    ends_by=NOW + 7200,
    agent="agent:alpha",
    role="reader",
    task="task_01K9",
    task_ends=NOW + 7200,
    on_behalf_of="team:orders",
)
SESSION_POLICY = {
    "Version": "2012-10-17",
    "Statement": ({"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::orders/*"},),
}


def _order(lease: str = ORDER.lease, **settings: object) -> LeaseOrder:
    return replace(ORDER, lease=lease, settings={**ORDER.settings, **settings})


@pytest.fixture
def clock() -> FakeClock:
    """A clock that starts at the time of moto and moves when it is told to."""
    return FakeClock(time.time())


def _account(aws: Relay, **settings: object) -> AwsAccount:
    return replace(AwsAccount(region=REGION, endpoint=aws.url, timeout_seconds=30.0), **settings)  # type: ignore[arg-type]


@pytest.fixture
async def backend(aws: Relay, clock: FakeClock) -> AsyncIterator[StsBackend]:
    """A backend on the relay."""
    made = StsBackend("aws-sts", _account(aws), clock=clock, own_token=own_token)
    yield made
    await made.close()


@pytest.fixture
def iam(aws: Relay, moto: str) -> Iterator[AwsClient]:
    """IAM itself, with the role."""
    with client("iam", moto) as made:
        made.create_role(RoleName=NAME, Path="/agents/", AssumeRolePolicyDocument="{}")
        yield made


async def _taken(backend: StsBackend, order: LeaseOrder = ORDER) -> Taken:
    return await backend.take(order, await backend.prepare(order))


def _data(taken: Taken) -> dict[str, str]:
    data = json.loads(taken.data.reveal())
    assert isinstance(data, dict)
    return data


def _document(iam: AwsClient, policy: str = POLICY) -> dict[str, list[dict[str, dict[str, dict[str, list[str]]]]]]:
    document = iam.get_role_policy(RoleName=NAME, PolicyName=policy)["PolicyDocument"]
    assert isinstance(document, dict)
    return document


def _is_denied(iam: AwsClient, *, lease: str | None = None, session: str = "somebody") -> bool:
    """Evaluate the role's inline policies as IAM does for a session with this tag and this name."""
    keys = {"aws:userid": f"AROAEXAMPLE:{session}", **({} if lease is None else {"aws:PrincipalTag/lease": lease})}
    operators: dict[str, Callable[[str, str], bool]] = {"StringEquals": operator.eq, "StringLike": fnmatchcase}
    return any(
        statement["Effect"] == "Deny"
        and statement["Action"] == statement["Resource"] == "*"
        and all(
            key in keys and any(operators[name](keys[key], value) for value in values)
            for name, conditions in statement["Condition"].items()
            for key, values in conditions.items()
        )
        for policy in iam.list_role_policies(RoleName=NAME)["PolicyNames"]
        for statement in iam.get_role_policy(RoleName=NAME, PolicyName=policy)["PolicyDocument"]["Statement"]
    )


def _parameters(asked: Asked, prefix: str) -> dict[str, str]:
    return {name: value for name, value in asked.parameters.items() if name.startswith(prefix)}


# --- taking ---------------------------------------------------------------------------------------------------------


async def test_a_session_says_whose_it_is(backend: StsBackend, iam: AwsClient, aws: Relay) -> None:
    """Its name is the lease, its source identity the agent; tags for policies stay with it; it has the least rights."""
    arn = "arn:aws:iam::aws:policy/ReadOnlyAccess"
    taken = await _taken(backend, _order(session_policy=SESSION_POLICY, policy_arns=(arn,)))
    (asked,) = aws.of("AssumeRole")
    assert asked.parameters["RoleArn"] == ROLE
    assert asked.parameters["RoleSessionName"] == ORDER.lease
    assert asked.parameters["SourceIdentity"] == "agent-alpha"
    assert asked.parameters["DurationSeconds"] == "1200"
    assert list(_parameters(asked, "Tags.").values()) == [
        *("agent", "agent:alpha"),
        *("task", "task_01K9"),
        *("lease", ORDER.lease),
    ]
    assert list(_parameters(asked, "TransitiveTagKeys.").values()) == ["agent", "task", "lease"]
    assert json.loads(asked.parameters["Policy"]) == json.loads(json.dumps(SESSION_POLICY))
    assert " " not in asked.parameters["Policy"]
    assert list(_parameters(asked, "PolicyArns.").values()) == [arn]
    assert (taken.renewable, taken.revocable) == (False, True)
    assert taken.lease_seconds in {1199, 1200}


async def test_the_credentials_work(backend: StsBackend, iam: AwsClient, moto: str) -> None:
    """AWS takes them for a session of the role with the name of the lease."""
    before = int(time.time())
    taken = await _taken(backend)
    after = time.time()
    data = _data(taken)
    made = boto3.Session(data["access_key_id"], data["secret_access_key"], data["session_token"], data["region"])
    sts = made.client("sts", endpoint_url=moto)
    assert sts.get_caller_identity()["Arn"].endswith(f":assumed-role/{NAME}/{ORDER.lease}")
    sts.close()
    assert set(data) == {"access_key_id", "secret_access_key", "session_token", "expiration", "region"}
    end = datetime.fromisoformat(data["expiration"]).timestamp()
    assert before + 1200 <= end <= after + 1200
    secret = {data["secret_access_key"], data["session_token"]}
    assert not any(word in f"{taken!r}{dict(taken.handle)}" for word in secret)


@pytest.mark.parametrize(("ttl", "seconds"), [(1, 900), (900, 900), (3601, 3601), (90_000, 43_200)])
async def test_how_long_a_session_lasts(
    backend: StsBackend, iam: AwsClient, aws: Relay, ttl: int, seconds: int
) -> None:
    """What was asked, within what AWS allows; the answer says how long it really is."""
    taken = await _taken(backend, replace(ORDER, ttl=ttl))
    assert aws.of("AssumeRole")[0].parameters["DurationSeconds"] == str(seconds)
    assert taken.lease_seconds in {seconds - 1, seconds}


async def test_a_broker_in_a_role_chains_for_an_hour(
    backend: StsBackend, iam: AwsClient, aws: Relay, moto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS allows no more to sessions that were begun by a session."""
    with client("sts", moto) as sts:
        own = sts.assume_role(RoleArn=OWN_ROLE, RoleSessionName="broker")["Credentials"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", own["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", own["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", own["SessionToken"])
    taken = await _taken(backend, replace(ORDER, ttl=7200))
    assert aws.of("AssumeRole")[0].parameters["DurationSeconds"] == "3600"
    assert taken.lease_seconds in {3599, 3600}


@pytest.mark.parametrize(
    ("agent", "identity", "tag"),
    [
        ("agent:alpha", "agent-alpha", "agent:alpha"),
        ("https://idp.example/a b", "https---idp.example-a-b", "https://idp.example/a b"),
        ("${aws:x}*?\n", "--aws-x----", "--aws:x----"),
        ("Ägent", "-gent", "Ägent"),
        ("x", "x-", "x"),
    ],
)
async def test_names_are_made_of_what_aws_allows(
    backend: StsBackend, iam: AwsClient, aws: Relay, agent: str, identity: str, tag: str
) -> None:
    """No variable of a policy and no wildcard gets through."""
    await _taken(backend, replace(ORDER, agent=agent))
    (asked,) = aws.of("AssumeRole")
    assert asked.parameters["SourceIdentity"] == identity
    assert asked.parameters["Tags.member.1.Value"] == tag


async def test_long_names_stay_apart(backend: StsBackend, iam: AwsClient, aws: Relay) -> None:
    """What has to be cut gets a digest, so that two do not become one."""
    for end in "ab":
        await _taken(backend, replace(ORDER, agent="agent:" + "x" * 300 + end))
    first, second = aws.of("AssumeRole")
    for name, most in (("SourceIdentity", 64), ("Tags.member.1.Value", 256)):
        assert len(first.parameters[name]) == len(second.parameters[name]) == most
        assert first.parameters[name] != second.parameters[name]


async def test_an_old_handle_is_not_used(backend: StsBackend, iam: AwsClient, aws: Relay, clock: FakeClock) -> None:
    """The handle says when the session has expired at the latest, so it may not be begun at any time."""
    handle = await backend.prepare(ORDER)
    clock.time += 301
    with pytest.raises(BackendFailed) as failed:
        await backend.take(ORDER, handle)
    assert (failed.value.code, failed.value.uncertain) == (Code.BACKEND_UNAVAILABLE, False)
    assert aws.of("AssumeRole") == []


async def test_sessions_are_not_renewed(backend: StsBackend, iam: AwsClient) -> None:
    """AWS has no such thing; a new lease is the way."""
    taken = await _taken(backend)
    with pytest.raises(BackendFailed) as refused:
        await backend.renew(taken.handle, 600)
    assert refused.value.code is Code.LEASE_NOT_RENEWABLE


async def test_no_credentials_are_logged(backend: StsBackend, iam: AwsClient, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the level of the root logger."""
    with caplog.at_level(logging.DEBUG):
        data = _data(await _taken(backend))
    assert data["secret_access_key"] not in caplog.text
    assert data["session_token"] not in caplog.text


# --- revoking -------------------------------------------------------------------------------------------------------


async def test_a_revoked_session_is_denied_and_no_other(backend: StsBackend, iam: AwsClient, aws: Relay) -> None:
    """A policy of the role takes everything from the session with the tag of the lease; twice is as good as once."""
    taken = await _taken(backend)
    await _taken(backend, _order("lse_other"))
    assert not _is_denied(iam, lease=ORDER.lease)
    ended = await backend.revoke(taken.handle)
    assert ended.revoked
    assert "few minutes" in (ended.note or "")
    assert _is_denied(iam, lease=ORDER.lease)
    assert not _is_denied(iam, lease="lse_other")
    assert not _is_denied(iam)
    assert (await backend.revoke(taken.handle)).revoked
    assert len(aws.of("PutRolePolicy")) == 1


async def test_a_lost_session_is_denied_by_what_was_prepared(backend: StsBackend, iam: AwsClient, aws: Relay) -> None:
    """Without its answer, before it was made as well: there is no time in the condition that it could slip past."""
    handle = await backend.prepare(ORDER)
    aws.fault = once(Fault(after=True), "AssumeRole")
    with pytest.raises(BackendFailed) as failed:
        await backend.take(ORDER, handle)
    assert (failed.value.code, failed.value.uncertain) == (Code.BACKEND_UNAVAILABLE, True)
    assert (await backend.revoke(handle)).revoked
    assert _is_denied(iam, lease=ORDER.lease)
    assert "TokenIssueTime" not in json.dumps(_document(iam))


async def test_two_hundred_at_once(backend: StsBackend, iam: AwsClient, aws: Relay) -> None:
    """They share few writes and one policy within its limit, and none is lost."""
    ids = RandomIds()
    leases = [ids.new("lse") for _ in range(200)]
    handles = [await backend.prepare(_order(lease)) for lease in leases]
    ends = await asyncio.gather(*map(backend.revoke, handles))
    assert all(ended.revoked for ended in ends)
    assert all(_is_denied(iam, lease=lease) for lease in leases[::20])
    text = json.dumps(_document(iam), separators=(",", ":"))
    assert all(lease in text for lease in leases)
    assert len(text) <= MAX_CHARACTERS
    assert len(aws.of("PutRolePolicy")) < 20


async def test_a_full_policy_has_room_again(backend: StsBackend, iam: AwsClient, aws: Relay, clock: FakeClock) -> None:
    """What does not fit is refused, with the time when it will; then what has expired is dropped."""
    ids = RandomIds()
    handles = [await backend.prepare(_order(ids.new("lse"))) for _ in range(320)]
    ends = await asyncio.gather(*map(backend.revoke, handles), return_exceptions=True)
    full = [error for error in ends if isinstance(error, BackendFailed)]
    assert 1 < len(full) < 50
    assert {(error.code, error.uncertain) for error in full} == {(Code.BACKEND_REFUSED, False)}
    assert "no room" in full[0].public
    room_at = math.ceil(int(handles[0]["until"]) / PERIOD) * PERIOD
    assert full[0].retry_after is not None
    assert 0 < clock.time + full[0].retry_after - room_at <= 1
    assert max(len(asked.parameters["PolicyDocument"]) for asked in aws.of("PutRolePolicy")) <= MAX_CHARACTERS
    clock.time += full[0].retry_after
    late = await backend.prepare(_order("lse_late"))
    assert (await backend.revoke(late)).revoked
    assert _is_denied(iam, lease="lse_late")
    assert len(json.dumps(_document(iam))) < 500


async def test_a_later_process_keeps_what_is_denied(
    backend: StsBackend, iam: AwsClient, aws: Relay, clock: FakeClock
) -> None:
    """It knows from the policy itself when each session may be dropped."""
    first = await backend.prepare(ORDER)
    await backend.revoke(first)
    later = StsBackend("aws-sts", _account(aws), clock=clock, own_token=own_token)
    await later.revoke(await later.prepare(replace(_order("lse_2"), ttl=43_200)))
    assert _is_denied(iam, lease=ORDER.lease)
    clock.time = math.ceil(int(first["until"]) / PERIOD) * PERIOD + 1
    await later.revoke(await later.prepare(replace(_order("lse_3"), ttl=43_200)))
    await later.close()
    assert not _is_denied(iam, lease=ORDER.lease)
    assert _is_denied(iam, lease="lse_2")
    assert _is_denied(iam, lease="lse_3")


async def test_an_expired_session_needs_no_policy(
    backend: StsBackend, iam: AwsClient, aws: Relay, clock: FakeClock
) -> None:
    """Nothing is asked of AWS; one that is about to expire is waited for."""
    taken = await _taken(backend)
    asked = len(aws.asked)
    until = int(taken.handle["until"])
    assert clock.time + 1200 <= until <= time.time() + 1201
    clock.time = until - 0.5
    started = time.monotonic()
    ended = await backend.revoke(taken.handle)
    assert time.monotonic() - started >= 0.4
    assert (ended.revoked, ended.note) == (True, "the session has expired")
    clock.time = until + 1
    assert (await backend.revoke(taken.handle)).revoked
    assert len(aws.asked) == asked


async def test_what_iam_does_not_show_yet_is_not_called_revoked(
    backend: StsBackend, iam: AwsClient, aws: Relay
) -> None:
    """IAM is eventually consistent: only what was read back counts, and what it forgets for a while is not lost."""
    first, second = await backend.prepare(ORDER), await backend.prepare(_order("lse_2"))
    aws.fault = always(query_error("NoSuchEntity", 404), "GetRolePolicy")
    with pytest.raises(BackendFailed) as failed:
        await backend.revoke(first)
    assert (failed.value.code, failed.value.uncertain) == (Code.BACKEND_UNAVAILABLE, True)
    aws.fault = once(query_error("NoSuchEntity", 404), "GetRolePolicy")
    assert (await backend.revoke(second)).revoked
    assert _is_denied(iam, lease=ORDER.lease)
    assert _is_denied(iam, lease="lse_2")


async def test_a_policy_that_somebody_removed(backend: StsBackend, iam: AwsClient, aws: Relay) -> None:
    """It is written anew by the next revocation, with all that it denied."""
    handle = await backend.prepare(ORDER)
    await backend.revoke(handle)
    iam.delete_role_policy(RoleName=NAME, PolicyName=POLICY)
    assert (await backend.revoke(await backend.prepare(_order("lse_2")))).revoked
    assert _is_denied(iam, lease=ORDER.lease)


@pytest.mark.parametrize(
    "document",
    [
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}]},
        {
            "Version": "2012-10-17",
            "Statement": [{"Sid": "TagUntil1", "Effect": "Deny", "Action": "*", "Resource": "*"}],
        },
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "TagUntil9999999999",
                    "Effect": "Deny",
                    "Action": "s3:PutObject",
                    "Resource": "*",
                    "Condition": {"StringEquals": {"aws:PrincipalTag/lease": ["lse_1"]}},
                }
            ],
        },
    ],
)
async def test_a_policy_of_somebody_else_is_not_overwritten(
    backend: StsBackend, iam: AwsClient, document: Mapping[str, object]
) -> None:
    """Whoever changed it must see to it; a weaker one is not taken for ours."""
    iam.put_role_policy(RoleName=NAME, PolicyName=POLICY, PolicyDocument=json.dumps(document))
    with pytest.raises(BackendFailed) as refused:
        await backend.revoke(await backend.prepare(ORDER))
    assert refused.value.code is Code.BACKEND_REFUSED
    assert "changed by somebody" in refused.value.public
    assert _document(iam) == document


async def test_backends_do_not_share_a_policy(
    backend: StsBackend, iam: AwsClient, aws: Relay, clock: FakeClock
) -> None:
    """Two backends of one role write two policies, so that neither undoes what the other did."""
    other = StsBackend("aws-sts/eu", _account(aws), clock=clock, own_token=own_token)
    handles = [await backend.prepare(_order(f"lse_{n}")) for n in range(6)]
    await asyncio.gather(*((backend, other)[n % 2].revoke(handle) for n, handle in enumerate(handles)))
    await other.close()
    assert all(_is_denied(iam, lease=f"lse_{n}") for n in range(6))
    assert set(iam.list_role_policies(RoleName=NAME)["PolicyNames"]) == {POLICY, f"{POLICY}-eu"}


async def test_a_caller_that_goes_away_holds_up_nobody(
    backend: StsBackend, iam: AwsClient, aws: Relay, clock: FakeClock
) -> None:
    """Revocations go on, whoever of those who asked for them is cancelled."""
    aws.fault = lambda asked: Fault(500, seconds=0.3) if asked.action == "GetCallerIdentity" else None
    handles = [await backend.prepare(_order(f"lse_{n}")) for n in range(8)]
    first = [asyncio.ensure_future(backend.revoke(handle)) for handle in handles[:4]]
    await asyncio.sleep(0.1)
    for task in first:
        task.cancel()
    aws.fault = lambda _: None
    ends = await asyncio.gather(*map(backend.revoke, handles), return_exceptions=True)
    for handle, ended in zip(handles, ends, strict=True):
        assert not isinstance(ended, BaseException) or (await backend.revoke(handle)).revoked
    assert all(_is_denied(iam, lease=f"lse_{n}") for n in range(8))


async def test_a_role_of_another_account_only_expires(backend: StsBackend, iam: AwsClient, aws: Relay) -> None:
    """IAM is told only the name of a role: one of the same name in the broker's own account is left alone."""
    order = _order(role_arn=f"arn:aws:iam::999999999999:role/{NAME}")
    taken = await _taken(backend, order)
    assert not taken.revocable
    ended = await backend.revoke(taken.handle)
    assert (ended.revoked, ended.expires_at) == (False, int(taken.handle["until"]))
    assert aws.of("PutRolePolicy") == []


@pytest.mark.parametrize("handle", [{}, {"match": "Tag"}, {"secret_id": "x"}, {"match": "Nobody", "until": "1"}])
async def test_handles_of_others_are_refused(backend: StsBackend, handle: dict[str, str]) -> None:
    """A handle that this backend did not make ends nothing and says so."""
    for call in (backend.revoke(handle), backend.renew(handle, 1), backend.take(ORDER, handle)):
        with pytest.raises(BackendFailed) as refused:
            await call
        assert refused.value.code is Code.BACKEND_REFUSED


# --- who the broker is ----------------------------------------------------------------------------------------------


async def test_a_web_identity_session_is_denied_by_its_name(backend: StsBackend, iam: AwsClient, aws: Relay) -> None:
    """It is begun with the broker's identity token, and has no tags but those of the token."""
    taken = await _taken(backend, _order(web_identity=True, session_policy=SESSION_POLICY))
    (asked,) = aws.of("AssumeRoleWithWebIdentity")
    assert asked.parameters["WebIdentityToken"] == "jwt-of-the-broker-for-sts.amazonaws.com"
    assert asked.parameters["RoleSessionName"] == ORDER.lease
    assert "Policy" in asked.parameters
    assert asked.access_key == "", "it is not signed"
    assert not _parameters(asked, "Tags")
    assert (await backend.revoke(taken.handle)).revoked
    assert _is_denied(iam, session=ORDER.lease)
    assert not _is_denied(iam, session=f"{ORDER.lease}x")
    assert not _is_denied(iam, session=f"x{ORDER.lease}")


async def test_without_credentials_web_identity_sessions_only_expire(
    backend: StsBackend, iam: AwsClient, aws: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could write a policy, and that is said before the secret is handed out."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    taken = await _taken(backend, _order(web_identity=True))
    assert not taken.revocable
    ended = await backend.revoke(taken.handle)
    assert (ended.revoked, ended.expires_at) == (False, int(taken.handle["until"]))
    with pytest.raises(BackendFailed) as refused:
        await _taken(backend)
    assert "no AWS credentials" in refused.value.public


async def test_the_broker_assumes_its_own_role(iam: AwsClient, aws: Relay, clock: FakeClock) -> None:
    """Once for all who need it, again before it expires, and again if AWS takes its credentials no more."""
    backend = StsBackend("aws-sts", _account(aws, web_identity_role=OWN_ROLE), clock=clock, own_token=own_token)
    takes = await asyncio.gather(*(_taken(backend, _order(f"lse_{n}")) for n in range(5)))
    await asyncio.gather(*(backend.revoke(taken.handle) for taken in takes))
    (own,) = aws.of("AssumeRoleWithWebIdentity")
    assert own.parameters["RoleArn"] == OWN_ROLE
    assert own.access_key == ""
    signed = [asked for asked in aws.asked if asked is not own]
    assert {asked.access_key[:4] for asked in signed} == {"ASIA"}
    assert aws.of("AssumeRole")[0].parameters["DurationSeconds"] == "1200"
    clock.time += 3600 - 300
    await _taken(backend, _order("lse_8"))
    clock.time -= 3600 - 300
    renewed = len(aws.of("AssumeRoleWithWebIdentity"))
    assert renewed > 1
    assert aws.asked[-1].access_key != signed[-1].access_key
    aws.fault = once(query_error("ExpiredToken", 403), "AssumeRole")
    await _taken(backend, _order("lse_9"))
    assert len(aws.of("AssumeRoleWithWebIdentity")) == renewed + 1
    await backend.close()


async def test_a_broker_that_cannot_say_who_it_is(iam: AwsClient, aws: Relay, clock: FakeClock) -> None:
    """Without an identity token nothing is asked; whatever its signer says stays inside."""

    async def fails(audience: str) -> Secret:
        raise Unavailable(Code.LEDGER_UNAVAILABLE, "hush-hush")

    for settings, web_identity in (({"web_identity_role": OWN_ROLE}, False), ({}, True)):
        backend = StsBackend("aws-sts", _account(aws, **settings), clock=clock, own_token=fails)
        with pytest.raises(BackendFailed) as failed:
            await _taken(backend, _order(web_identity=web_identity))
        await backend.close()
        assert (failed.value.code, failed.value.uncertain) == (Code.BACKEND_UNAVAILABLE, False)
        assert "hush" not in failed.value.public
    assert aws.asked == []


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code", "uncertain", "word"),
    [
        (query_error("Throttling"), Code.BACKEND_UNAVAILABLE, False, "throttles"),
        (query_error("InternalFailure", 500), Code.BACKEND_UNAVAILABLE, True, "InternalFailure"),
        (Fault(503, b"hush-hush"), Code.BACKEND_UNAVAILABLE, True, "cannot be read"),
        (Fault(502, b"<html>hush-hush</html>"), Code.BACKEND_UNAVAILABLE, True, "502"),
        (Fault(after=True), Code.BACKEND_UNAVAILABLE, True, "connection broke"),
        (Fault(200, b"<x/>", seconds=4.5), Code.BACKEND_UNAVAILABLE, True, "in time"),
        (query_error("AccessDenied", 403), Code.BACKEND_REFUSED, False, "not allowed"),
        (query_error("MalformedPolicyDocument"), Code.BACKEND_REFUSED, False, "MalformedPolicyDocument"),
        (query_error("ValidationError"), Code.BACKEND_REFUSED, False, "ValidationError"),
        (query_error("RegionDisabledException", 403), Code.BACKEND_REFUSED, False, "RegionDisabled"),
        (Fault(200, b"<SecretAccessKey>hush-hush"), Code.BACKEND_UNAVAILABLE, True, "cannot be read"),
        (Fault(200, b"<R><Credentials>hush-hush</Credentials></R>"), Code.BACKEND_REFUSED, True, "answer"),
        (Fault(200, b"<AssumeRoleResponse/>"), Code.BACKEND_REFUSED, True, "answer"),
    ],
)
async def test_failures_to_take_are_told_apart(
    iam: AwsClient, aws: Relay, clock: FakeClock, fault: Fault, code: Code, uncertain: bool, word: str
) -> None:
    """Each request is made once. Whether there may be a session is said, and nothing of AWS's words is kept."""
    aws.fault = always(fault, "AssumeRole")
    backend = StsBackend("aws-sts", _account(aws, timeout_seconds=3.0), clock=clock, own_token=own_token)
    with pytest.raises(BackendFailed) as failed:
        await _taken(backend)
    await backend.close()
    assert (failed.value.code, failed.value.uncertain) == (code, uncertain)
    assert word in failed.value.public
    assert len(aws.of("AssumeRole")) == 1
    error: BaseException | None = failed.value
    while error is not None:
        assert "hush" not in f"{error!r}{error}{getattr(error, 'public', '')}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    ("fault", "action", "code", "word"),
    [
        (query_error("AccessDenied", 403), "PutRolePolicy", Code.BACKEND_REFUSED, f"iam:PutRolePolicy on {ROLE}"),
        (query_error("AccessDenied", 403), "GetRolePolicy", Code.BACKEND_REFUSED, f"iam:GetRolePolicy on {ROLE}"),
        (query_error("LimitExceeded", 409), "PutRolePolicy", Code.BACKEND_REFUSED, "no room"),
        (query_error("NoSuchEntity", 404), "PutRolePolicy", Code.BACKEND_REFUSED, "NoSuchEntity"),
        (query_error("Throttling"), "PutRolePolicy", Code.BACKEND_UNAVAILABLE, "throttles"),
        (query_error("ServiceFailure", 500), "PutRolePolicy", Code.BACKEND_UNAVAILABLE, "ServiceFailure"),
        (Fault(), "GetCallerIdentity", Code.BACKEND_UNAVAILABLE, "connection broke"),
    ],
)
async def test_failures_to_revoke_are_told_apart(
    backend: StsBackend, iam: AwsClient, aws: Relay, fault: Fault, action: str, code: Code, word: str
) -> None:
    """It is never called revoked, the missing permission is named, and it works once that is put right."""
    handle = await backend.prepare(ORDER)
    aws.fault = always(fault, action)
    with pytest.raises(BackendFailed) as failed:
        await backend.revoke(handle)
    assert failed.value.code is code
    assert word in failed.value.public
    assert "hush" not in failed.value.public
    assert not _is_denied(iam, lease=ORDER.lease)
    aws.fault = lambda _: None
    assert (await backend.revoke(handle)).revoked
    assert _is_denied(iam, lease=ORDER.lease)
