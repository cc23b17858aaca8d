"""Signing in to a real OpenBao in every way, and staying signed in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from broker.backends.vault_server import SignIn
from broker.core.errors import BackendFailed, Code, Unavailable
from broker.core.secret import Secret
from tests.support.certificates import certificate_for_loopback
from tests.support.identity_provider import IdentityProvider
from tests.support.openbao import OpenBao
from tests.support.vault_backends import (
    VALUE,
    AheadClock,
    backend_on,
    broker_token,
    order,
    taken,
    tells_nothing,
    token_file,
)


def logins(bao: OpenBao, mount: str = "approle") -> int:
    """How often somebody signed in."""
    return len(bao.asked(f"auth/{mount}/login"))


@pytest.fixture(scope="module")
def approle(bao: OpenBao, tmp_path_factory: pytest.TempPathFactory) -> SignIn:
    """How to sign in by AppRole; tokens live for an hour."""
    role_id, secret_id = bao.with_approle()
    path = tmp_path_factory.mktemp("approle") / "secret-id"
    path.write_text(secret_id)
    return SignIn(method="approle", role_id=role_id, secret_id_file=str(path))


# --- ways of signing in ---------------------------------------------------------------------------------------------


async def test_by_approle(bao: OpenBao, approle: SignIn) -> None:
    """With a role id, and a secret id from a file."""
    async with backend_on(bao.url, approle) as backend:
        assert (await taken(backend, order(VALUE))).handle["kind"] == "static"


async def test_by_a_token_from_a_file(bao: OpenBao, tmp_path: Path) -> None:
    """White space around it is no part of it."""
    async with backend_on(bao.url, token_file(tmp_path, f"  {broker_token(bao)}\n")) as backend:
        assert (await taken(backend, order(VALUE))).handle["kind"] == "static"


async def test_by_an_identity_token_that_the_broker_signs(bao: OpenBao) -> None:
    """There is nothing to keep: OpenBao fetches the broker's keys, and believes what it signs for that audience."""
    asked: list[str] = []
    async with IdentityProvider(time.time, audience="https://vault.internal") as broker:
        await asyncio.to_thread(
            bao.with_jwt, broker.url, audience="https://vault.internal", subject="broker", mount="jwt-broker"
        )

        async def own_token(audience: str) -> Secret:
            asked.append(audience)
            return Secret(broker.key.sign(broker.claims("broker", 300, aud=audience)))

        sign_in = SignIn(method="jwt", mount="jwt-broker", role="broker", audience="https://vault.internal")
        async with backend_on(bao.url, sign_in, own_token=own_token) as backend:
            assert (await taken(backend, order(VALUE))).handle["kind"] == "static"
        assert asked == ["https://vault.internal"]

        elsewhere = SignIn(method="jwt", mount="jwt-broker", role="broker")
        async with backend_on(bao.url, elsewhere, own_token=own_token) as backend:
            with pytest.raises(BackendFailed) as failure:
                await backend.prepare(order(VALUE))
        assert asked[1:] == [bao.url]
        assert failure.value.code is Code.BACKEND_REFUSED
        assert "sign in by jwt (auth/jwt-broker/login)" in failure.value.public


async def test_a_broker_that_cannot_sign_says_so() -> None:
    """Without its key ring there is no signing in; it may work later."""

    async def own_token(audience: str) -> Secret:
        raise Unavailable(Code.INTERNAL, "no key")

    async with backend_on("http://127.0.0.1:9", SignIn(method="jwt", role="broker"), own_token=own_token) as backend:
        with pytest.raises(BackendFailed) as failure:
            await backend.prepare(order(VALUE))
    assert (failure.value.code, failure.value.uncertain) == (Code.BACKEND_UNAVAILABLE, False)


