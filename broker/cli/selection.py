"""What a revocation covers, as options of the command line say it."""

from __future__ import annotations

import time
from typing import Final

from broker.cli.outcome import unusable
from broker.cli.session import Session
from broker.core.access_token import verify_ended_token
from broker.core.jwk import JWKError, parse_jwks
from broker.core.jwt import InvalidToken
from broker.core.selector import Selector

JWKS: Final = "/oauth2/jwks.json"


def is_whole_token(value: str) -> bool:
    """Whether a value is a whole access token rather than a token's id: somebody found it where it does not belong."""
    return value.count(".") == 2 and value.startswith("eyJ")  # noqa: PLR2004 - a JWT has three parts


async def token_id(session: Session, value: str) -> str:
    """Return the id of a token that was found, after verifying that this broker made it.

    Without that, a forged token planted in a log could make an operator revoke someone else's. Raises ``Failure``.
    """
    try:
        keys = parse_jwks(await session.get(JWKS, None))
        return verify_ended_token(value, keys, issuer=session.issuer, now=time.time()).claims.jti
    except (InvalidToken, JWKError) as error:
        text = "--token: is not a token that this broker signed (with a key that it still publishes)"
        raise unusable(text, "token_invalid") from error


def selector_of(named: dict[str, str | None], *, everything: bool, api_audience: str) -> Selector:
    """Return the selector that options name.

    Raises ``Failure`` if they name nothing, ``Malformed`` if what they name is impossible.
    """
    given = {name: value for name, value in named.items() if value is not None}
    if not given and not everything:
        options = ", ".join(f"--{name}" for name in named)
        raise unusable(f"name what to revoke: {options}, or --everything", "selector_invalid")
    if given.get("audience") == "broker":
        given["audience"] = api_audience  # as the policy calls it; tokens carry the URL
    return Selector(**given, everything=everything)
