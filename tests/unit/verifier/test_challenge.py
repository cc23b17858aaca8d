"""What a client is told when it is refused."""

import pytest

from broker.core.errors import BrokerError, Code, Unavailable
from broker.verifier import answer, metadata_path, metadata_url

METADATA = "https://tickets.internal/.well-known/oauth-protected-resource"


def challenges(error: BrokerError, **arguments: object) -> list[str]:
    """The challenges of an answer."""
    told = answer(error, **arguments)  # type: ignore[arg-type]
    return [value for name, value in told.headers if name == "WWW-Authenticate"]


def test_no_token_is_no_error() -> None:
    """Without a token the challenge says where to get one and what for, and names no error (RFC 6750, 3.1)."""
    error = BrokerError(Code.TOKEN_MISSING, "send a token")
    bearer, dpop = challenges(error, scopes=("tickets:read",), resource_metadata=METADATA)
    assert bearer == f'Bearer resource_metadata="{METADATA}", scope="tickets:read"'
    assert dpop.startswith('DPoP algs="ES256')
    assert "error" not in dpop
    assert answer(error).status == 401


@pytest.mark.parametrize("code", [Code.TOKEN_INVALID, Code.TOKEN_EXPIRED, Code.TOKEN_REVOKED, Code.TOKEN_AUDIENCE])
def test_a_bad_token_is_invalid_token(code: Code) -> None:
    """Clients act on ``invalid_token`` by getting a new one."""
    told = answer(BrokerError(code, "it is bad"))
    assert told.status == 401
    assert 'Bearer error="invalid_token", error_description="it is bad"' in dict(told.headers).values() or any(
        'Bearer error="invalid_token"' in value for _, value in told.headers
    )


def test_a_bad_proof_is_told_to_dpop_clients_only() -> None:
    """The Bearer challenge has no such error."""
    bearer, dpop = challenges(BrokerError(Code.PROOF_INVALID, "bad proof"))
    assert "error" not in bearer
    assert 'error="invalid_dpop_proof"' in dpop


def test_a_missing_scope_is_403_and_names_all_that_are_needed() -> None:
    """A client can step up with one more request."""
    error = BrokerError(Code.INSUFFICIENT_SCOPE, "more")
    assert answer(error).status == 403
    bearer = challenges(error, scopes=("a", "b"))[0]
    assert 'scope="a b"' in bearer
    assert 'error="insufficient_scope"' in bearer


def test_a_stale_view_is_not_the_clients_fault() -> None:
    """It is told to come back, and not to throw its token away."""
    told = answer(Unavailable(Code.VIEW_STALE, "stale", retry_after=1))
    assert told.status == 503
    assert ("Retry-After", "1") in told.headers
    assert not any(name == "WWW-Authenticate" for name, _ in told.headers)


def test_an_unexpected_code_tells_nothing() -> None:
    """What this module does not know is our own failure."""
    told = answer(BrokerError(Code.LEDGER_CORRUPT, "internal detail"))
    assert told.status == 500
    assert (told.code, told.detail, told.headers) == ("internal", "internal error", ())


def test_too_many_proofs_are_429() -> None:
    """With the time to wait, and no challenge."""
    told = answer(BrokerError(Code.RATE_LIMITED, "slow down", retry_after=60))
    assert told.status == 429
    assert told.headers == (("Cache-Control", "no-store"), ("Retry-After", "60"))


def test_nothing_can_break_out_of_a_challenge() -> None:
    """Quotes, backslashes, line ends and non-ASCII are replaced."""
    bearer = challenges(BrokerError(Code.TOKEN_INVALID, 'a"b\\c\r\nX-Evil: 1 € ü'))[0]
    assert bearer == "Bearer error=\"invalid_token\", error_description=\"a'b'c''X-Evil: 1 ' '\""


@pytest.mark.parametrize(
    ("resource", "url"),
    [
        ("https://tickets.internal", "https://tickets.internal/.well-known/oauth-protected-resource"),
        ("https://tickets.internal/", "https://tickets.internal/.well-known/oauth-protected-resource"),
        ("https://h.example:8443/a/b", "https://h.example:8443/.well-known/oauth-protected-resource/a/b"),
    ],
)
def test_metadata_is_where_the_rfc_puts_it(resource: str, url: str) -> None:
    """The well-known path goes between host and path (RFC 9728, 3.1)."""
    assert metadata_url(resource) == url
    assert url.endswith(metadata_path(resource))
