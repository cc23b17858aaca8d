"""Refusals: how an error looks at the kind of endpoint where it happened."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from aiohttp import hdrs, web
from multidict import CIMultiDict

from broker.core.errors import BrokerError, Code, Refused
from broker.http.answer import JSON, NO_STORE
from broker.http.call import Call
from broker.http.challenge import BASIC, challenges
from broker.http.paths import OAUTH_PATHS
from broker.http.problem import PROBLEM_JSON, oauth_body, oauth_error, oauth_status, problem_body, status_of

_RETRY_LATER: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_UNSURE: Final = 1
"""Seconds to name in ``Retry-After`` when nothing better is known."""


def refusal(call: Call, error: BrokerError) -> web.Response:
    """Return the answer that an error is: an OAuth error at the OAuth endpoints, problem details elsewhere."""
    speaks_oauth = _speaks_oauth(call)
    headers: CIMultiDict[str] = CIMultiDict({hdrs.CACHE_CONTROL: NO_STORE})
    if speaks_oauth:
        headers[hdrs.CONTENT_TYPE] = JSON
        body = oauth_body(error, as_grant=call.as_grant)
        status = _oauth_status(call, error, headers)
    else:
        headers[hdrs.CONTENT_TYPE] = PROBLEM_JSON
        body = problem_body(error, call.site.issuer, call.caller.request_id)
        status = status_of(error.code)
        _challenge(call, error, headers)
    if error.code is Code.METHOD_NOT_ALLOWED:
        headers[hdrs.ALLOW] = _allowed(call.request)
    if error.code is Code.PROOF_NONCE_REQUIRED:
        headers["DPoP-Nonce"] = call.services.nonce(call.services.clock.now())
    _say_when(error, status, headers)
    return web.Response(body=body, status=status, headers=headers)


def _speaks_oauth(call: Call) -> bool:
    if call.route is not None:
        return call.route.speaks_oauth
    return call.request.path in OAUTH_PATHS


def _oauth_status(call: Call, error: BrokerError, headers: CIMultiDict[str]) -> HTTPStatus:
    """Return the status, and add the challenge that a 401 must have.

    A failed client authentication is 401 only if the client used the ``Authorization`` header: with Basic (RFC 6749,
    5.2) or an access token; or if the endpoint is a protected resource. Else it is 400 and needs no challenge.
    """
    if call.used_basic and oauth_error(error.code, as_grant=call.as_grant) == "invalid_client":
        headers.add(hdrs.WWW_AUTHENTICATE, BASIC)
        return HTTPStatus.UNAUTHORIZED
    is_protected = call.used_token or (call.route is not None and call.route.protected)
    if is_protected and _challenge(call, error, headers):
        return status_of(error.code)
    return oauth_status(error.code)


def _challenge(call: Call, error: BrokerError, headers: CIMultiDict[str]) -> bool:
    if isinstance(error, Refused) and error.code is Code.INSUFFICIENT_SCOPE:
        return False  # the caller has the scope of the route, which a challenge would name: something else lacks one
    access = None if call.route is None else call.route.access
    found = challenges(call.site, error.code, access if isinstance(access, str) else None)
    for challenge in found:
        headers.add(hdrs.WWW_AUTHENTICATE, challenge)
    return bool(found)


def _allowed(request: web.Request) -> str:
    problem = request.match_info.http_exception
    return ", ".join(sorted(problem.allowed_methods)) if isinstance(problem, web.HTTPMethodNotAllowed) else ""


def _say_when(error: BrokerError, status: HTTPStatus, headers: CIMultiDict[str]) -> None:
    """Say when trying again may help, with the fields that rate-limited clients read."""
    if status not in _RETRY_LATER:
        return
    seconds = error.retry_after or _UNSURE
    headers[hdrs.RETRY_AFTER] = str(seconds)
    if error.code is Code.RATE_LIMITED:
        headers["RateLimit"] = f'"default";r=0;t={seconds}'
