"""Introspection and revocation of single tokens, for OAuth clients (RFC 7662, RFC 7009)."""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs, web

from broker.core.access_token import VerifiedToken
from broker.core.errors import BrokerError, Code
from broker.core.selector import Selector
from broker.http.answer import NO_STORE, oauth_answer
from broker.http.bodies import read_form
from broker.http.call import Call
from broker.http.credentials import admit, catch_up, client_assertion, presented_token
from broker.http.forms import Form
from broker.ports import Admitted
from broker.revocation import Order

REVOKES_ANY: Final = "revocations:write"
"""The scope with which a caller may revoke tokens that are not its own."""

_REASON: Final = "revoked by its owner (RFC 7009)"


async def introspect(call: Call) -> web.Response:
    """``POST /oauth2/introspect``: say whether a token is good, to those who may know."""
    form = await read_form(call)
    asker = await _client(call, form)
    await catch_up(call)
    return oauth_answer(call.services.introspection.introspect(form.require("token"), asker.agent, asker.scopes))


async def revoke(call: Call) -> web.Response:
    """``POST /oauth2/revoke``: end one token. Whatever the token was, the answer is 200: it is good no more.

    The answer has a body only if the revocation is in force but could not be written yet.
    """
    form = await read_form(call)
    caller = await _client(call, form)
    verified = _to_revoke(call, form.require("token"), caller)
    if verified is None:
        return web.Response(headers={hdrs.CACHE_CONTROL: NO_STORE})
    selector = Selector(token=verified.claims.jti)
    outcome = await call.services.revocation.revoke(
        Order(selector=selector, reason=_REASON, by=caller.agent.id), call.caller
    )
    return (
        oauth_answer({"durable": False})
        if not outcome.durable
        else web.Response(headers={hdrs.CACHE_CONTROL: NO_STORE})
    )


async def _client(call: Call, form: Form) -> Admitted:
    """Admit whoever calls: by an access token for the broker's own API, or by a client assertion, not both."""
    presented = presented_token(call)
    if presented is not None:
        if "client_assertion" in form or "client_secret" in form:
            text = "use one way to authenticate the client, not several"
            raise BrokerError(Code.CLIENT_AUTHENTICATION_AMBIGUOUS, text)
        await admit(call, presented)
        return call.operator
    assertion = client_assertion(call, form)
    if assertion is None:
        raise BrokerError(Code.CLIENT_AUTHENTICATION_MISSING, "authenticate with a client_assertion or an access token")
    await catch_up(call)
    call.admit(await call.services.admission.by_assertion(assertion, form.get("client_id"), call.caller))
    return call.operator


def _to_revoke(call: Call, token: str, caller: Admitted) -> VerifiedToken | None:
    """Return the token if it is one of ours, alive, and the caller's to revoke; the caller is not told which fails."""
    try:
        verified = call.services.token_check.check(token, call.services.clock.now(), None)
    except BrokerError:
        return None
    is_owner = verified.claims.client_id == caller.agent.id
    return verified if is_owner or REVOKES_ANY in caller.scopes else None
