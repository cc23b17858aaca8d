"""Proofs of possession of those who call a resource server (RFC 9449), each good once."""

from __future__ import annotations

from typing import Final

from broker.core.claims import AccessClaims
from broker.core.dpop import MAX_REMEMBERED, check_proof
from broker.core.errors import BrokerError, Code
from broker.core.used_proofs import ProofUse, UsedProofs
from broker.verifier.presented import DPOP, Presented

RETRY_SECONDS: Final = 60


class Proofs:
    """Checks that whoever presents a token that is bound to a key has that key."""

    def __init__(self, since: float, max_proofs: int = MAX_REMEMBERED) -> None:
        """Proofs from before ``since`` (Unix seconds) may have been used; so many others are remembered."""
        self._used = UsedProofs(max_proofs, since=since)

    async def check(
        self, presented: Presented, claims: AccessClaims, *, method: str | None, url: str | None, now: float
    ) -> None:
        """Raise ``BrokerError`` unless the token is presented as it must be: with its proof, or without any."""
        if claims.jkt is None:
            if presented.scheme == DPOP:
                raise BrokerError(Code.TOKEN_INVALID, "the token is not bound to a key: present it as Bearer")
            return
        if presented.proof is None:
            text = "the token is bound to a key: present it with the DPoP scheme and a proof"
            raise BrokerError(Code.TOKEN_INVALID, text)
        if method is None or url is None:
            raise BrokerError(Code.PROOF_INVALID, "a proof is for one method and one URL: both are needed to check it")
        proof = check_proof(presented.proof, method=method, url=url, now=now, access_token=presented.token)
        if proof.jkt != claims.jkt:
            raise BrokerError(Code.PROOF_INVALID, "the proof is made with another key than the token is bound to")
        use = await self._used.use(claims.client_id, proof.replay_key, proof.expires_at, now)
        if use is ProofUse.TOO_MANY:
            text = "too many proofs in a minute; every one has to be remembered"
            raise BrokerError(Code.RATE_LIMITED, text, retry_after=RETRY_SECONDS)
        if use is not ProofUse.FRESH:
            raise BrokerError(Code.PROOF_REPLAYED, "the proof was used before, or may have been: make a new one")
