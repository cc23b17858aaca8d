"""What can go wrong with AWS, in words for an operator, and never in AWS's own: those may repeat what they are about.

Two of boto's errors hold the body of an answer, or the parameters of a request, in their text. So none of them is kept
as a cause; what remains is the code of AWS's error, which says enough.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from botocore import exceptions as boto  # type: ignore[import-untyped]
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

from broker.core.errors import BackendFailed, BrokerError, Code

RETRY_SECONDS: Final = 5
"""After how many seconds to try again."""

NO_CREDENTIALS: Final = "NoCredentials"
"""The :attr:`AwsFailed.error` of a request that was not sent because the broker has no credentials of its own."""

EXPIRED: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "RequestExpired", "UnrecognizedClientException"}
)
"""AWS's errors about credentials that were good once, perhaps: others may be there by now."""

MISSING: Final = frozenset({"NoSuchEntity", "NoSuchEntityException", "ResourceNotFoundException"})
"""AWS's errors about what is not there."""

_THROTTLED: Final = frozenset(
    {
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_BUSY: Final = frozenset({"ConcurrentModification", "IDPCommunicationError"})
_DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500
_ERROR: Final = re.compile(r"[A-Za-z][A-Za-z0-9.]{0,63}")


class AwsFailed(BackendFailed):
    """AWS did not do what it was asked. ``error`` is the code of its own error; empty if it did not give one."""

    def __init__(
        self, code: Code, public: str, *, error: str = "", uncertain: bool = False, retry_after: int | None = None
    ) -> None:
        """``error`` consists of ASCII letters, digits and dots."""
        super().__init__(code, public, uncertain=uncertain, retry_after=retry_after)
        self.error = error


def refused(text: str, *, error: str = "", uncertain: bool = False, retry_after: int | None = None) -> AwsFailed:
    """Return the failure that somebody must change something; ``retry_after`` (seconds) if time may do it as well."""
    return AwsFailed(Code.BACKEND_REFUSED, text, error=error, uncertain=uncertain, retry_after=retry_after)


def unavailable(text: str, *, error: str = "", uncertain: bool = False) -> AwsFailed:
    """Return the failure that it may work later."""
    return AwsFailed(Code.BACKEND_UNAVAILABLE, text, error=error, uncertain=uncertain, retry_after=RETRY_SECONDS)


def failure(name: str, what: str, error: Exception) -> AwsFailed:
    """Say what an error of a request means; ``what`` names its action and its resource, ``name`` the backend."""
    match error:
        case AwsFailed():
            return error
        case BrokerError():
            return unavailable(f"{name}: {what}: the broker cannot say who it is now ({error.code.value})")
        case boto.ClientError():
            return _answered(name, what, error.response)
        case boto.SSLError() if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return refused(f"{name}: {what}: the certificate of the endpoint is not trusted here")
    for kinds, make, text, marks in _UNANSWERED:
        if isinstance(error, kinds):
            return make(f"{name}: {what}: {text}", **marks)
    return refused(f"{name}: {what}: the answer cannot be used ({type(error).__name__})", uncertain=True)


_UNANSWERED: Final[Sequence[tuple[tuple[type[Exception], ...], Callable[..., AwsFailed], str, Mapping[str, Any]]]] = (
    (
        (boto.EndpointConnectionError, boto.ConnectTimeoutError, boto.ProxyConnectionError),
        unavailable,
        "AWS cannot be reached",
        {},
    ),
    ((boto.ReadTimeoutError,), unavailable, "AWS did not answer in time", {"uncertain": True}),
    ((boto.HTTPClientError, boto.SSLError), unavailable, "the connection broke", {"uncertain": True}),
    ((ResponseParserError,), unavailable, "the answer cannot be read", {"uncertain": True}),
    ((boto.MetadataRetrievalError,), unavailable, "the machine does not give its credentials now", {}),
    (
        (
            boto.NoCredentialsError,
            boto.PartialCredentialsError,
            boto.CredentialRetrievalError,
            boto.ProfileNotFound,
            boto.ConfigParseError,
            boto.SSOError,
            boto.LoginError,
        ),
        refused,
        "the broker has no AWS credentials of its own here",
        {"error": NO_CREDENTIALS},
    ),
    (
        (boto.ParamValidationError, boto.ValidationError, boto.EndpointProviderError),
        refused,
        "the request is not valid and was not sent",
        {},
    ),
)
"""What it means that there is no answer, by the error that boto raises; the first that fits."""


def _answered(name: str, what: str, response: Any) -> AwsFailed:  # noqa: ANN401 - boto's own structure
    said = response.get("Error", {}).get("Code")
    error = said if isinstance(said, str) and _ERROR.fullmatch(said) else ""
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if error in _THROTTLED or status == _TOO_MANY:
        return unavailable(f"{name}: {what}: AWS throttles the broker ({error or status})", error=error)
    if error in _BUSY:
        return unavailable(f"{name}: {what}: AWS cannot now ({error})", error=error)
    if status >= _SERVER_ERROR:
        return unavailable(f"{name}: {what}: AWS failed ({error or status})", error=error, uncertain=True)
    if error in EXPIRED:
        return refused(f"{name}: {what}: AWS does not take the broker's own credentials ({error})", error=error)
    if error in _DENIED:
        return refused(f"{name}: {what}: not allowed ({error})", error=error)
    return refused(f"{name}: {what}: AWS refused ({error or status})", error=error)