@asynccontextmanager
async def api_server(reviewed: list[str]) -> AsyncIterator[str]:
    """What OpenBao needs of a cluster: it asks it whether a service account's token is good."""

    async def review(request: web.Request) -> web.Response:
        spec = (await request.json())["spec"]
        reviewed.append(spec["token"])
        user = {"username": "system:serviceaccount:broker:broker", "uid": "u-1", "groups": ["system:serviceaccounts"]}
        status = {"authenticated": True, "audiences": ["https://vault.internal"], "user": user}
        kind = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
        return web.json_response({**kind, "status": status}, status=201)

    application = web.Application()
    application.router.add_post("/apis/authentication.k8s.io/v1/tokenreviews", review)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_by_a_service_account_of_kubernetes(bao: OpenBao, tmp_path: Path) -> None:
    """With the token that the cluster projects into the broker's container; it is read anew at each sign-in."""
    cluster = IdentityProvider(time.time, audience="https://vault.internal")
    bound = {"namespace": "broker", "serviceaccount": {"name": "broker", "uid": "u-1"}}
    token = cluster.kubernetes("broker", "broker", iss="https://kubernetes.default.svc", **{"kubernetes.io": bound})
    reviewed: list[str] = []
    async with api_server(reviewed) as url:
        root, _ = certificate_for_loopback(tmp_path)
        bao.call("POST", "sys/auth/cluster", {"type": "kubernetes"})
        config = {"kubernetes_host": url, "kubernetes_ca_cert": root.read_text(), "disable_local_ca_jwt": True}
        bao.call("POST", "auth/cluster/config", {**config, "token_reviewer_jwt": "reviewer"})
        role = {"bound_service_account_names": ["broker"], "bound_service_account_namespaces": ["broker"]}
        audience = "https://vault.internal"
        bao.call("POST", "auth/cluster/role/broker", {**role, "audience": audience, "token_policies": ["broker"]})
        path = tmp_path / "token"
        path.write_text("expired")
        sign_in = SignIn(method="kubernetes", mount="cluster", role="broker", token_file=str(path))

        async with backend_on(bao.url, sign_in) as backend:
            with pytest.raises(BackendFailed) as failure:
                await backend.prepare(order(VALUE))
            assert failure.value.code is Code.BACKEND_REFUSED
            path.write_text(token)
            assert (await taken(backend, order(VALUE))).handle["kind"] == "static"

    assert reviewed == [token]


# --- staying signed in ----------------------------------------------------------------------------------------------


async def test_all_who_come_at_once_wait_for_one_sign_in(bao: OpenBao, approle: SignIn) -> None:
    """And those who come later need none."""
    before = logins(bao)
    async with backend_on(bao.url, approle) as backend:
        await asyncio.gather(*(backend.prepare(order(VALUE)) for _ in range(20)))
        await backend.prepare(order(VALUE))
    assert logins(bao) == before + 1


async def test_a_caller_that_gives_up_leaves_the_sign_in_to_the_others(bao: OpenBao, approle: SignIn) -> None:
    """The first one began it; it is not undone when that one goes away."""
    before = logins(bao)
    async with backend_on(bao.url, approle) as backend:
        first = asyncio.create_task(backend.prepare(order(VALUE)))
        await asyncio.sleep(0)
        others = [asyncio.create_task(backend.prepare(order(VALUE))) for _ in range(3)]
        await asyncio.sleep(0)
        first.cancel()
        assert all(handle["accessor"] for handle in await asyncio.gather(*others))
    assert logins(bao) == before + 1


async def test_a_token_is_renewed_when_two_thirds_of_its_life_are_over(bao: OpenBao, approle: SignIn) -> None:
    """Before that it is left alone; renewing is no new sign-in."""
    clock, before = AheadClock(), logins(bao)
    renewals = len(bao.asked("auth/token/renew-self"))
    async with backend_on(bao.url, approle, clock=clock) as backend:
        await backend.prepare(order(VALUE, life=40_000))
        clock.ahead = 2300
        await backend.prepare(order(VALUE, life=40_000))
        assert len(bao.asked("auth/token/renew-self")) == renewals
        clock.ahead = 2500
        await asyncio.gather(*(backend.prepare(order(VALUE, life=40_000)) for _ in range(5)))
        assert len(bao.asked("auth/token/renew-self")) == renewals + 1
    assert logins(bao) == before + 1


async def test_a_token_that_cannot_be_renewed_any_more_is_replaced_by_a_sign_in(bao: OpenBao, approle: SignIn) -> None:
    """When its greatest age is near, which the role may have made less since, renewing gains too little."""
    clock = AheadClock()
    try:
        before, renewals = logins(bao), len(bao.asked("auth/token/renew-self"))
        async with backend_on(bao.url, approle, clock=clock) as backend:
            await backend.prepare(order(VALUE))
            bao.call("POST", "auth/approle/role/broker", {"token_ttl": "10m", "token_max_ttl": "10m"})
            clock.ahead = 2500
            await backend.prepare(order(VALUE, life=4000))
        assert len(bao.asked("auth/token/renew-self")) == renewals + 1
        assert logins(bao) == before + 2
    finally:
        bao.call("POST", "auth/approle/role/broker", {"token_ttl": "1h", "token_max_ttl": "24h"})


