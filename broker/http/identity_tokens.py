"""Token exchanges (RFC 8693) that ask for an identity token, a ``requested_token_type`` of ``…:jwt``: form, answer."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from broker.core.audience import MAX_AUDIENCE
from broker.core.errors import Code, Malformed
from broker.core.grant import Ask
from broker.core.task import parse_task_id
from broker.http.answer import oauth_answer
from broker.http.forms import Form
from broker.issuance import IssuedIdentity

JWT_TYPE: Final = "urn:ietf:params:oauth:token-type:jwt"

NOT_APPLICABLE: Final = "N_A"
"""The token type of what is no access token (RFC 8693, 2.2.1)."""

_NOT_HERE: Final = ("scope", "authorization_details", "may_act", "break_glass")


def read_identity_ask(form: Form) -> Ask:
    """Return for whom an identity token is asked, and in which task. Raises ``Malformed``.

    Its audience is a name among those who read it, compared character by character; it need not be a URI.
    """
    for name in _NOT_HERE:
        if name in form:
            raise Malformed(f"{name}: an identity token has none, and nobody is asked for one")
    task = form.get("task")
    return Ask(audience=_audience(form), scopes=None, task=None if task is None else parse_task_id(task))


def identity_answer(issued: IssuedIdentity, *, with_index: bool) -> web.Response:
    """Return the answer of the token endpoint (RFC 8693, 2.2.1)."""
    claims = issued.claims
    body: dict[str, Any] = {
        "access_token": issued.token,
        "issued_token_type": JWT_TYPE,
        "token_type": NOT_APPLICABLE,
        "expires_in": claims.exp - claims.iat,
    }
    if with_index:
        body["ledger_index"] = issued.seq
    return oauth_answer(body)


def _audience(form: Form) -> str:
    named = {*form.all("audience"), *form.all("resource")}
    if not named:
        raise Malformed("audience: name whom the identity token is for", Code.AUDIENCE_REQUIRED)
    if len(named) > 1:
        raise Malformed("more than one audience is named: request one token for each", Code.AUDIENCE_AMBIGUOUS)
    audience = named.pop()
    if len(audience) > MAX_AUDIENCE:
        raise Malformed(f"audience: at most {MAX_AUDIENCE} characters", Code.AUDIENCE_NOT_ALLOWED)
    return audience
