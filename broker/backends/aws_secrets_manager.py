"""Secrets of AWS Secrets Manager: given as they are stored; at the end they can be rotated there, not revoked."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from broker.backends.aws_failures import MISSING, AwsFailed, refused
from broker.backends.aws_session import AwsAccount, AwsSession, OwnToken
from broker.core.errors import BackendFailed, Code
from broker.core.lease import Ended, LeaseOrder, Taken
from broker.core.secret import Secret
from broker.core.strict_json import JSONError, read_json_object
from broker.ports import Clock

CURRENT: Final = "AWSCURRENT"
PENDING: Final = "AWSPENDING"
"""Secrets Manager's own labels of versions: the one in use, and the one that a rotation is making."""

PENDING_SECONDS: Final = 60
"""After how many seconds to look again whether somebody else's rotation is over."""

_ROTATIONS: Final = uuid.UUID("6f0d1d5e-0a4c-5b7e-9a53-1f6f0c3f6f10")
_LEFT: Final = "the value stays good until it is changed where it is used"
_NEVER_GIVEN: Final = "the value was never handed out, so nothing was rotated"
_GONE: Final = "the secret is no longer in Secrets Manager; whether its value is still good is known where it is used"
_REQUESTED: Final = "rotation requested; the old value is good until Secrets Manager has finished that"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Handle:
    """Which secret it is and what is wished for at its end; once it was read, in which version."""

    secret_id: str
    region: str
    on_revoke: str
    version: str | None = None

    def wire(self) -> dict[str, str]:
        known = {} if self.version is None else {"version": self.version}
        return {"secret_id": self.secret_id, "region": self.region, "on_revoke": self.on_revoke, **known}


