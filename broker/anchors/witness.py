"""A witness: a service of others that checks that our ledger only grows, and signs that it saw it.

Source: C2SP tlog-witness (https://c2sp.org/tlog-witness), the call ``add-checkpoint``.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from broker.core.errors import AnchorFailed, Code, Unavailable
from broker.core.pacing import retry_after
from broker.outbound import Destination, Outbound, Reply
from broker.ports import Clock, Placed, Prove, SignedHead
from broker.signing.checkpoint import NoteError
from broker.signing.cosignature import Cosignatures, parse_witness_key, verified_cosignatures

SIZE_TYPE: Final = "text/x.tlog.size"
MAX_ANSWER: Final = 16 * 1024
MAX_PROOF: Final = 63
"""The most hashes that a witness takes; no tree needs more."""

AHEAD_SECONDS: Final = 300
"""How far the clock of a witness may be ahead of ours."""

_SIZE: Final = re.compile(rb"(0|[1-9][0-9]{0,18})\n")
_RESYNCS: Final = 2
"""How often a witness may name another size in one attempt: once in earnest, and once for one that came meanwhile."""


class WitnessAnchor:
    """Has checkpoints cosigned (port ``Anchor``). Belongs to one event loop."""

    remembers: Final = False

    def __init__(self, url: str, vkey: str, outbound: Outbound, destination: Destination, *, clock: Clock) -> None:
        """``url`` is the submission prefix; ``vkey`` the verifier key of the witness. Raises ``VerifierKeyError``."""
        self._url = f"{url.rstrip('/')}/add-checkpoint"
        self._key = parse_witness_key(vkey)
        self._outbound = outbound
        self._destination = destination
        self._clock = clock
        self._size = 0

    async def place(self, checkpoint: SignedHead, prove: Prove, /) -> Placed:
        """Submit a checkpoint with the proof from what the witness saw last; return its verified cosignatures."""
        for _ in range(_RESYNCS + 1):
            proof = await self._proof(checkpoint, prove)
            reply = await self._post(_request(self._size, proof, checkpoint.note))
            if reply.status != HTTPStatus.CONFLICT:
                cosigned = self._cosigned(checkpoint, reply)
                self._size = checkpoint.size
                return Placed(f"cosigned at {cosigned.at} by {self._key.name}", cosigned.lines)
            self._resync(checkpoint, reply)
        raise AnchorFailed(Code.ANCHOR_REFUSED, "the witness names another size each time it is asked")

    async def latest(self) -> None:
        """A witness does not say what it holds: there is nothing to ask it (see ``remembers``)."""

    async def close(self) -> None:
        """There is nothing to give back: the client is not ours."""

    async def _proof(self, checkpoint: SignedHead, prove: Prove) -> Sequence[bytes]:
        if self._size > checkpoint.size:
            seen, self._size = self._size, 0  # the next attempt asks the witness again
            text = f"the witness has seen {seen} entries, but the ledger has {checkpoint.size}"
            raise AnchorFailed(Code.ANCHOR_INCONSISTENT, text)
        return (await prove(self._size))[:MAX_PROOF]

    async def _post(self, body: bytes) -> Reply:
        try:
            return await self._outbound.post(
                self._url, body, self._destination, headers={"Content-Type": "text/plain"}, max_bytes=MAX_ANSWER
            )
        except Unavailable as error:
            raise AnchorFailed(Code.ANCHOR_UNAVAILABLE, error.public) from error

    def _resync(self, checkpoint: SignedHead, reply: Reply) -> None:
        """Take the size that the witness names. Raises if it has the size that it was asked for, and another root."""
        kind = reply.headers.get("Content-Type", "").partition(";")[0].strip()
        match = _SIZE.fullmatch(reply.body) if kind == SIZE_TYPE else None
        told = int(match[1]) if match else self._size
        if told == self._size:
            if told == checkpoint.size:
                text = f"the witness has seen another tree of {told} entries than the ledger has"
                raise AnchorFailed(Code.ANCHOR_INCONSISTENT, text)
            raise AnchorFailed(Code.ANCHOR_REFUSED, "the witness answered with a conflict, and names no other size")
        before, self._size = self._size, told
        if told < before:
            text = f"the witness has seen {told} entries, and cosigned {before} before"
            raise AnchorFailed(Code.ANCHOR_LOST, text)

    def _cosigned(self, checkpoint: SignedHead, reply: Reply) -> Cosignatures:
        if reply.status != HTTPStatus.OK:
            raise self._refusal(reply)
        try:
            cosigned = verified_cosignatures(checkpoint.note, reply.body.decode(), self._key)
        except (NoteError, UnicodeDecodeError) as error:
            text = "the witness answered with something else than a good cosignature by its key"
            raise AnchorFailed(Code.ANCHOR_REFUSED, text) from error
        if cosigned.at > self._clock.now() + AHEAD_SECONDS:
            raise AnchorFailed(Code.ANCHOR_REFUSED, "the cosignature is of a time that has not come yet")
        return cosigned

    def _refusal(self, reply: Reply) -> AnchorFailed:
        if (known := _REFUSALS.get(reply.status)) is not None:
            return AnchorFailed(*known)
        text = f"the witness answered with status {reply.status}"
        if reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR or reply.status == HTTPStatus.TOO_MANY_REQUESTS:
            wait = retry_after(reply.headers.get("Retry-After"), self._clock.now())
            return AnchorFailed(Code.ANCHOR_UNAVAILABLE, text, retry_after=None if wait is None else int(wait))
        return AnchorFailed(Code.ANCHOR_REFUSED, text)


_REFUSALS: Final[Mapping[int, tuple[Code, str]]] = {
    HTTPStatus.NOT_FOUND: (Code.ANCHOR_REFUSED, "the witness does not know this ledger"),
    HTTPStatus.FORBIDDEN: (Code.ANCHOR_REFUSED, "the witness does not know the key of this ledger"),
    HTTPStatus.UNPROCESSABLE_ENTITY: (
        Code.ANCHOR_INCONSISTENT,
        "the witness finds that the ledger does not continue what it has seen",
    ),
}
"""What the statuses mean for which the specification has a meaning."""


def _request(old: int, proof: Sequence[bytes], note: str) -> bytes:
    hashes = [base64.b64encode(digest).decode() for digest in proof]
    return "\n".join([f"old {old}", *hashes, "", note]).encode()
