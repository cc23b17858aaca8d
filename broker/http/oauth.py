"""The token endpoint: from bytes to a typed request, in the order that the protocol sheet (B.2) gives."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from aiohttp import web

from broker.core.audience import canonical_audience
from broker.core.details import parse_details
from broker.core.errors import BrokerError, Code, Malformed
from broker.core.grant import Ask
from broker.core.identity import MAX_ID
from broker.core.policy import BROKER
from broker.core.revoking import check_text
from broker.core.scope import parse_scopes
from broker.core.task import parse_task_id
from broker.http.answer import oauth_answer
from broker.http.bodies import read_form
from broker.http.call import Call
from broker.http.credentials import client_assertion, dpop_proof
from broker.http.forms import Form
from broker.http.identity_tokens import JWT_TYPE, identity_answer, read_identity_ask
from broker.issuance import Exchange, Issued, TokenRequest
from broker.ports import UnverifiedAssertion

CLIENT_CREDENTIALS: Final = "client_credentials"
JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
CIBA: Final = "urn:openid:params:grant-type:ciba"
GRANT_TYPES: Final = (CLIENT_CREDENTIALS, JWT_BEARER, TOKEN_EXCHANGE, CIBA)
"""The grant types that work; the metadata names exactly these."""

ACCESS_TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:access_token"
ID_TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:id_token"
SUBJECT_TOKEN_TYPES: Final = (ACCESS_TOKEN_TYPE, ID_TOKEN_TYPE, JWT_TYPE)
"""What can be exchanged: access tokens of ours, and what trusted issuers say of the agents that they vouch for."""

MAX_WAIT: Final = 25.0
"""Seconds that a token request may wait for a person's decision."""

_AUTH_REQ_ID: Final = re.compile(r"apr_[0-9A-Z]{26}")


async def token(call: Call) -> web.Response:
    """``POST /oauth2/token``: answer with a token, which is durable in the ledger by then."""
    if call.request.query_string:
        raise Malformed("send parameters in the body: this endpoint takes none in its URL")
    form = await read_form(call)
    request = parse_token_request(call, form)
    if request.exchange is not None and request.exchange.identity:
        identity = await call.services.identities.issue(request, call.caller)
        call.agent = identity.claims.agent
        return identity_answer(identity, with_index=call.site.index_in_answers)
    issued = await call.services.issuance.issue(request, call.caller)
    call.agent = issued.claims.client_id
    return _issued(issued, with_index=call.site.index_in_answers)


def parse_token_request(call: Call, form: Form) -> TokenRequest:
    """Read a token request. Nothing in it is verified yet. Raises ``BrokerError`` by the sheet's order of checks.

    The order of what can be seen in the form alone; what the assertion and the policy say comes after it, so a
    malformed request uses up no assertion.
    """
    client = client_assertion(call, form)
    grant_type = form.get("grant_type")
    exchange: Exchange | None = None
    if grant_type == JWT_BEARER:
        assertion: UnverifiedAssertion | None = _assertion_grant(call, form, client)
    elif grant_type == TOKEN_EXCHANGE:
        assertion, exchange = _exchange(form, client)
    else:
        assertion = _client(grant_type, client)
    return TokenRequest(
        assertion=assertion,
        ask=read_identity_ask(form) if exchange is not None and exchange.identity else _ask(call, form),
        client_id=form.get("client_id"),
        proof=dpop_proof(call.request),
        exchange=exchange,
        auth_req_id=_auth_req_id(form, required=grant_type == CIBA),
        takes_over=grant_type == CIBA,
        wait=_preferred_wait(call.request),
        break_glass=_break_glass(form),
    )


def _client(grant_type: str | None, client: UnverifiedAssertion | None) -> UnverifiedAssertion:
    """Return the client's authentication, which these grants need (protocol sheet B.2, steps 3 to 5)."""
    if client is None:
        raise BrokerError(Code.CLIENT_AUTHENTICATION_MISSING, "authenticate the client with a client_assertion")
    if grant_type is None:
        raise Malformed("grant_type: missing")
    if grant_type not in (CLIENT_CREDENTIALS, CIBA):
        text = f"grant_type: must be {' or '.join(GRANT_TYPES)}"
        raise BrokerError(Code.UNSUPPORTED_GRANT_TYPE, text)
    return client


def _assertion_grant(call: Call, form: Form, client: UnverifiedAssertion | None) -> UnverifiedAssertion:
    """Return the assertion of a ``jwt-bearer`` grant (RFC 7523, 2.1), which is all the authentication it needs."""
    if client is not None:
        text = "the assertion says who is asking: send no client_assertion besides it"
        raise BrokerError(Code.CLIENT_AUTHENTICATION_AMBIGUOUS, text)
    call.as_grant = True
    return UnverifiedAssertion(form.require("assertion"), as_grant=True)


