"""Where a token is looked for in a request, and where it is not."""

import pytest

from broker.core.errors import BrokerError, Code
from broker.verifier.presented import Presented, presented


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("Authorization", "Bearer abc.def.ghi")], Presented("bearer", "abc.def.ghi")),
        ([("authorization", "bEaReR  abc=")], Presented("bearer", "abc=")),
        ([("AUTHORIZATION", "DPoP abc"), ("dpop", " p.r.f ")], Presented("dpop", "abc", "p.r.f")),
        ([("Authorization", "Bearer abc"), ("DPoP", "p.r.f")], Presented("bearer", "abc")),
    ],
)
def test_a_token_is_found(headers: list[tuple[str, str]], expected: Presented) -> None:
    """Schemes and header names have no case; the proof belongs to the DPoP scheme only."""
    assert presented(headers) == expected


def test_headers_may_be_a_mapping() -> None:
    """A plain dictionary does as well."""
    assert presented({"Authorization": "Bearer abc"}).token == "abc"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([], Code.TOKEN_MISSING),
        ([("Authorization", "")], Code.TOKEN_MISSING),
        ([("Authorization", "Basic YTpi")], Code.TOKEN_MISSING),
        ([("X-Authorization", "Bearer abc")], Code.TOKEN_MISSING),
        ([("Authorization", "Bearer")], Code.TOKEN_INVALID),
        ([("Authorization", "Bearer a b")], Code.TOKEN_INVALID),
        ([("Authorization", "Bearer a, Bearer b")], Code.TOKEN_INVALID),
        ([("Authorization", "Bearer a\tb")], Code.TOKEN_INVALID),
        ([("Authorization", "Bearer äöü")], Code.TOKEN_INVALID),
        ([("Authorization", "Bearer a"), ("authorization", "Bearer b")], Code.MALFORMED_REQUEST),
        ([("Authorization", "DPoP abc")], Code.PROOF_REQUIRED),
        ([("Authorization", "DPoP abc"), ("DPoP", "1"), ("dpop", "2")], Code.PROOF_INVALID),
    ],
)
def test_anything_else_is_refused(headers: list[tuple[str, str]], code: Code) -> None:
    """Each way to be wrong has its code, and the text repeats nothing of what was sent."""
    with pytest.raises(BrokerError) as caught:
        presented(headers)
    assert caught.value.code is code


def test_a_presented_token_is_not_shown() -> None:
    """Neither token nor proof is part of ``repr``."""
    assert "canary" not in repr(Presented("dpop", "canary-token", "canary-proof"))
