"""DPoP (RFC 9449): the proof that whoever sends a request holds a key, and that it was made for this request."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final
from urllib.parse import SplitResult, urlsplit

from broker.core import base64url
from broker.core.errors import BrokerError, Code
from broker.core.jwk import JWKError, VerificationKey, parse_jwk
from broker.core.jwt import DPOP_PROOF, MAX_ID, InvalidToken, Unverified, parse, verify

ALGORITHMS: Final = tuple(sorted(DPOP_PROOF.algorithms))
"""What proofs may be signed with; named in metadata and challenges."""

WINDOW: Final = 60
"""By how many seconds ``iat`` may differ from now."""

WINDOW_WITH_NONCE: Final = 300
"""The same, for a proof with a nonce of ours: the nonce shows that it was not made long ago."""

NONCE_SECONDS: Final = 120
"""A nonce is made anew this often, and accepted until the next one ends."""

MAX_PROOF: Final = 4 * 1024
MAX_REMEMBERED: Final = 100_000
PROOF_SHARES: Final = 4
"""One agent may use this part of the room for used proofs in a minute, so that none can lock the others out."""

_NONCE_SIZE: Final = 16
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_PERCENT: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_UNCLEAR: Final = re.compile(r"[^!-~]|[\\]|%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Proof:
    """A good proof; ``jkt`` is the thumbprint of its key (RFC 7638).

    It may be used once: ``replay_key`` (SHA-256) names it, and from ``expires_at`` (Unix seconds) on it is refused as
    too old, so that nobody needs to remember it.
    """

    jkt: str
    jti: str
    replay_key: bytes
    expires_at: int


# --- proofs ---------------------------------------------------------------------------------------------------------


def check_proof(
    proof: str,
    *,
    method: str,
    url: str,
    now: float,
    access_token: str | None = None,
    nonce_key: bytes | None = None,
) -> Proof:
    """Check a DPoP proof for one request (RFC 9449, 4.3), all but replay.

    ``url`` is the request's URL as configured, never from ``Host``. With ``access_token`` the proof must be bound to
    it. With ``nonce_key`` the proof must hold one of our nonces (:func:`make_nonce`), which widens the window for
    ``iat``. Raises ``BrokerError`` with ``PROOF_INVALID``, or ``PROOF_NONCE_REQUIRED`` if it lacks a fresh nonce.
    """
    token, key = _parse(proof)
    try:
        claims = verify(token, DPOP_PROOF, key, issuer=None, audiences=None, now=now, skew=WINDOW_WITH_NONCE)
    except InvalidToken as error:
        raise _invalid(str(error)) from error
    if claims["htm"] != method:
        raise _invalid("htm is not the method of this request")
    if not _same_url(claims["htu"], url):
        raise _invalid("htu is not the URL of this request")
    if access_token is not None and claims.get("ath") != _ath(access_token):
        raise _invalid("ath is not the hash of the access token")
    if nonce_key is not None and not is_nonce(nonce_key, claims.get("nonce"), now):
        raise BrokerError(Code.PROOF_NONCE_REQUIRED, "the proof must hold the nonce that this answer gives")
    window = WINDOW if nonce_key is None else WINDOW_WITH_NONCE
    iat = claims["iat"]
    if not now - window <= iat <= now + window:
        raise _invalid("iat is too far from now; look at the clock")
    jti = claims["jti"]
    replay_key = hashlib.sha256(f"dpop\n{key.thumbprint}\n{jti}".encode()).digest()
    return Proof(jkt=key.thumbprint, jti=jti, replay_key=replay_key, expires_at=int(iat + window) + 1)


def _parse(proof: str) -> tuple[Unverified, VerificationKey]:
    """Take a proof apart and read the key in its header."""
    try:
        token = parse(proof, max_bytes=MAX_PROOF)
        jwk = token.header.get("jwk")
        key = parse_jwk(jwk)
    except InvalidToken as error:
        raise _invalid(str(error)) from error
    except JWKError as error:
        raise _invalid(f"jwk: {error}") from error
    return token, key


def _invalid(why: str) -> BrokerError:
    return BrokerError(Code.PROOF_INVALID, f"DPoP proof: {why}")


def _ath(access_token: str) -> str:
    return base64url.encode(hashlib.sha256(access_token.encode("utf-8", "surrogatepass")).digest())


# --- URLs -----------------------------------------------------------------------------------------------------------


def _same_url(claimed: object, expected: str) -> bool:
    if not isinstance(claimed, str):
        return False
    normal = normal_url(claimed)
    return claimed == expected or (normal is not None and normal == normal_url(expected))


def normal_url(url: str) -> str | None:
    """Return a URL without query and fragment, in normal form (RFC 3986, 6.2.2 and 6.2.3), or None if it is none.

    Scheme and host are in lower case, the default port is left out, an empty path is ``/``, escapes of characters that
    need none are undone, other escapes are in upper case, and dot segments are removed.
    """
    if len(url) > MAX_PROOF or _UNCLEAR.search(url):
        return None  # what two parsers could read in two ways
    try:
        parts = urlsplit(url)
        origin = _origin(parts)
    except ValueError:
        return None
    return None if origin is None else origin + _without_dots(_PERCENT.sub(_unescape, parts.path))


def _origin(parts: SplitResult) -> str | None:
    host, port, scheme = parts.hostname, parts.port, parts.scheme
    if scheme not in _DEFAULT_PORTS or not host or "@" in parts.netloc or not host.isascii():
        return None
    host = f"[{host}]" if ":" in host else _PERCENT.sub(_unescape, host)
    suffix = "" if port is None or port == _DEFAULT_PORTS[scheme] else f":{port}"
    return f"{scheme}://{host.lower()}{suffix}"


def _unescape(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if character in _UNRESERVED else escape[0].upper()


def _without_dots(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")[1:] or [""]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


# --- nonces ---------------------------------------------------------------------------------------------------------


def make_nonce(key: bytes, now: float) -> str:
    """Return the nonce of this time. It holds no state: whoever has ``key`` (32 secret bytes) can check it."""
    return _nonce(key, int(now // NONCE_SECONDS))


def is_nonce(key: bytes, nonce: object, now: float) -> bool:
    """Whether this is the nonce of this time or of the time before."""
    if not isinstance(nonce, str) or not nonce.isascii() or len(nonce) > MAX_ID:
        return False
    bucket = int(now // NONCE_SECONDS)
    good = [hmac.compare_digest(nonce, _nonce(key, time)) for time in (bucket, bucket - 1)]
    return any(good)


def _nonce(key: bytes, bucket: int) -> str:
    mac = hmac.digest(key, b"dpop-nonce\n" + str(bucket).encode(), "sha256")
    return base64url.encode(mac[:_NONCE_SIZE])


# --- replay ---------------------------------------------------------------------------------------------------------


class ReplayWindow:
    """Remembers used proofs until they have expired, in memory, up to a bound.

    For one process: whoever runs several and wants each proof used once among all of them needs a shared store. When it
    is full of proofs that have not expired, new ones are refused: forgetting one would let it be used again.
    """

    def __init__(self, size: int = MAX_REMEMBERED, *, since: float = 0.0) -> None:
        """``size`` is how many proofs are remembered at most, about 200 bytes each.

        ``since`` (Unix seconds) is when this memory begins. A proof without a nonce that was made in an earlier second
        may have been used before, by whoever was restarted since, and is refused.
        """
        self._size = size
        self._first_end = int(since) + WINDOW + 1
        self._used: set[bytes] = set()
        self._ends: list[tuple[int, bytes]] = []

    def use(self, key: bytes, expires_at: int, now: float) -> bool:
        """Use a proof up. Returns False if it was or may have been used before, has expired, or there is no room."""
        while self._ends and self._ends[0][0] <= now:
            self._used.discard(heappop(self._ends)[1])
        if expires_at < self._first_end or expires_at <= now or key in self._used or len(self._used) >= self._size:
            return False
        self._used.add(key)
        heappush(self._ends, (expires_at, key))
        return True

    def __len__(self) -> int:
        return len(self._used)
