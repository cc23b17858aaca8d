"""``/status/lists``: Token Status Lists, which anybody may read."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from broker.core.errors import BrokerError, Code
from broker.core.status_list import TTL, TYP
from broker.http.answer import public_document
from broker.http.call import Call
from broker.http.credentials import catch_up

_TYPE: Final = f"application/{TYP}"


async def show(call: Call) -> web.Response:
    """``GET /status/lists/{id}``: a list as of now.

    It is as true as an introspection, and only then: what was committed before is in it, or there is none.
    """
    if "time" in call.request.query:
        raise BrokerError(Code.HISTORY_NOT_KEPT, "time: a status list is told as it is now, not as it was")
    await catch_up(call)
    token = await call.services.status_lists.current(call.path_value("id"))
    return public_document(call, token.encode(), _TYPE, TTL)
