"""What a request presents to say who it is: access tokens, proofs and client assertions, found but not judged."""

from __future__ import annotations

import re
from typing import Final

from aiohttp import hdrs, web

from broker.admission import Presented
from broker.core.errors import BrokerError, Code, Malformed, Unavailable
from broker.http.call import Call
from broker.http.forms import Form
from broker.ports import UnverifiedAssertion

ASSERTION_TYPES: Final = {
    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer": False,
    "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe": True,
}
"""The client assertion types, and whether each is the SPIFFE one."""

DPOP: Final = "DPoP"
MAX_PROOF: Final = 16 * 1024

_ATTESTATION: Final = "OAuth-Client-Attestation"
_TOKEN68: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_TOKEN_SCHEMES: Final = frozenset({"bearer", "dpop"})


def authorization(request: web.Request) -> tuple[str, str] | None:
    """Return scheme (in lower case) and credentials of the ``Authorization`` header. Raises ``Malformed`` if twice."""
    if hdrs.AUTHORIZATION not in request.headers:
        return None
    values = request.headers.getall(hdrs.AUTHORIZATION)
    if len(values) > 1:
        raise Malformed("Authorization: given twice")
    scheme, _, credentials = values[0].partition(" ")
    return scheme.lower(), credentials.strip(" ")


def dpop_proof(request: web.Request) -> str | None:
    """Return the DPoP proof, if there is one. Raises ``BrokerError`` (``PROOF_INVALID``) if there are several."""
    if DPOP not in request.headers:
        return None
    values = request.headers.getall(DPOP)
    if len(values) > 1:
        raise BrokerError(Code.PROOF_INVALID, "DPoP: more than one proof")
    if len(values[0]) > MAX_PROOF:
        raise BrokerError(Code.PROOF_INVALID, f"DPoP: longer than {MAX_PROOF} characters")
    return values[0]


def presented_token(call: Call) -> Presented | None:
    """Return the access token that a request presents, or None if it presents none.

    The URL that a proof must name is built from the configured issuer, whatever the request says about its host.
    """
    found = authorization(call.request)
    if found is None or found[0] not in _TOKEN_SCHEMES:
        return None
    scheme, token = found
    call.used_token = True
    if _TOKEN68.fullmatch(token) is None:
        raise BrokerError(Code.TOKEN_INVALID, "the token is not a valid access token")
    return Presented(
        scheme=scheme,
        token=token,
        proof=dpop_proof(call.request),
        method=call.request.method,
        url=f"{call.site.issuer}{call.request.rel_url.raw_path}",
        revokes=_revokes(call),
    )


async def admit(call: Call, presented: Presented) -> None:
    """Admit whoever presents a token, by all that was committed before. Raises what admission raises."""
    await catch_up(call)
    call.admit(await call.services.admission.by_token(presented))


async def catch_up(call: Call) -> None:
    """See that everything is in force here that was committed before. Raises ``Unavailable`` (``RULES_STALE``).

    But those who revoke go on by what this process knows: that must work whatever fails (law 1), and gives nobody
    anything.
    """
    try:
        await call.services.freshness.ensure()
    except Unavailable:
        if not _revokes(call):
            raise


def _revokes(call: Call) -> bool:
    return call.route is not None and call.route.revokes


def client_assertion(call: Call, form: Form) -> UnverifiedAssertion | None:
    """Return the client assertion of an OAuth request, or None if the client did not authenticate at all.

    Raises ``BrokerError`` for several methods at once (``CLIENT_AUTHENTICATION_AMBIGUOUS``) and for one that is not
    offered (``CLIENT_AUTHENTICATION_FAILED``): shared secrets, and half an assertion.
    """
    header = authorization(call.request)
    call.used_basic = header is not None and header[0] == "basic"
    by_assertion = "client_assertion" in form or "client_assertion_type" in form
    methods = (header is not None, "client_secret" in form, _ATTESTATION in call.request.headers, by_assertion)
    if sum(methods) > 1:
        raise BrokerError(Code.CLIENT_AUTHENTICATION_AMBIGUOUS, "use one way to authenticate the client, not several")
    if not any(methods):
        return None
    if not by_assertion:
        text = "this way to authenticate is not offered: use private_key_jwt or a platform's token as client_assertion"
        raise BrokerError(Code.CLIENT_AUTHENTICATION_FAILED, text)
    is_spiffe = ASSERTION_TYPES.get(form.get("client_assertion_type") or "")
    token = form.get("client_assertion")
    if is_spiffe is None or token is None:
        text = f"client_assertion needs a client_assertion_type of {' or '.join(ASSERTION_TYPES)}"
        raise BrokerError(Code.CLIENT_AUTHENTICATION_FAILED, text)
    return UnverifiedAssertion(token, spiffe=is_spiffe)
