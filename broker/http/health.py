"""Whether the broker lives, and whether it can do its work; and its metrics, for the private listener."""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import hdrs, web

from broker.http.answer import NO_STORE, answer
from broker.http.call import Call
from broker.metrics import CONTENT_TYPE


async def alive(_call: Call) -> web.Response:
    """``GET /healthz``: the process answers."""
    return answer({"status": "ok"})


async def ready(call: Call) -> web.Response:
    """``GET /readyz``: 200 if the ledger can be written, keys are loaded and rules are fresh; else 503.

    Strangers may ask, so it says what fails, but not why: the reasons are logged.
    """
    problems = await call.services.health()
    checks = {name: "ok" if problem is None else "failing" for name, problem in problems.items()}
    is_ready = all(problem is None for problem in problems.values())
    status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
    return answer({"status": "ok" if is_ready else "failing", "checks": checks}, status)


async def metrics(call: Call) -> web.Response:
    """``GET /metrics``: all metrics in the Prometheus text format, of all workers."""
    headers = {hdrs.CONTENT_TYPE: CONTENT_TYPE, hdrs.CACHE_CONTROL: NO_STORE}
    return web.Response(body=await call.services.measured(), headers=headers)
