"""The one authenticator: an assertion goes to whoever can judge it, by what it says of itself."""

from __future__ import annotations

from broker.authenticators.client_assertion import ClientAssertion
from broker.authenticators.federation import Federation
from broker.authenticators.refusal import refused
from broker.core.identity import is_name
from broker.core.jwt import InvalidToken, parse
from broker.ports import Authenticated, UnverifiedAssertion


class Dispatch:
    """Authenticates registered agents and agents of trusted issuers (port ``Authenticator``).

    An ``iss`` that is a plain name can only be a registered agent: a trusted issuer's is a URL. All that is wrong with
    an assertion is answered in the same words.
    """

    def __init__(self, *, federation: Federation, registered: ClientAssertion) -> None:
        """``federation`` judges platform tokens, ``registered`` the assertions of registered agents."""
        self._federation = federation
        self._registered = registered

    async def authenticate(self, assertion: UnverifiedAssertion, now: float) -> Authenticated:
        """Verify an assertion completely. Raises as the port says."""
        known = self._federation.recognise(assertion, now)
        if known is not None:
            return known
        try:
            token = parse(assertion.token)
            issuer = token.names("iss")
            if issuer is not None and is_name(issuer) and not assertion.spiffe and not self._federation.knows(issuer):
                return await self._registered.verify(assertion, token, now)
            return await self._federation.verify(assertion, token, now)
        except InvalidToken as error:
            raise refused() from error
