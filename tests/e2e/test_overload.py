"""A real broker that is asked for more tokens than it can issue, by more connections than it lets in or lets wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from tests.bench.load import write_requests
from tests.support.client_load import read_key, token_form
from tests.support.running_broker import TICKETS, RunningBroker

CONNECTIONS, SECONDS = 1200, 5
FLOODS = 6
"""So many floods come at most, until one was too much: beside other work, who floods gets little of the machine."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """A broker that is set up and not yet started."""
    running = RunningBroker(tmp_path)
    running.initialise()
    yield running
    running.stop()


def _form(broker: RunningBroker, name: str, key: EllipticCurvePrivateKey, audience: str, scope: str) -> dict[str, str]:
    return token_form(broker.issuer, name, key, 250, resource=audience, scope=scope)


def _flood(broker: RunningBroker, form: dict[str, str]) -> subprocess.Popen[bytes]:
    """Ask for tokens over many connections; the assertion being used, each is refused once it was looked at."""
    body = urlencode(form).encode()
    head = f"POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    file = broker.folder / "flood.bin"
    write_requests(file, [head.encode() + body])
    numbers = (str(broker.port), str(CONNECTIONS), str(SECONDS))
    return subprocess.Popen([sys.executable, "-m", "tests.bench.load", *numbers, str(file)], stdout=subprocess.PIPE)


async def test_issuing_gives_way_and_revoking_does_not(broker: RunningBroker) -> None:
    """Under a flood token requests are turned away; operators sign in, revoke and introspect as ever."""
    broker.start()
    assert broker.process is not None
    os.setpriority(os.PRIO_PROCESS, broker.process.pid, 5)  # whoever floods must be able to keep it busy
    key, operator_key = read_key(broker.agent("alpha")), read_key(broker.home / "operator.pem")
    signing_in: Counter[int] = Counter()
    revoking: Counter[int] = Counter()
    asking: Counter[int] = Counter()
    flooded: Counter[str] = Counter()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:

        async def ask(form: dict[str, str]) -> tuple[int, dict[str, str]]:
            async with http.post(f"{broker.issuer}/oauth2/token", data=form) as reply:
                return reply.status, await reply.json()

        async def sign_in() -> tuple[int, dict[str, str]]:
            scope = "revocations:write operator:read"
            return await ask(_form(broker, "operator", operator_key, f"{broker.issuer}/v1", scope))

        _, answer = await sign_in()
        headers = {"Authorization": f"Bearer {answer['access_token']}"}
        form = _form(broker, "alpha", key, TICKETS, "tickets:read")
        _, answer = await ask(form)

        async def work_during(flood: subprocess.Popen[bytes]) -> None:
            while flood.poll() is None:
                signing_in[(await sign_in())[0]] += 1
                body = {"selector": {"token": f"tok_{sum(revoking.values()):026}"}, "reason": "overload"}
                keyed = {**headers, "Idempotency-Key": str(uuid.uuid4())}
                async with http.post(f"{broker.issuer}/v1/revocations", json=body, headers=keyed) as reply:
                    revoking[reply.status] += 1
                token = {"token": answer["access_token"]}
                async with http.post(f"{broker.issuer}/oauth2/introspect", data=token, headers=headers) as reply:
                    asking[reply.status] += 1

        for _ in range(FLOODS):
            with _flood(broker, form) as flood:
                await work_during(flood)
                assert flood.stdout is not None
                figures = json.load(flood.stdout)
                flooded.update({name: figures[name] for name in ("overloaded", "answers")})
            if flooded["overloaded"]:
                break
    assert flooded["overloaded"] > 0
    assert flooded["answers"] > 0  # something was let in as well
    assert set(revoking) == {201}
    assert asking[200] > 0
    assert signing_in[200] > 0
