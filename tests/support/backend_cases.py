"""Every backend with the parts that it needs, ready for the contract suite: real servers, real files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from broker.backends.aws_secrets_manager import SecretsManagerBackend
from broker.backends.aws_session import AwsAccount
from broker.backends.aws_sts import StsBackend
from broker.backends.local import LocalBackend
from broker.backends.secrets_file import SecretsFile, Stored
from broker.backends.vault import VaultBackend
from broker.backends.vault_server import SignIn, VaultServer
from broker.clock import SystemClock
from broker.core.lease import LeaseOrder
from broker.core.secret import Secret
from broker.lease_backends import GatedBackends
from broker.ports import Backend
from broker.signing.sealing import Sealer
from broker.timing import SYSTEM
from tests.support.moto_aws import ACCOUNT, REGION, client, environment, reset
from tests.support.openbao import OpenBao

STORED = "correct horse battery staple"

Works = Callable[[Mapping[str, Any]], Awaitable[bool]]


@dataclass(kw_only=True)
class BackendCase:
    """A backend under the contract.

    ``make`` returns another instance that knows nothing of the one before, as after a restart. ``settings`` are the
    secret's members in the policy. ``works`` tries a secret where it is used; None where nobody can. ``open_members``
    are the members of the data that are no secrets. ``fresh``: each lease has a secret of its own. ``late_dies``: what
    was revoked by the handle of ``prepare`` before ``take`` is never made at all. ``lost_dies``: what was made, but
    never handed out, works no more when that handle was revoked; where it does not, its secret is known to nobody.
    """

    make: Callable[[], Backend]
    settings: Mapping[str, object]
    works: Works | None
    revocable: bool
    renewable: bool
    fresh: bool
    late_dies: bool = True
    lost_dies: bool = True
    ttl: int = 900
    open_members: frozenset[str] = frozenset()
    numbers: Any = field(default_factory=lambda: count(1))

    def order(self) -> LeaseOrder:
        """Return the order of another lease, always of the same task."""
        now = int(SystemClock().now())
        return LeaseOrder(
            lease=f"lse_{next(self.numbers):026d}",
            secret="contract",
            settings=self.settings,
            ttl=self.ttl,
            ends_by=now + 2 * self.ttl,
            agent="agent:contract",
            role="reader",
            task="task_00000000000000000000000001",
            task_ends=now + 4 * self.ttl,
            on_behalf_of="team:orders",
        )

    def secrets_in(self, data: Mapping[str, Any]) -> list[str]:
        """Return the secret texts in what was taken."""
        return [str(value) for name, value in data.items() if name not in self.open_members]


Opener = Callable[[pytest.FixtureRequest, Path], AbstractAsyncContextManager[BackendCase]]


def _local(folder: Path) -> LocalBackend:
    return LocalBackend("local", folder / "secrets.sealed", seal=Sealer(Secret(bytes(range(32)))), clock=SystemClock())


@asynccontextmanager
async def _local_generate(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[BackendCase]:
    service = _local(folder)

    async def works(data: Mapping[str, Any]) -> bool:
        return await service.is_good(data["value"])

    yield BackendCase(
        make=lambda: _local(folder),
        settings={"generate": 32},
        works=works,
        revocable=True,
        renewable=True,
        fresh=True,
    )
    await service.close()


@asynccontextmanager
async def _local_stored(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[BackendCase]:
    file = SecretsFile("local", folder / "secrets.sealed", Sealer(Secret(bytes(range(32)))), patience=5.0)
    file.change(lambda held: held.stored.__setitem__("demo", Stored(STORED, 1)))
    yield BackendCase(
        make=lambda: _local(folder),
        settings={"stored": "demo"},
        works=None,
        revocable=False,
        renewable=True,
        fresh=False,
    )


def gated(opener: Opener) -> Opener:
    """Return the case of the same backend behind its gate, which must promise all the same."""

    @asynccontextmanager
    async def behind(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[BackendCase]:
        async with opener(request, folder) as case:
            inner = case.make

            def make() -> Backend:
                return GatedBackends({"b": inner()}, concurrency={"b": 8}, timing=SYSTEM).of("b")

            case.make = make
            yield case

    return behind


async def _no_token(audience: str) -> Secret:
    raise AssertionError(f"nobody signs in with an identity token for {audience} here")


def _vault(bao: OpenBao, folder: Path) -> Callable[[], Backend]:
    """Return what makes a backend that signs in with a token of the least privileges."""
    token_file = folder / "vault-token"
    token_file.write_text(bao.token("broker", ttl="1h"))
    server = VaultServer(address=bao.url, sign_in=SignIn(method="token", token_file=str(token_file)))
    return lambda: VaultBackend("vault", server, clock=SystemClock(), own_token=_no_token)


@asynccontextmanager
async def _vault_lease(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[BackendCase]:
    bao, postgres = request.getfixturevalue("bao"), request.getfixturevalue("postgres")

    async def works(data: Mapping[str, Any]) -> bool:
        return await asyncio.to_thread(postgres.lets_in, data["username"], data["password"])

    yield BackendCase(
        make=_vault(bao, folder),
        settings={"path": "database/creds/orders-ro"},
        works=works,
        revocable=True,
        renewable=True,
        fresh=True,
    )


@asynccontextmanager
async def _vault_value(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[BackendCase]:
    yield BackendCase(
        make=_vault(request.getfixturevalue("bao"), folder),
        settings={"path": "secret/demo", "engine": "kv2"},
        works=None,
        revocable=False,
        renewable=False,
        fresh=False,
        open_members=frozenset({"user"}),
    )


@asynccontextmanager
async def _vault_certificate(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[BackendCase]:
    bao = request.getfixturevalue("bao")

    def is_listed(serial: str) -> bool:
        return bool(bao.call("GET", f"pki/cert/{serial}")["data"]["revocation_time"])

    async def works(data: Mapping[str, Any]) -> bool:
        return not await asyncio.to_thread(is_listed, data["serial_number"])

    yield BackendCase(
        make=_vault(bao, folder),
        settings={"path": "pki/issue/agents", "engine": "pki", "parameters": {"common_name": "a.internal"}},
        works=works,
        revocable=True,
        renewable=False,
        fresh=True,
        lost_dies=False,
        open_members=frozenset(
            {"certificate", "issuing_ca", "ca_chain", "serial_number", "expiration", "private_key_type"}
        ),
    )


_ROLE: Final = f"arn:aws:iam::{ACCOUNT}:role/agents"


def _aws(request: pytest.FixtureRequest) -> AwsAccount:
    environment(request.getfixturevalue("monkeypatch"))
    url = request.getfixturevalue("moto")
    reset(url)
    return AwsAccount(region=REGION, endpoint=url)


@asynccontextmanager
async def _aws_session(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[BackendCase]:
    account = _aws(request)
    with client("iam", str(account.endpoint)) as iam:
        iam.create_role(RoleName="agents", AssumeRolePolicyDocument="{}")
    yield BackendCase(
        make=lambda: StsBackend("aws-sts", account, clock=SystemClock(), own_token=_no_token),
        settings={"role_arn": _ROLE},
        works=None,  # moto asks no policy whether a session may do what it does
        revocable=True,
        renewable=False,
        fresh=True,
        late_dies=False,
        open_members=frozenset({"access_key_id", "expiration", "region"}),
    )


@asynccontextmanager
async def _aws_secret(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[BackendCase]:
    account = _aws(request)
    with client("secretsmanager", str(account.endpoint)) as manager:
        manager.create_secret(Name="orders", SecretString=json.dumps({"user": "app", "password": STORED}))
    yield BackendCase(
        make=lambda: SecretsManagerBackend("aws", account, clock=SystemClock(), own_token=_no_token),
        settings={"secret_id": "orders"},
        works=None,
        revocable=False,
        renewable=True,
        fresh=False,
        open_members=frozenset({"user"}),
    )


CASES: dict[str, Opener] = {
    "local-generate": _local_generate,
    "local-generate-gated": gated(_local_generate),
    "local-stored": _local_stored,
    "vault-lease": _vault_lease,
    "vault-value": _vault_value,
    "vault-certificate": _vault_certificate,
    "aws-sts": _aws_session,
    "aws-secrets-manager": _aws_secret,
}
"""Every implementation of the port ``Backend``, by name."""
