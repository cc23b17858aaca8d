"""The token endpoint: from bytes to a typed request, in the order that the protocol sheet (B.2) gives."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from aiohttp import web

from broker.core.audience import canonical_audience
from broker.core.errors import BrokerError, Code, Malformed
from broker.core.grant import Ask
from broker.core.policy import BROKER
from broker.core.scope import parse_scopes
from broker.core.task import parse_task_id
from broker.http.answer import oauth_answer
from broker.http.bodies import read_form
from broker.http.call import Call
from broker.http.credentials import client_assertion, dpop_proof
from broker.http.forms import Form
from broker.issuance import Issued, TokenRequest
from broker.ports import UnverifiedAssertion

CLIENT_CREDENTIALS: Final = "client_credentials"
JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
GRANT_TYPES: Final = (CLIENT_CREDENTIALS, JWT_BEARER)
"""The grant types that work; the metadata names exactly these."""


async def token(call: Call) -> web.Response:
    """``POST /oauth2/token``: answer with an access token, which is durable in the ledger by then."""
    if call.request.query_string:
        raise Malformed("send parameters in the body: this endpoint takes none in its URL")
    form = await read_form(call)
    request = parse_token_request(call, form)
    issued = await call.services.issuance.issue(request, call.caller)
    call.agent = issued.claims.client_id
    return _issued(issued)


def parse_token_request(call: Call, form: Form) -> TokenRequest:
    """Read a token request. Nothing in it is verified yet. Raises ``BrokerError`` by the sheet's order of checks.

    The order of what can be seen in the form alone; what the assertion and the policy say comes after it, so a
    malformed request uses up no assertion.
    """
    assertion = client_assertion(call, form)
    grant_type = form.get("grant_type")
    if grant_type == JWT_BEARER:
        assertion = _assertion_grant(call, form, assertion)
    elif assertion is None:
        raise BrokerError(Code.CLIENT_AUTHENTICATION_MISSING, "authenticate the client with a client_assertion")
    elif grant_type is None:
        raise Malformed("grant_type: missing")
    elif grant_type != CLIENT_CREDENTIALS:
        text = f"grant_type: must be {' or '.join(GRANT_TYPES)}"
        raise BrokerError(Code.UNSUPPORTED_GRANT_TYPE, text)
    return TokenRequest(
        assertion=assertion, ask=_ask(call, form), client_id=form.get("client_id"), proof=dpop_proof(call.request)
    )


def _assertion_grant(call: Call, form: Form, client: UnverifiedAssertion | None) -> UnverifiedAssertion:
    """Return the assertion of a ``jwt-bearer`` grant (RFC 7523, 2.1), which is all the authentication it needs."""
    if client is not None:
        text = "the assertion says who is asking: send no client_assertion besides it"
        raise BrokerError(Code.CLIENT_AUTHENTICATION_AMBIGUOUS, text)
    call.as_grant = True
    return UnverifiedAssertion(form.require("assertion"), as_grant=True)


def _ask(call: Call, form: Form) -> Ask:
    audience = _target(call, form)
    scope, task = form.get("scope"), form.get("task")
    scopes = None if scope is None else parse_scopes(scope)
    if "authorization_details" in form:
        raise Malformed("authorization_details: not supported", Code.DETAILS_NOT_SUPPORTED)
    return Ask(audience=audience, scopes=scopes, task=None if task is None else parse_task_id(task))


def _target(call: Call, form: Form) -> str | None:
    """Return the one resource that is asked for, in the form in which audiences are compared; None if none is named.

    ``resource`` (RFC 8707) and ``audience`` (RFC 8693) mean the same here. Naming the same one again is harmless.
    """
    named = [("resource", value) for value in form.all("resource")]
    named += [("audience", value) for value in form.all("audience")]
    targets = {
        call.site.api_audience if name == "audience" and value == BROKER else _canonical(name, value)
        for name, value in named
    }
    if len(targets) > 1:
        raise Malformed("more than one resource is named: request one token per resource", Code.AUDIENCE_AMBIGUOUS)
    return targets.pop() if targets else None


@lru_cache(maxsize=1024)
def _canonical(name: str, value: str) -> str:
    """Return an audience in canonical form; the same few are asked for all the time."""
    try:
        return canonical_audience(value, name)
    except Malformed as error:
        raise Malformed(error.public, Code.AUDIENCE_NOT_ALLOWED) from error


def _issued(issued: Issued) -> web.Response:
    claims = issued.claims
    return oauth_answer(
        {
            "access_token": issued.token,
            "token_type": "Bearer" if claims.jkt is None else "DPoP",
            "expires_in": claims.exp - claims.iat,
            "scope": " ".join(claims.scopes),
        }
    )
