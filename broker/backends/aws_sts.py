"""Short-lived AWS credentials: one session of an IAM role for each lease, which says whose it is."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from broker.backends.aws_deny_policy import REQUESTS, Denied, DeniedSessions, Match
from broker.backends.aws_failures import NO_CREDENTIALS, AwsFailed, refused
from broker.backends.aws_session import AwsAccount, AwsSession, OwnToken
from broker.core.errors import BackendFailed, Code
from broker.core.lease import Ended, LeaseOrder, Taken
from broker.core.secret import Secret
from broker.ports import Clock

SHORTEST: Final = 900
LONGEST: Final = 43_200
LONGEST_CHAINED: Final = 3600
"""Seconds that a session lasts: at least, at most, and at most if the broker itself acts in a role (role chaining)."""

BEGIN_SECONDS: Final = 300
"""How long after ``prepare`` a session may be asked for: then the handle knows when it has expired."""

DRIFT_SECONDS: Final = 600
"""How long a request may be under way, and how far the clocks may be apart, together."""

NEARLY_SECONDS: Final = 5.0
"""A session that expires in so many seconds is waited for: a lease ends a moment before its session."""

_MAX_NAME: Final = 64
_MAX_TAG: Final = 256
_MIN_NAME: Final = 2
_NOT_NAME: Final = re.compile(r"[^A-Za-z0-9_+=,.@-]")
_NOT_TAG: Final = re.compile(r"[^\w .:/=+@-]")
_DIGITS: Final = 12

_DENIED: Final = "all its permissions are denied by a policy of the role, which AWS applies within a few minutes"
_EXPIRED: Final = "the session has expired"
_ONLY_EXPIRES: Final = "the broker's own credentials are not of the role's account, so its policies cannot be changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Handle:
    """Whose session it is (``role``), how it is known, and when it has expired (Unix seconds), at the latest."""

    role: str
    region: str
    match: Match
    value: str
    until: int

    def wire(self) -> dict[str, str]:
        return {
            "role": self.role,
            "region": self.region,
            "match": self.match.word,
            "value": self.value,
            "until": str(self.until),
        }


class StsBackend:
    """AWS STS (port ``Backend``): sessions of IAM roles, with tags, a source identity and a session policy.

    A session that has not expired is ended by denying everything to it in a policy of its role: see
    :class:`DeniedSessions`. That is reported as revoked once IAM shows the policy; AWS documents that it may take a few
    minutes until it is applied everywhere, and the note says so. What the session did before stays, such as a role that
    it assumed in turn; a role for agents should not be allowed ``sts:AssumeRole``. For a role in another account than
    the broker's own, sessions only expire.

    The role must trust the broker with ``sts:AssumeRole``, ``sts:TagSession`` and ``sts:SetSourceIdentity``, or, for
    ``web_identity``, with ``sts:AssumeRoleWithWebIdentity``. The broker needs ``iam:GetRolePolicy`` and
    ``iam:PutRolePolicy`` on it.
    """

    def __init__(self, name: str, account: AwsAccount, *, clock: Clock, own_token: OwnToken) -> None:
        """``own_token`` is for ``web_identity`` and ``web_identity_role``. Nothing is asked yet."""
        self._name = name
        self._clock = clock
        self._session = AwsSession(name, account, clock=clock, own_token=own_token)
        self._lock = threading.Lock()
        self._own_arn: str | None = None
        self._denied: dict[str, DeniedSessions] = {}

    async def prepare(self, order: LeaseOrder) -> Mapping[str, str]:
        """Return the handle: the session is known by its tag or its name before it exists. Nothing is asked."""
        role = order.settings.get("role_arn")
        if not isinstance(role, str) or role.count(":") < _ARN_COLONS:
            raise self._refused("role_arn must be the ARN of a role")
        by_name = order.settings.get("web_identity") is True
        until = self._clock.now() + BEGIN_SECONDS + DRIFT_SECONDS + _duration(order)
        return _Handle(
            role=role,
            region=str(order.settings.get("region", self._session.region)),
            match=Match.NAME if by_name else Match.TAG,
            value=_name(order.lease) if by_name else _tag(order.lease),
            until=int(until),
        ).wire()

    async def take(self, order: LeaseOrder, handle: Mapping[str, str]) -> Taken:
        """Assume the role. The session lasts at least :data:`SHORTEST` seconds, which may be longer than was asked."""
        wanted = self._read(handle)
        if self._clock.now() + DRIFT_SECONDS + _duration(order) > wanted.until:
            text = f"{self._name}: the lease was prepared too long ago"
            raise BackendFailed(Code.BACKEND_UNAVAILABLE, text, retry_after=1)
        token = await self._session.token() if wanted.match is Match.NAME else None
        return await self._session.run(lambda: self._assume(order, wanted, token), requests=2)

    async def renew(self, handle: Mapping[str, str], seconds: int) -> int:  # noqa: ARG002 - the port's parameter
        """Refuse: AWS does not renew sessions."""
        self._read(handle)
        raise BackendFailed(Code.LEASE_NOT_RENEWABLE, f"{self._name}: AWS does not renew sessions; take a new lease")

    async def revoke(self, handle: Mapping[str, str]) -> Ended:
        """Deny everything to the session, unless it has expired."""
        held = self._read(handle)
        left = held.until - self._clock.now()
        if left <= NEARLY_SECONDS:
            await asyncio.sleep(max(0.0, left))
            return Ended(revoked=True, note=_EXPIRED)
        denied = Denied(held.match, held.value, held.until)
        sessions = self._sessions_of(held.role)
        sessions.ask(denied)
        return await self._session.run(lambda: self._deny(held, sessions, denied), requests=REQUESTS)

    async def close(self) -> None:
        """Take no more calls."""
        await self._session.close()

    # --- in a thread ---

    def _assume(self, order: LeaseOrder, wanted: _Handle, token: Secret | None) -> Taken:
        settings = order.settings
        own = self._own_identity()
        chained = token is None and own is not None and ":assumed-role/" in own
        duration = min(_duration(order), LONGEST_CHAINED if chained else LONGEST)
        parameters: dict[str, Any] = {
            "RoleArn": wanted.role,
            "RoleSessionName": _name(order.lease),
            "DurationSeconds": duration,
        }
        if "session_policy" in settings:
            parameters["Policy"] = json.dumps(_plain(settings["session_policy"]), separators=(",", ":"))
        arns = settings.get("policy_arns")
        if isinstance(arns, tuple | list) and arns:
            parameters["PolicyArns"] = [{"arn": str(arn)} for arn in arns]
        if token is not None:
            parameters["WebIdentityToken"] = token.reveal().decode()
            action = "sts:AssumeRoleWithWebIdentity"
        else:
            parameters |= _identity(order)
            action = "sts:AssumeRole"
        answer = self._session.request(action, wanted.role, parameters, region=wanted.region, signed=token is None)
        return self._taken(wanted, answer, duration, revocable=_account(own) == _account(wanted.role))

    def _taken(self, wanted: _Handle, answer: Mapping[str, Any], duration: int, *, revocable: bool) -> Taken:
        made = answer.get("Credentials") or {}
        keys = {"access_key_id": "AccessKeyId", "secret_access_key": "SecretAccessKey", "session_token": "SessionToken"}
        found = {ours: made.get(theirs) for ours, theirs in keys.items()}
        expiration = made.get("Expiration")
        if not all(isinstance(value, str) and value for value in found.values()) or not isinstance(
            expiration, datetime
        ):
            raise refused(f"{self._name}: the answer of STS has no credentials", uncertain=True)
        now, expires = self._clock.now(), int(expiration.timestamp())
        end = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        data = Secret(json.dumps({**found, "expiration": end, "region": wanted.region}))
        # Whichever of the two clocks is fast, it has expired by then.
        handle = replace(wanted, until=max(expires, math.ceil(now + duration))).wire()
        seconds = max(0, min(duration, int(expires - now)))
        return Taken(data=data, handle=handle, lease_seconds=seconds, renewable=False, revocable=revocable)

    def _deny(self, held: _Handle, sessions: DeniedSessions, denied: Denied) -> Ended:
        if _account(self._own_identity()) != _account(held.role):
            return Ended(revoked=False, expires_at=held.until, note=_ONLY_EXPIRES)
        sessions.settle(denied)
        return Ended(revoked=True, note=_DENIED)

    def _own_identity(self) -> str | None:
        """Return the ARN that the broker acts under, or None if it has no AWS credentials of its own."""
        with self._lock:
            if self._own_arn is None:
                try:
                    answer = self._session.request("sts:GetCallerIdentity", "the broker itself", {}, effect=False)
                except AwsFailed as failed:
                    if failed.error == NO_CREDENTIALS:
                        return None
                    raise
                self._own_arn = str(answer.get("Arn"))
            return self._own_arn

    def _sessions_of(self, role: str) -> DeniedSessions:
        if role not in self._denied:
            self._denied[role] = DeniedSessions(self._session, role, clock=self._clock)
        return self._denied[role]

    # --- handles ---

    def _read(self, handle: Mapping[str, str]) -> _Handle:
        match = next((each for each in Match if each.word == handle.get("match")), None)
        if match is None or not {"role", "region", "value", "until"} <= handle.keys() or not handle["until"].isdigit():
            raise self._refused("the handle is not one of this backend")
        return _Handle(
            role=handle["role"],
            region=handle["region"],
            match=match,
            value=handle["value"],
            until=int(handle["until"]),
        )

    def _refused(self, why: str) -> AwsFailed:
        return refused(f"{self._name}: {why}")


_ARN_COLONS: Final = 5
_ACCOUNT: Final = 4


def _account(arn: str | None) -> str | None:
    """Return the partition and the account of an ARN."""
    parts = (arn or "").split(":")
    return f"{parts[1]}:{parts[_ACCOUNT]}" if len(parts) > _ACCOUNT else None


def _duration(order: LeaseOrder) -> int:
    return min(max(order.ttl, SHORTEST), LONGEST)


def _identity(order: LeaseOrder) -> dict[str, Any]:
    """Return how a session says whose it is: in tags for policies, as source identity in CloudTrail for good.

    Both stay with the session if it assumes other roles.
    """
    tags = {"agent": order.agent, "task": order.task, "lease": order.lease}
    return {
        "SourceIdentity": _name(order.agent),
        "Tags": [{"Key": key, "Value": _tag(value)} for key, value in tags.items()],
        "TransitiveTagKeys": list(tags),
    }


def _name(text: str) -> str:
    """Return text as the name of a session or a source identity: 2 to 64 letters, digits and ``_+=,.@-``."""
    return _shortened(_NOT_NAME.sub("-", text), text, _MAX_NAME).ljust(_MIN_NAME, "-")


def _tag(text: str) -> str:
    """Return text as the value of a tag: at most 256 letters, digits, spaces and ``_.:/=+@-``."""
    return _shortened(_NOT_TAG.sub("-", text), text, _MAX_TAG)


def _shortened(allowed: str, text: str, most: int) -> str:
    """Cut what is too long, so that two long texts do not become one."""
    if len(allowed) <= most:
        return allowed
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    return f"{allowed[: most - _DIGITS - 1]}-{digest}"


def _plain(value: object) -> Any:  # noqa: ANN401 - a JSON value
    """Return a value of the policy as JSON has it: read-only mappings and tuples become objects and arrays."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