async def test_a_token_that_dies_behind_the_broker_s_back_is_replaced(bao: OpenBao, approle: SignIn) -> None:
    """One of many requests notices, one sign-in follows, and nobody fails."""
    before = logins(bao)
    async with backend_on(bao.url, approle) as backend:
        handle = await backend.prepare(order(VALUE))
        creator = bao.asked("auth/token/create-orphan")[-1]["auth"]["accessor"]
        bao.call("POST", "auth/token/revoke-accessor", {"accessor": real_accessor(bao, creator)})

        handles = await asyncio.gather(*(backend.prepare(order(VALUE)) for _ in range(5)))

        assert bao.accessor_is_good(handle["task_accessor"])
        assert all(bao.accessor_is_good(each["accessor"]) for each in handles)
    assert logins(bao) == before + 2


def real_accessor(bao: OpenBao, hashed: str) -> str:
    """Find the accessor whose keyed hash the audit file has."""
    for accessor in bao.call("LIST", "auth/token/accessors")["data"]["keys"]:
        if bao.call("POST", "sys/audit-hash/to-file", {"input": accessor})["data"]["hash"] == hashed:
            assert isinstance(accessor, str)
            return accessor
    raise AssertionError(hashed)


async def test_a_lack_of_permission_is_no_reason_to_sign_in_again(
    bao: OpenBao, tmp_path: Path, approle: SignIn
) -> None:
    """Vault answers 403 to both; the broker asks which it is, and does not go round in circles."""
    bao.write_policy("poor", 'path "auth/token/lookup-self" { capabilities = ["read"] }')
    bao.call("POST", "auth/approle/role/poor", {"token_policies": ["poor"]})
    role_id = bao.call("GET", "auth/approle/role/poor/role-id")["data"]["role_id"]
    path = tmp_path / "secret-id"
    path.write_text(bao.call("POST", "auth/approle/role/poor/secret-id")["data"]["secret_id"])
    before = logins(bao)
    async with backend_on(bao.url, SignIn(method="approle", role_id=role_id, secret_id_file=str(path))) as backend:
        for _ in range(3):
            with pytest.raises(BackendFailed) as failure:
                await backend.prepare(order(VALUE))
            assert failure.value.code is Code.BACKEND_REFUSED
            assert 'path "auth/token/create-orphan" { capabilities = ["update"] }' in failure.value.public
    assert logins(bao) == before + 1


async def test_a_dead_token_from_a_file_is_not_tried_for_ever(bao: OpenBao, tmp_path: Path) -> None:
    """The file is read again, once; when it has a good one, all goes on."""
    own = broker_token(bao)
    async with backend_on(bao.url, token_file(tmp_path, own)) as backend:
        await backend.prepare(order(VALUE))
        bao.call("POST", "auth/token/revoke", {"token": own})
        with pytest.raises(BackendFailed) as failure:
            await backend.prepare(order(VALUE))
        assert failure.value.code is Code.BACKEND_REFUSED
        assert "token_file" in failure.value.public
        tells_nothing(failure.value, [own])

        token_file(tmp_path, broker_token(bao))
        assert (await backend.prepare(order(VALUE)))["accessor"]


# --- what an operator can get wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, "", "  \n", "x" * 70_000, "naïve", "s.two words", "s.line\x00"])
async def test_files_that_hold_no_token_are_refused_without_being_told(
    bao: OpenBao, tmp_path: Path, content: str | None
) -> None:
    """The text names the setting, neither the path nor what is in the file."""
    path = tmp_path / "its-own-name"
    if content is not None:
        path.write_text(content)
    async with backend_on(bao.url, SignIn(method="token", token_file=str(path))) as backend:
        with pytest.raises(BackendFailed) as failure:
            await backend.prepare(order(VALUE))
    assert (failure.value.code, failure.value.uncertain) == (Code.BACKEND_REFUSED, False)
    assert "token" in failure.value.public
    assert "its-own-name" not in failure.value.public
    if content is not None and content.strip():
        tells_nothing(failure.value, [content])


async def test_a_secret_id_that_is_wrong_is_not_told(bao: OpenBao, approle: SignIn, tmp_path: Path) -> None:
    """What Vault says about it is."""
    path = tmp_path / "secret-id"
    path.write_text("11111111-2222-3333-4444-555555555555")
    sign_in = SignIn(method="approle", role_id=approle.role_id, secret_id_file=str(path))
    async with backend_on(bao.url, sign_in) as backend:
        with pytest.raises(BackendFailed) as failure:
            await backend.prepare(order(VALUE))
    assert failure.value.code is Code.BACKEND_REFUSED
    assert "sign in by approle" in failure.value.public
    tells_nothing(failure.value, ["11111111-2222-3333-4444-555555555555"])
