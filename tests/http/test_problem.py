from __future__ import annotations

import json
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import BrokerError, Code, Refused
from broker.http.problem import (
    OAUTH_ERRORS,
    PROBLEMS,
    ascii_text,
    oauth_body,
    oauth_error,
    oauth_status,
    problem_body,
    status_of,
)

REGISTERED = {
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_target",
    "invalid_authorization_details",
    "invalid_dpop_proof",
    "use_dpop_nonce",
    "invalid_token",
    "insufficient_scope",
    "temporarily_unavailable",
    "server_error",
    "authorization_pending",
    "slow_down",
    "access_denied",
    "expired_token",
}
"""The IANA registry of OAuth extension errors, those of RFC 6749 and of OpenID CIBA that we use."""


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_status_a_title_and_an_oauth_error(code: Code) -> None:
    """Both tables are total: no code can ever be raised that has no form on the wire."""
    status, title = PROBLEMS[code]
    assert 400 <= status < 600
    assert title
    assert OAUTH_ERRORS[code] in REGISTERED
    assert oauth_status(code) in {400, 405, 408, 413, 429, 500, 503}


def test_the_tables_have_nothing_else() -> None:
    """No entry of either table is for a code that does not exist."""
    assert set(PROBLEMS) == set(OAUTH_ERRORS) == set(Code)


@pytest.mark.parametrize(
    ("code", "as_grant", "error"),
    [
        (Code.ASSERTION_INVALID, False, "invalid_client"),
        (Code.ASSERTION_INVALID, True, "invalid_grant"),
        (Code.ASSERTION_REPLAYED, False, "invalid_client"),
        (Code.ASSERTION_REPLAYED, True, "invalid_grant"),
        (Code.SCOPE_NOT_ALLOWED, True, "invalid_scope"),
        (Code.CLIENT_AUTHENTICATION_FAILED, True, "invalid_client"),
    ],
)
def test_an_assertion_is_a_client_or_a_grant(code: Code, as_grant: bool, error: str) -> None:
    """A bad assertion is the client's failure when it authenticates one, and the grant's when it is the grant."""
    assert oauth_error(code, as_grant=as_grant) == error


def test_failures_of_ours_are_never_the_callers() -> None:
    """What the broker cannot do now is a server error at both kinds of endpoint, so that callers try again."""
    for code in (
        Code.RULES_STALE,
        Code.LEDGER_UNAVAILABLE,
        Code.LEDGER_CORRUPT,
        Code.ISSUER_UNAVAILABLE,
        Code.OVERLOADED,
        Code.STOPPING,
    ):
        assert status_of(code) is HTTPStatus.SERVICE_UNAVAILABLE
        assert oauth_status(code) is HTTPStatus.SERVICE_UNAVAILABLE


@given(st.text())
def test_descriptions_are_ascii_without_quotes(text: str) -> None:
    """``error_description`` has only the characters that RFC 6749 allows, whatever text it comes from."""
    description = ascii_text(text)
    assert len(description) == len(text)
    assert all("\x20" <= character <= "\x7e" and character not in '"\\' for character in description)


def test_a_refusal_can_be_quoted_to_an_operator() -> None:
    """The reference of a recorded refusal is in both forms; one that was not recorded has none."""
    refused = Refused(Code.SCOPE_NOT_ALLOWED, 'the scope "ö" is not allowed', refusal="ref_01")
    body = json.loads(oauth_body(refused, as_grant=False))
    assert body == {
        "error": "invalid_scope",
        "error_description": "the scope '?' is not allowed",
        "code": "scope_not_allowed",
        "refusal": "ref_01",
    }
    problem = json.loads(problem_body(refused, "https://broker.example", "req_1"))
    assert problem["refusal"] == "ref_01"
    assert "refusal" not in json.loads(oauth_body(BrokerError(Code.NO_ROLE, "no"), as_grant=False))


def test_problem_details() -> None:
    """Problem details have every member of RFC 9457, the stable code, and the request id to look for in the log."""
    problem = json.loads(problem_body(BrokerError(Code.NOT_FOUND, "no such rule"), "https://broker.example", "req_1"))
    assert problem == {
        "type": "https://broker.example/problems/not_found",
        "title": "Not found",
        "status": 404,
        "detail": "no such rule",
        "instance": "req_1",
        "code": "not_found",
    }
