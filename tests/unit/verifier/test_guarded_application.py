"""An aiohttp application behind a verifier, over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from broker.client import DpopKey
from broker.verifier import Verifier, metadata_url
from broker.verifier.aiohttp import VERIFIED, guard, metadata_route, protecting
from tests.support.fake_broker import FakeBroker
from tests.support.virtual_time import VirtualTime

METADATA = "/.well-known/oauth-protected-resource"


class Site:
    """A running application: one guarded handler, one open one, and one behind the middleware only."""

    def __init__(self) -> None:
        self.url = ""
        self.ran = 0
        self.session = aiohttp.ClientSession()

    async def get(self, path: str, token: str | None = None, **headers: str) -> aiohttp.ClientResponse:
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with self.session.get(self.url + path, headers=headers) as response:
            await response.read()
        return response


async def serve(app: web.Application, port: int) -> tuple[web.AppRunner, str]:
    """Run an application; return its runner and URL."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@pytest.fixture
def audience(unused_port: int) -> str:
    """The URL of the guarded application, which is its audience."""
    return f"http://127.0.0.1:{unused_port}"


@pytest.fixture
async def guarded(broker: FakeBroker, time: VirtualTime, audience: str) -> AsyncIterator[Verifier]:
    """A verifier of the application."""

    async def own_token() -> str:
        return broker.mint(aud=f"{broker.url}/v1", scopes=("revocations:read",))

    verifier = Verifier(
        broker.url, audience, credentials=own_token, resource_metadata=metadata_url(audience), timing=time.timing()
    )
    await verifier.poll()
    yield verifier
    await verifier.close()


@pytest.fixture
async def site(guarded: Verifier, unused_port: int) -> AsyncIterator[Site]:
    """The guarded application, running."""
    made = Site()

    @guard(guarded, scopes=("tickets:read",))
    async def read(request: web.Request) -> web.Response:
        made.ran += 1
        return web.json_response({"for": request[VERIFIED].claims.client_id})

    @guard(guarded, "tickets:comment")
    async def comment(_request: web.Request) -> web.Response:
        made.ran += 1
        return web.Response()

    async def plain(_request: web.Request) -> web.Response:
        made.ran += 1
        return web.Response()

    app = web.Application(middlewares=[protecting(guarded, public=("/healthz",))])
    app.router.add_get("/tickets/{id}", read)
    app.router.add_get("/comments", comment)
    app.router.add_get("/plain", plain)
    app.router.add_get("/healthz", plain)
    app.router.add_routes([metadata_route(guarded, scopes=("tickets:read", "tickets:comment"), name="Tickets")])
    runner, made.url = await serve(app, unused_port)
    yield made
    await made.session.close()
    await runner.cleanup()


@pytest.fixture
def token(broker: FakeBroker, audience: str) -> str:
    """A token for the application."""
    return broker.mint(aud=audience)


async def test_a_good_token_reaches_the_handler(site: Site, token: str) -> None:
    """Which sees whose it is."""
    response = await site.get("/tickets/8812", token)
    assert response.status == 200
    assert await response.json() == {"for": "triage"}


async def test_without_a_token_the_client_is_told_where_to_get_one(site: Site, audience: str) -> None:
    """401 without an error, with the metadata of this resource and both schemes."""
    response = await site.get("/tickets/8812")
    assert response.status == 401
    bearer, dpop = response.headers.getall("WWW-Authenticate")
    assert bearer == f'Bearer resource_metadata="{audience}{METADATA}"'
    assert dpop.startswith("DPoP algs=")
    assert response.content_type == "application/problem+json"
    assert (await response.json())["code"] == "token_missing"
    assert site.ran == 0


async def test_a_missing_scope_is_403(site: Site, token: str) -> None:
    """With all that is needed."""
    response = await site.get("/comments", token)
    assert response.status == 403
    challenge = response.headers.getall("WWW-Authenticate")[0]
    assert 'scope="tickets:comment"' in challenge
    assert 'error="insufficient_scope"' in challenge
    assert site.ran == 0


