"""Whether a token request is for the broker's own API: what operators need before they can revoke anything."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from broker.core.policy import BROKER
from broker.http.call import Call
from broker.http.paths import TOKEN

_NAMES: Final = (b"resource=", b"audience=")


async def signs_in(call: Call) -> bool:
    """Whether a request that would be turned away names the broker's own API as the audience of the token it asks for.

    Only what has been received already is looked at, and it is not read further than that: it may be a lie, which gets
    it no more than a place among few.
    """
    request, audience = call.request, call.site.api_audience
    if call.route is None or call.route.path != TOKEN or not request.content.is_eof():
        return False
    if request.content_length is None or request.content_length > call.site.body_bytes:
        return False
    body = await request.read()
    wanted = {BROKER.encode(), audience.encode(), quote(audience, safe="").encode()}
    return any(
        parameter.startswith(_NAMES) and parameter.partition(b"=")[2] in wanted for parameter in body.split(b"&")
    )
