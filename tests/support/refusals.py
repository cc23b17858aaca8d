"""How verifiers refuse tokens."""

from __future__ import annotations

from broker.core.errors import BrokerError, Code
from broker.verifier import TokenVerifier


async def refusal(verifier: TokenVerifier, token: str, **arguments: str) -> Code | None:
    """Return the code with which a token is refused, None if it is good."""
    try:
        await verifier.verify(token, **arguments)
    except BrokerError as error:
        return error.code
    return None
