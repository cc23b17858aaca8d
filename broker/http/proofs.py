"""Receipts and tiles: what convinces somebody who trusts neither the broker nor its database."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import hdrs, web

from broker.core.errors import BrokerError, Code
from broker.core.tiles import parse_tile_path
from broker.http.answer import NO_STORE, answer
from broker.http.call import Call
from broker.http.paging import only, whole_number

_TEXT: Final = "text/plain; charset=utf-8"
_BYTES: Final = "application/octet-stream"
_UNCHANGING: Final = "private, max-age=31536000, immutable"
"""For whoever asked, and nobody else: it was read with a token."""


async def receipt(call: Call) -> web.Response:
    """``GET /v1/ledger/receipt/{seq}``: that an entry is in the ledger, offline verifiable (C2SP tlog-proof)."""
    only(call.request)
    found = await call.services.receipts.of(whole_number("seq", call.path_value("seq")))
    return web.Response(body=found.receipt.encode(), headers={hdrs.CONTENT_TYPE: _TEXT, hdrs.CACHE_CONTROL: NO_STORE})


async def own(call: Call) -> web.Response:
    """``GET /v1/receipts/{ref}``: an entry about the caller, byte for byte, with its receipt."""
    only(call.request)
    found = await call.services.receipts.of_own(call.path_value("ref"), call.operator.agent.id)
    entry = msgspec.Raw(found.record.body)
    return answer({"seq": found.record.seq, "entry": entry, "receipt": found.receipt})


async def tile(call: Call) -> web.Response:
    """``GET /v1/ledger/tile/{tile}``: hashes of the tree, or entries, 256 at most (C2SP tlog-tiles)."""
    only(call.request)
    wanted = parse_tile_path(call.path_value("tile"))
    if wanted is None:
        raise BrokerError(Code.NOT_FOUND, "no tile is called so")
    content = await call.services.proofs.tile(wanted)
    return web.Response(body=content, headers={hdrs.CONTENT_TYPE: _BYTES, hdrs.CACHE_CONTROL: _UNCHANGING})
