"""Guarding an MCP server: the token verifier that the ``mcp`` package asks for, on top of :class:`TokenVerifier`.

The ``mcp`` package is the server's own; it is imported when the first token is verified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.errors import BrokerError, Code
from broker.verifier.token_verifier import TokenVerifier

if TYPE_CHECKING:
    from mcp.server.auth.provider import AccessToken


class McpTokenVerifier:
    """Pass it as ``token_verifier`` to ``mcp.server.MCPServer``.

    A tool finds who acts in ``mcp.server.auth.middleware.auth_context.get_access_token()``: ``client_id`` acts now,
    ``subject`` is on whose behalf, ``claims["act"]`` names all who acted, and ``claims["broker"]["task"]`` the task.
    Tokens that are bound to a key are refused: the package does not hand the proof on.
    """

    def __init__(self, verifier: TokenVerifier) -> None:
        """``verifier`` must have been started; its audience is the MCP server's resource."""
        self._verifier = verifier

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return what the token says if it is good now, or None.

        Raises ``BrokerError`` (``VIEW_STALE``) when nobody can say: that is not the token's fault.
        """
        from mcp.server.auth.provider import AccessToken  # noqa: PLC0415 - only MCP servers have it

        try:
            verified = await self._verifier.verify(token)
        except BrokerError as error:
            if error.code is Code.VIEW_STALE:
                raise
            return None
        claims = verified.claims
        return AccessToken(
            token=token,
            client_id=claims.client_id,
            scopes=list(claims.scopes),
            expires_at=claims.exp,
            resource=claims.aud,
            subject=claims.sub,
            claims=claims.to_payload(),
        )
