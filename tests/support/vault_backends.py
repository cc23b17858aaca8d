"""Backends on a real OpenBao: how tests sign in, order, and look at what came of it."""

from __future__ import annotations

import itertools
import json
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from broker.backends.vault import VaultBackend
from broker.backends.vault_server import SignIn, VaultServer
from broker.backends.vault_session import OwnToken
from broker.clock import SystemClock
from broker.core.errors import BackendFailed
from broker.core.lease import LeaseOrder, Taken
from broker.core.secret import Secret
from tests.support.openbao import OpenBao

LEASE = {"path": "database/creds/orders-ro"}
VALUE = {"path": "secret/demo", "engine": "kv2"}
CERTIFICATE = {"path": "pki/issue/agents", "engine": "pki", "parameters": {"common_name": "agent.internal"}}

_numbers = itertools.count(1)


class AheadClock:
    """The real time, and so many seconds more."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return SystemClock().now() + self.ahead


async def no_token(audience: str) -> Secret:
    """The broker signs nothing in tests that sign in otherwise."""
    raise AssertionError(audience)


def token_file(folder: Path, token: str) -> SignIn:
    """Return how to sign in with a token."""
    path = folder / "token"
    path.write_text(f"{token}\n")
    return SignIn(method="token", token_file=str(path))


@asynccontextmanager
async def backend_on(
    address: str,
    sign_in: SignIn,
    *,
    clock: AheadClock | None = None,
    own_token: OwnToken = no_token,
    **more: Any,  # noqa: ANN401 - members of VaultServer
) -> AsyncIterator[VaultBackend]:
    """A backend, closed at the end."""
    server = VaultServer(address=address, sign_in=sign_in, **more)
    backend = VaultBackend("vault", server, clock=clock or AheadClock(), own_token=own_token)
    try:
        yield backend
    finally:
        await backend.close()


def order(settings: dict[str, Any], *, task: str | None = None, ttl: int = 300, life: int = 1200) -> LeaseOrder:
    """Return an order for ``life`` seconds at most, of a task that lives twice as long: by default one of its own."""
    now, number = int(SystemClock().now()), next(_numbers)
    return LeaseOrder(
        lease=f"lse_{number}",
        secret="orders-db",
        settings=settings,
        ttl=ttl,
        ends_by=now + life,
        agent="agent:alpha",
        role="reader",
        task=task or f"task_{number}",
        task_ends=now + 2 * life,
        on_behalf_of="team:orders",
    )


async def taken(backend: VaultBackend, wanted: LeaseOrder) -> Taken:
    """Prepare and take."""
    return await backend.take(wanted, await backend.prepare(wanted))


def opened(taken: Taken) -> dict[str, Any]:
    """Return what was taken."""
    data = json.loads(taken.data.reveal())
    assert isinstance(data, dict)
    return data


def tells_nothing(
    error: BackendFailed, secrets: Sequence[str], show: Callable[[BackendFailed], str] | None = None
) -> None:
    """Check that neither the text of a failure nor its whole traceback hold a secret."""
    text = f"{error.public} {error!r} {''.join(traceback.format_exception(error))} {show(error) if show else ''}"
    for secret in secrets:
        assert secret not in text


def broker_token(bao: OpenBao, **more: Any) -> str:  # noqa: ANN401 - JSON
    """Make a token that may what the broker needs."""
    return bao.token("broker", **{"ttl": "1h", **more})
