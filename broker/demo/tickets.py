"""A ticket system as a resource server: it checks every token offline with ``broker.verifier``.

Run: ``python -m broker.demo.tickets PORT BROKER_URL KEY_FILE``. It authenticates to the broker with its own registered
key (agent ``tickets``) and polls the signed list of revocation rules. Before it makes a refund it asks the broker
whether the task still has one.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiohttp import web
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker.client import Client, KeyIdentity
from broker.verifier import Actions, Verifier
from broker.verifier.aiohttp import VERIFIED, budgeted, guard

POLL_SECONDS = 0.1


def application(verifier: Verifier, actions: Actions) -> web.Application:
    """Return the ticket system: each route needs a scope, and refunds are counted."""

    @guard(verifier, scopes=("tickets:read",))
    async def read(request: web.Request) -> web.Response:
        return web.json_response({"ticket": request.match_info["id"], "for": request[VERIFIED].claims.client_id})

    @guard(verifier, scopes=("tickets:comment",))
    async def comment(request: web.Request) -> web.Response:
        return web.json_response({"commented": request.match_info["id"]}, status=201)

    @budgeted(verifier, actions, "refunds:create")
    async def refund(request: web.Request) -> web.Response:
        return web.json_response({"refunded": request.match_info["id"]}, status=201)

    async def health(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.router.add_get("/tickets/{id}", read)
    app.router.add_post("/tickets/{id}/comments", comment)
    app.router.add_post("/orders/{id}/refunds", refund)
    app.router.add_get("/healthz", health)
    return app


async def _main(port: int, broker: str, identity: KeyIdentity) -> None:
    async with (
        Client(broker, identity=identity) as client,
        Verifier(broker, f"http://127.0.0.1:{port}", credentials=client, poll=POLL_SECONDS) as verifier,
        Actions(broker, credentials=client) as actions,
    ):
        runner = web.AppRunner(application(verifier, actions), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    private_key = load_pem_private_key(Path(sys.argv[3]).read_bytes(), password=None)
    asyncio.run(_main(int(sys.argv[1]), sys.argv[2], KeyIdentity("tickets", private_key)))