class SecretsManagerBackend:
    """AWS Secrets Manager (port ``Backend``). The value belongs to all who read it, so ending a lease does not end it.

    With ``on_revoke: rotate`` the end of a lease has the value rotated, if it is still the current one: once for all
    leases of it. The broker needs ``secretsmanager:GetSecretValue`` and ``secretsmanager:DescribeSecret``, and
    ``secretsmanager:RotateSecret`` for that.
    """

    def __init__(self, name: str, account: AwsAccount, *, clock: Clock, own_token: OwnToken) -> None:
        """``own_token`` is for accounts with a ``web_identity_role``. Nothing is asked yet."""
        self._name = name
        self._session = AwsSession(name, account, clock=clock, own_token=own_token)

    async def prepare(self, order: LeaseOrder) -> Mapping[str, str]:
        """Return the handle. Nothing is asked."""
        return self._wanted(order).wire()

    async def take(self, order: LeaseOrder, handle: Mapping[str, str]) -> Taken:
        """Read the value: the version with the label of the secret's settings, the current one if they name none.

        A JSON object is given as it is, or only its member ``key``; other text as ``value``; bytes as ``value_base64``.
        """
        wanted = self._read(handle)
        stage = str(order.settings.get("version_stage", CURRENT))
        key = order.settings.get("key")
        return await self._session.run(lambda: self._give(wanted, stage, None if key is None else str(key)))

    async def renew(self, handle: Mapping[str, str], seconds: int) -> int:
        """Let a lease go on, if the secret is still there."""
        held = self._read(handle)
        if await self._session.run(lambda: self._describe(held)) is None:
            raise BackendFailed(Code.LEASE_ENDED, f"{self._name} has no such secret any more")
        return seconds

    async def revoke(self, handle: Mapping[str, str]) -> Ended:
        """Have the value rotated if that is wished for, and say that it is good until then."""
        held = self._read(handle)
        if held.on_revoke != "rotate":
            return Ended(revoked=False, note=_LEFT)
        if held.version is None:
            return Ended(revoked=False, note=_NEVER_GIVEN)
        note = await self._session.run(lambda: self._rotate(held, str(held.version)), requests=2)
        return Ended(revoked=False, note=note)

    async def close(self) -> None:
        """Take no more calls."""
        await self._session.close()

    # --- in a thread ---

    def _give(self, wanted: _Handle, stage: str, key: str | None) -> Taken:
        parameters = {"SecretId": wanted.secret_id, "VersionStage": stage}
        found = self._ask("secretsmanager:GetSecretValue", wanted, parameters, effect=False)
        version = found.get("VersionId")
        if not isinstance(version, str):
            raise self._refused("the answer of Secrets Manager names no version")
        data = Secret(self._member(found, key) if key is not None else self._whole(found))
        handle = _Handle(
            secret_id=wanted.secret_id, region=wanted.region, on_revoke=wanted.on_revoke, version=version
        ).wire()
        return Taken(data=data, handle=handle, lease_seconds=None, renewable=True, revocable=False)

    def _whole(self, found: Mapping[str, Any]) -> str:
        text, octets = found.get("SecretString"), found.get("SecretBinary")
        if isinstance(text, str):
            try:
                read_json_object(text)
            except JSONError:
                return json.dumps({"value": text})
            return text
        if isinstance(octets, bytes):
            return json.dumps({"value_base64": base64.b64encode(octets).decode()})
        raise self._refused("the secret has no value")

    def _member(self, found: Mapping[str, Any], key: str) -> str:
        text = found.get("SecretString")
        members = _members(text) if isinstance(text, str) else {}
        if key not in members:
            raise self._refused("the value is no JSON object with the key that the policy names")
        return json.dumps({key: members[key]})

    def _rotate(self, held: _Handle, version: str) -> str:
        """Have a version replaced, unless that has happened; return what was done.

        The request's token is derived from the version: two leases of it, or the same one twice, ask for one rotation.
        """
        found = self._describe(held)
        if found is None:
            return _GONE
        stages = found.get("VersionIdsToStages") or {}
        current, pending = _labelled(stages, CURRENT), _labelled(stages, PENDING)
        if version != current:
            return f"superseded by version {current}; whether the old value is still good is known where it is used"
        token = str(uuid.uuid5(_ROTATIONS, f"{found.get('ARN')} {version}"))
        if pending == token:
            return _REQUESTED
        if pending not in {None, current}:
            text = "Secrets Manager has not finished another rotation of this secret"
            raise refused(f"{self._name}: {text}", retry_after=PENDING_SECONDS)
        if found.get("RotationEnabled") is not True:
            raise self._refused("on_revoke is rotate, but the secret has no rotation in Secrets Manager")
        parameters = {"SecretId": held.secret_id, "ClientRequestToken": token, "RotateImmediately": True}
        self._ask("secretsmanager:RotateSecret", held, parameters)
        return _REQUESTED

    def _describe(self, held: _Handle) -> dict[str, Any] | None:
        """Return what Secrets Manager knows of a secret, or None if it is not there, or is being deleted."""
        try:
            found = self._ask("secretsmanager:DescribeSecret", held, {"SecretId": held.secret_id}, effect=False)
        except AwsFailed as failed:
            if failed.error in MISSING:
                return None
            raise
        return None if found.get("DeletedDate") is not None else found

    def _ask(self, action: str, handle: _Handle, parameters: dict[str, Any], *, effect: bool = True) -> dict[str, Any]:
        return self._session.request(action, handle.secret_id, parameters, region=handle.region, effect=effect)

    # --- settings and handles ---

    def _wanted(self, order: LeaseOrder) -> _Handle:
        secret_id = order.settings.get("secret_id")
        if not isinstance(secret_id, str) or not secret_id:
            raise self._refused("secret_id must be the name or the ARN of a secret")
        region = str(order.settings.get("region", self._session.region))
        return _Handle(secret_id=secret_id, region=region, on_revoke=str(order.settings.get("on_revoke", "leave")))

    def _read(self, handle: Mapping[str, str]) -> _Handle:
        if not {"secret_id", "region", "on_revoke"} <= handle.keys():
            raise self._refused("the handle is not one of this backend")
        return _Handle(
            secret_id=handle["secret_id"],
            region=handle["region"],
            on_revoke=handle["on_revoke"],
            version=handle.get("version"),
        )

    def _refused(self, why: str) -> AwsFailed:
        return refused(f"{self._name}: {why}")


def _members(text: str) -> dict[str, Any]:
    try:
        return read_json_object(text)
    except JSONError:
        return {}


def _labelled(stages: Mapping[str, Any], label: str) -> str | None:
    return next((version for version, labels in stages.items() if label in labels), None)
