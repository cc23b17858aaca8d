"""Receipts of what was issued to the agent: that the broker's ledger has it, to be shown to others later."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from broker.client.api import Api
from broker.client.errors import ApiUnavailable
from broker.client.pending import is_count
from broker.client.token import Token
from broker.core.entry import encode
from broker.core.jwt import parse


@dataclass(frozen=True, slots=True)
class Receipt:
    """An entry of the ledger at place ``seq``: its canonical bytes, and a receipt (C2SP tlog-proof) that it is there.

    Whoever has the two and the broker's verifier key can verify them without the broker: ``broker ledger
    verify-receipt``.
    """

    seq: int
    entry: bytes
    text: str


async def ask_receipt(api: Api, of: Token | str, scope: str) -> Receipt:
    """Return the receipt of a token, or of what a reference names; see :meth:`broker.client.Client.receipt`."""
    ref = of if isinstance(of, str) else parse(of.access_token).names("jti") or ""
    body = await api.send("GET", f"/v1/receipts/{quote(ref, safe='')}", scope)
    seq, entry, text = body.get("seq"), body.get("entry"), body.get("receipt")
    if not (is_count(seq) and isinstance(entry, dict) and isinstance(text, str)):
        raise ApiUnavailable("the broker's answer is not a receipt")
    try:
        return Receipt(seq, encode(entry), text)
    except ValueError as error:
        raise ApiUnavailable("the broker's answer has no usable entry") from error