async def test_a_revoked_token_is_401(site: Site, broker: FakeBroker, guarded: Verifier, token: str) -> None:
    """With ``invalid_token``, upon which clients get a new one."""
    broker.revoke(agent="triage")
    await guarded.poll()
    response = await site.get("/tickets/8812", token)
    assert response.status == 401
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]
    assert (await response.json())["code"] == "token_revoked"


async def test_a_stale_view_is_503(site: Site, time: VirtualTime, token: str) -> None:
    """With ``Retry-After``, and no challenge that would make a client throw its token away."""
    time.advance(11)
    response = await site.get("/tickets/8812", token)
    assert response.status == 503
    assert response.headers["Retry-After"] == "1"
    assert "WWW-Authenticate" not in response.headers
    assert (await response.json())["code"] == "view_stale"


async def test_everything_is_guarded_but_what_is_public(site: Site, token: str) -> None:
    """A route that nobody thought of, known or not, needs a token."""
    assert (await site.get("/plain")).status == 401
    assert (await site.get("/nowhere")).status == 401
    assert (await site.get("/healthz")).status == 200
    assert (await site.get("/healthz/")).status == 401
    assert (await site.get("/plain", token)).status == 200
    assert (await site.get("/nowhere", token)).status == 404


async def test_a_token_in_the_query_is_no_token(site: Site, token: str) -> None:
    """Query strings end up in logs."""
    assert (await site.get(f"/tickets/8812?access_token={token}")).status == 401


async def test_two_authorizations_are_a_bad_request(site: Site, token: str) -> None:
    """It is not guessed which one is meant."""
    headers = [("Authorization", f"Bearer {token}"), ("Authorization", "Bearer x")]
    async with site.session.get(f"{site.url}/plain", headers=headers) as response:
        assert response.status == 400


async def test_a_proof_is_checked_once_per_request(site: Site, broker: FakeBroker, time: VirtualTime) -> None:
    """Middleware and decorator together do not take the proof for a replay; a second request with it is one."""
    key = DpopKey.generate()
    bound = broker.mint(aud=site.url, jkt=key.thumbprint)
    proof = key.proof("GET", f"{site.url}/tickets/8812", now=time.wall, access_token=bound)
    headers = {"Authorization": f"DPoP {bound}", "DPoP": proof}
    assert (await site.get("/tickets/8812", None, **headers)).status == 200
    response = await site.get("/tickets/8812", None, **headers)
    assert response.status == 401
    assert 'error="invalid_dpop_proof"' in response.headers.getall("WWW-Authenticate")[1]


async def test_the_host_header_is_not_believed(site: Site, broker: FakeBroker, time: VirtualTime) -> None:
    """A proof for another site stays one, whatever the request says about its host."""
    key = DpopKey.generate()
    bound = broker.mint(aud=site.url, jkt=key.thumbprint)
    proof = key.proof("GET", "http://evil.example/plain", now=time.wall, access_token=bound)
    headers = {"Authorization": f"DPoP {bound}", "DPoP": proof, "Host": "evil.example"}
    assert (await site.get("/plain", None, **headers)).status == 401


async def test_the_metadata_names_the_broker(site: Site, broker: FakeBroker, audience: str) -> None:
    """Anybody may read it (RFC 9728)."""
    response = await site.get(METADATA)
    assert response.status == 200
    assert await response.json() == {
        "resource": audience,
        "authorization_servers": [broker.url],
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": ["ES256", "RS256"],
        "scopes_supported": ["tickets:read", "tickets:comment"],
        "resource_name": "Tickets",
    }
    assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_a_token_for_another_guard_is_checked_anew(guarded: Verifier, broker: FakeBroker, token: str) -> None:
    """A handler that belongs to another audience does not accept what the middleware accepted for its own."""

    async def own_token() -> str:
        return broker.mint(aud=f"{broker.url}/v1", scopes=("revocations:read",))

    other = Verifier(broker.url, "https://payments.internal", credentials=own_token)

    @guard(other)
    async def pay(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(middlewares=[protecting(guarded)])
    app.router.add_get("/pay", pay)
    runner, url = await serve(app, 0)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/pay", headers={"Authorization": f"Bearer {token}"}) as response,
    ):
        assert response.status in (401, 503)
    await runner.cleanup()
    await other.close()
