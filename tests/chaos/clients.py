"""A client process: gets tokens from all brokers, holds some of them up for the verifiers, and asks about those."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.chaos.journal import Journal, Tail
from tests.support.running_broker import TICKETS

LOST: Final = (aiohttp.ClientError, TimeoutError, OSError, ValueError)
"""What asking a broker ends with that is killed, or cut off, over it. Nothing is known then."""

HELD: Final = 3
"""So many tokens of each client are in use at a time."""

_PATIENCE: Final = aiohttp.ClientTimeout(total=5, connect=2)
_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Place:
    """Where the processes of a run meet. ``ports`` lead to the brokers, however many stand behind each."""

    folder: Path
    issuer: str
    ports: tuple[int, ...]

    @property
    def journals(self) -> Path:
        """The folder of the journals."""
        return self.folder / "journals"

    def held_up(self, name: str) -> Path:
        """Where a client writes down which tokens are in use, and a revoker which it revokes, the newest last."""
        return self.folder / f"held-{name}.jsonl"

    def key(self, agent: str) -> EllipticCurvePrivateKey:
        """Read the private key of an agent."""
        key = load_pem_private_key((self.folder / f"{agent}.pem").read_bytes(), password=None)
        assert isinstance(key, EllipticCurvePrivateKey)
        return key


class Brokers:
    """All brokers, as one agent asks them. It goes by the clock of the one it asks, which their answers tell."""

    def __init__(self, place: Place, agent: str, session: aiohttp.ClientSession) -> None:
        self._place, self._agent, self._session = place, agent, session
        self._key = place.key(agent)
        self._ahead: defaultdict[int, float] = defaultdict(float)
        self._own: dict[int, str] = {}

    async def ask(self, port: int, path: str, **request: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - aiohttp's
        """Post to one broker; returns status and JSON. Raises one of :data:`LOST`."""
        async with self._session.post(f"http://127.0.0.1:{port}{path}", **request) as response:
            body = json.loads(await response.read() or b"{}")
            self._ahead[port] = parsedate_to_datetime(response.headers["Date"]).timestamp() - time.time()
            return response.status, body

    async def token(self, port: int, audience: str, scope: str) -> str | None:
        """Get a token, or None if the broker does not want to give one."""
        now = int(time.time() + self._ahead[port])
        claims = {"iss": self._agent, "sub": self._agent, "aud": self._place.issuer, "iat": now, "exp": now + _SECONDS}
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": jwt.encode({**claims, "jti": str(uuid.uuid4())}, self._key, algorithm="ES256"),
            "resource": audience,
            "scope": scope,
        }
        status, body = await self.ask(port, "/oauth2/token", data=form)
        return str(body["access_token"]) if status == HTTPStatus.OK else None

    async def call(self, port: int, path: str, scope: str, **request: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - aiohttp's
        """Post to a broker's own API, with a token that is kept for as long as it is good there."""
        own = self._own.get(port) or await self.sign_in(port, scope)
        headers = {"Authorization": f"Bearer {own}", **request.pop("headers", {})}
        status, body = await self.ask(port, path, headers=headers, **request)
        if status == HTTPStatus.UNAUTHORIZED:
            self._own.pop(port, None)
        return status, body

    async def sign_in(self, port: int, scope: str) -> str:
        """Get a new token for a broker's own API. Raises one of :data:`LOST`, too, if there is none to be had."""
        token = await self.token(port, f"{self._place.issuer}/v1", scope)
        if token is None:
            raise ValueError("no token for the operator")
        self._own[port] = token
        return token


def work(place: Place, agent: str, revokers: tuple[str, ...], *, pause: float) -> None:
    """Be a client until the process is ended."""
    asyncio.run(_work(place, agent, revokers, pause))


async def _work(place: Place, agent: str, revokers: tuple[str, ...], pause: float) -> None:
    journal, held = Journal(place.journals, agent), deque[str](maxlen=HELD)
    async with aiohttp.ClientSession(timeout=_PATIENCE) as session:
        mine, operator = Brokers(place, agent, session), Brokers(place, "operator", session)
        await asyncio.gather(
            _get(place, mine, journal, pause),
            _hold(place, mine, agent, journal, held),
            _introspect(place, operator, journal, held, [Tail(place.held_up(name)) for name in revokers], pause),
        )


async def _get(place: Place, brokers: Brokers, journal: Journal, pause: float) -> None:
    """Get tokens one after the other, from any broker."""
    while True:
        await _received(place, brokers, journal)
        await asyncio.sleep(random.uniform(0, 2 * pause))


async def _hold(place: Place, brokers: Brokers, agent: str, journal: Journal, held: deque[str]) -> None:
    """Have tokens that are in use everywhere, a new one twice a second."""
    shown = Journal(place.folder, place.held_up(agent).stem)
    while True:
        token = await _received(place, brokers, journal)
        if token is not None:
            held.append(token)
            shown.write("held", jwt=token, at=time.monotonic())
        await asyncio.sleep(0.5)


async def _received(place: Place, brokers: Brokers, journal: Journal) -> str | None:
    try:
        token = await brokers.token(random.choice(place.ports), TICKETS, "tickets:read")
    except LOST:
        return None
    if token is not None:
        journal.write("received", jwt=token, at=time.monotonic())
    return token


async def _introspect(
    place: Place, brokers: Brokers, journal: Journal, held: deque[str], tails: Sequence[Tail], pause: float
) -> None:
    """Ask all brokers about the tokens in use and those that were revoked, and write down what they say."""
    revoked = deque[str](maxlen=HELD * len(tails))
    while True:
        revoked.extend(line["jwt"] for tail in tails for line in tail.new())
        for token in (*held, *revoked):
            port, began = random.choice(place.ports), time.monotonic()
            try:
                status, body = await brokers.call(port, "/oauth2/introspect", "operator:read", data={"token": token})
            except LOST:
                continue
            if status == HTTPStatus.OK:
                what, times = "accepted" if body["active"] else "refused", {"began": began, "ended": time.monotonic()}
                journal.write(what, by=f"broker:{port}", token=name_of(token), code=None, **times)
        await asyncio.sleep(random.uniform(0, 2 * pause))


def name_of(token: str) -> str:
    """Return the id of a token."""
    return str(jwt.decode(token, options={"verify_signature": False})["jti"])
