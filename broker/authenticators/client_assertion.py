"""``private_key_jwt`` (RFC 7523): a registered agent authenticates with a fresh assertion, signed with its own key."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import replace
from typing import Final, Protocol

from broker.authenticators.refusal import refused
from broker.core.change import RegisteredAgent, Unused
from broker.core.identity import REGISTERED, Agent, is_name
from broker.core.jwk import JWKError, KeySet, parse_jwk
from broker.core.jwt import CLIENT_ASSERTION, SKEW, InvalidToken, Unverified, parse, verify_with_key
from broker.ports import Authenticated, UnverifiedAssertion

MAX_AHEAD: Final = 300
"""How far in the future an assertion may expire, in seconds."""

MAX_KEYS_HELD: Final = 4096


class Registry(Protocol):
    """Who is registered (``broker.ports.Records`` is one)."""

    async def registered_agent(self, name: str) -> RegisteredAgent | None:
        """Return a registered agent, as it is now."""
        ...


class ClientAssertion:
    """Authenticates registered agents (port ``Authenticator``)."""

    def __init__(
        self, registry: Registry, *, issuer: str, max_ahead: int = MAX_AHEAD, accept_trailing_slash: bool = False
    ) -> None:
        """``issuer`` is the broker's issuer URL, the one audience that an assertion may have.

        Not the token endpoint: an assertion that names it could have been made for another server that shares the URL.
        ``accept_trailing_slash`` also takes the issuer with a slash behind it, for clients that cannot help it.
        """
        self._registry = registry
        self._audiences: Collection[str] = (issuer, f"{issuer}/") if accept_trailing_slash else (issuer,)
        self._row = replace(CLIENT_ASSERTION, max_ahead=max_ahead)
        self._keys: OrderedDict[str, tuple[RegisteredAgent, KeySet]] = OrderedDict()

    async def authenticate(self, assertion: UnverifiedAssertion, now: float) -> Authenticated:
        """Verify a client assertion; the guard that uses it up comes along. Raises as the port says."""
        try:
            return await self.verify(assertion, parse(assertion.token), now)
        except InvalidToken as error:
            raise refused() from error

    async def verify(self, assertion: UnverifiedAssertion, token: Unverified, now: float) -> Authenticated:
        """Verify a token completely. Raises ``InvalidToken``, or ``Unavailable`` if the registry cannot be read."""
        if assertion.as_grant or assertion.spiffe:
            raise InvalidToken("use")
        name = token.names("iss")
        if name is None or not is_name(name):
            raise InvalidToken("issuer")
        agent = await self._registry.registered_agent(name)
        if agent is None:
            raise InvalidToken("agent")
        verified = verify_with_key(
            token, self._row, self._keys_of(agent), issuer=agent.name, audiences=self._audiences, now=now
        )
        claims = verified.claims
        if claims["sub"] != agent.name:
            raise InvalidToken("subject")
        used = hashlib.sha256(f"assertion\n{agent.name}\n{claims['jti']}".encode()).digest()
        return Authenticated(
            agent=Agent(agent.name, REGISTERED, agent.name),
            method="private_key_jwt",
            digest=hashlib.sha256(assertion.token.encode()).hexdigest(),
            guards=(Unused(used, math.ceil(claims["exp"] + SKEW), "assertion"),),
            assertion_id=claims["jti"],
            key=verified.key.thumbprint,
        )

    def _keys_of(self, agent: RegisteredAgent) -> KeySet:
        """Return the agent's key, parsed once for each registration."""
        held = self._keys.get(agent.name)
        if held is not None and held[0] == agent:
            self._keys.move_to_end(agent.name)
            return held[1]
        try:
            keys = KeySet([parse_jwk(agent.jwk)], kid_optional=True)
        except JWKError as error:
            raise InvalidToken("kid") from error
        self._keys[agent.name] = (agent, keys)
        if len(self._keys) > MAX_KEYS_HELD:
            self._keys.popitem(last=False)
        return keys
