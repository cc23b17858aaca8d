"""Tokens that are asked for at the same moment are signed in one round, and do not get into each other's way."""

from __future__ import annotations

import asyncio

from broker.core.claims import AccessClaims
from broker.ports import Minted
from broker.signing.access_token import AccessTokenSigner
from tests.support.fakes import NOW
from tests.support.world import ISSUER, TICKETS, World


def claims(world: World, jti: str) -> AccessClaims:
    """Return what a token of this id says."""
    iat = int(world.clock.time)
    return AccessClaims(
        iss=ISSUER,
        sub="triage",
        aud=TICKETS,
        client_id="triage",
        iat=iat,
        exp=iat + 900,
        jti=jti,
        scopes=("tickets:read",),
        epoch=0,
        task="T-1",
        role="triage",
        tier="read",
        issuer="registered",
    )


async def test_a_fault_in_one_token_is_its_own() -> None:
    """One that cannot be made, for whatever reason, is answered at once; the others of its round get their tokens."""

    class Faulty(AccessTokenSigner):
        def mint(self, claims: AccessClaims) -> Minted:
            if claims.jti == "tok_bad":
                raise ArithmeticError
            return super().mint(claims)

    world = World()
    signer = Faulty(world.ring, world.clock, issuer=ISSUER)
    wanted = [claims(world, jti) for jti in ("tok_1", "tok_bad", "tok_2")]
    async with asyncio.timeout(2):
        made = await asyncio.gather(*(signer.mint_checked(one, NOW) for one in wanted), return_exceptions=True)
    assert isinstance(made[1], ArithmeticError)
    assert [isinstance(one, Minted) for one in made] == [True, False, True]
