"""A bare aiohttp handler that answers with a body like an introspection's: the floor to compare with."""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import web

BODY = (
    b'{"active":true,"token_type":"Bearer","iss":"http://127.0.0.1:8640","sub":"prod-cluster/support/triage",'
    b'"aud":"https://tickets.internal","client_id":"prod-cluster/support/triage","iat":1795300000,"nbf":1795300000,'
    b'"exp":1795300900,"jti":"tok_01M82JE1HP18Q92WZ7TWZ07FNS","scope":"tickets:read","broker":{"epoch":0,'
    b'"task":"task_01M82JE1HP18Q92WZ7TWZ07FNT","role":"triage","tier":"read","issuer":"prod-cluster"}}'
)


async def answer(request: web.Request) -> web.Response:
    """Read the body and answer."""
    await request.read()
    return web.Response(body=BODY, content_type="application/json")


async def _main(port: int) -> None:
    app = web.Application()
    app.router.add_post("/oauth2/introspect", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