def _exchange(form: Form, client: UnverifiedAssertion | None) -> tuple[UnverifiedAssertion | None, Exchange]:
    """Return who acts, and what is exchanged (RFC 8693, 2.1). The client acts, unless an actor token says who does."""
    brought = _brought(form)
    actor, actor_type = form.get("actor_token"), form.get("actor_token_type")
    if (actor is None) != (actor_type is None):
        raise Malformed("actor_token and actor_token_type: send both or neither")
    if actor is None:
        if client is None:
            text = "authenticate the client with a client_assertion, or send an actor_token"
            raise BrokerError(Code.CLIENT_AUTHENTICATION_MISSING, text)
        return client, brought
    if client is not None:
        text = "the actor_token says who is acting: send no client_assertion besides it"
        raise BrokerError(Code.CLIENT_AUTHENTICATION_AMBIGUOUS, text)
    if actor_type == ACCESS_TOKEN_TYPE:
        return None, replace(brought, actor_token=actor)
    if actor_type != JWT_TYPE:
        text = f"actor_token_type: must be {ACCESS_TOKEN_TYPE} or {JWT_TYPE}"
        raise Malformed(text, Code.TOKEN_TYPE_NOT_SUPPORTED)
    return UnverifiedAssertion(actor, as_grant=True), replace(brought, actor_asserted=True)


def _brought(form: Form) -> Exchange:
    """Return which token is to be exchanged, and for what: an identity token only for one of ours."""
    requested = form.get("requested_token_type")
    if requested not in (None, ACCESS_TOKEN_TYPE, JWT_TYPE):
        text = f"requested_token_type: must be {ACCESS_TOKEN_TYPE} or {JWT_TYPE}"
        raise Malformed(text, Code.TOKEN_TYPE_NOT_SUPPORTED)
    identity = requested == JWT_TYPE
    subject, subject_type = form.require("subject_token"), form.require("subject_token_type")
    accepted = (ACCESS_TOKEN_TYPE,) if identity else SUBJECT_TOKEN_TYPES
    if subject_type not in accepted:
        raise Malformed(f"subject_token_type: must be {', '.join(accepted)}", Code.TOKEN_TYPE_NOT_SUPPORTED)
    return Exchange(subject_token=subject, vouched=subject_type != ACCESS_TOKEN_TYPE, identity=identity)


def _auth_req_id(form: Form, *, required: bool) -> str | None:
    text = form.require("auth_req_id") if required else form.get("auth_req_id")
    if text is not None and _AUTH_REQ_ID.fullmatch(text) is None:
        raise Malformed("auth_req_id: not one that this broker gave")
    return text


def _break_glass(form: Form) -> str | None:
    reason = form.get("break_glass")
    if reason is not None:
        check_text("break_glass", reason)
    return reason


def _preferred_wait(request: web.Request) -> float:
    """Return how many seconds the client would wait for a decision: ``Prefer: wait=N`` (RFC 7240, 4.3)."""
    for header in request.headers.getall("Prefer", ()):
        for preference in header.split(","):
            name, _, value = preference.partition(";")[0].strip().partition("=")
            if name.strip().lower() == "wait" and value.strip().isascii() and value.strip().isdigit():
                return min(float(value.strip()[:4]), MAX_WAIT)
    return 0


def _ask(call: Call, form: Form) -> Ask:
    audience = _target(call, form)
    scope, task, details = form.get("scope"), form.get("task"), form.get("authorization_details")
    return Ask(
        audience=audience,
        scopes=None if scope is None else parse_scopes(scope),
        task=None if task is None else parse_task_id(task),
        details=None if details is None else parse_details(details),
        may_act=_may_act(form),
    )


def _may_act(form: Form) -> str | None:
    """Return the only agent that the token may be handed on to: ``may_act``, an agent id."""
    agent = form.get("may_act")
    if agent is not None and (len(agent) > MAX_ID or not agent.isprintable()):
        raise Malformed(f"may_act: must be an agent id of 1 to {MAX_ID} printable characters")
    return agent


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


def _issued(issued: Issued, *, with_index: bool) -> web.Response:
    claims = issued.claims
    body: dict[str, Any] = {
        "access_token": issued.token,
        "token_type": "Bearer" if claims.jkt is None else "DPoP",
        "expires_in": claims.exp - claims.iat,
        "scope": " ".join(claims.scopes),
    }
    if claims.details:
        body["authorization_details"] = [dict(element) for element in claims.details]
    if issued.exchanged:
        body["issued_token_type"] = ACCESS_TOKEN_TYPE
    if with_index:
        body["ledger_index"] = issued.seq
    return oauth_answer(body)
