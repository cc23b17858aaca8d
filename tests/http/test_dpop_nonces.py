"""DPoP nonces of the token endpoint (RFC 9449, 8): demanded when the settings say so, given with the refusal."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key

from broker.client import Client, DpopKey, KeyIdentity
from broker.core.jwk import public_jwk
from tests.support.broker_app import BrokerApp, Template, running_app

TICKETS = "https://tickets.internal"
DEMANDED = "dpop_nonces = true\n"


def _proof(app: BrokerApp, key: EllipticCurvePrivateKey, nonce: str | None, late: int = 0) -> str:
    """Return a proof for the token endpoint, made by a clock that is ``late`` seconds behind."""
    claims = {
        "htm": "POST",
        "htu": app.issuer + "/oauth2/token",
        "iat": int(time.time()) - late,
        "jti": str(uuid.uuid4()),
    }
    if nonce is not None:
        claims["nonce"] = nonce
    headers = {"typ": "dpop+jwt", "jwk": public_jwk(key.public_key())}
    return jwt.encode(claims, key, algorithm="ES256", headers=headers)


async def test_a_proof_without_a_nonce_is_told_which_to_use(template: Template, tmp_path: Path) -> None:
    """The refusal names a nonce; a proof with it is taken, even from a clock that is minutes off; no made-up one is."""
    key = generate_private_key(SECP256R1())
    async with running_app(template, tmp_path, settings=DEMANDED) as app:

        async def ask(nonce: str | None, late: int = 0) -> tuple[int, str, str | None]:
            form = app.form("alpha", resource=TICKETS, scope="tickets:read")
            reply = await app.ask(form, {"DPoP": _proof(app, key, nonce, late)})
            said = reply.json.get("error", reply.json.get("token_type"))
            return reply.status, said, reply.headers.get("DPoP-Nonce")

        status, error, nonce = await ask(None)
        assert (status, error) == (400, "use_dpop_nonce")
        assert nonce
        assert (await ask(nonce))[:2] == (200, "DPoP")
        assert (await ask(nonce, late=240))[:2] == (200, "DPoP")
        assert (await ask(nonce, late=400))[:2] == (400, "invalid_dpop_proof")
        assert (await ask("made-up"))[:2] == (400, "use_dpop_nonce")


async def test_our_own_client_follows(template: Template, tmp_path: Path) -> None:
    """An agent that uses ``broker.client`` gets its token without knowing of nonces."""
    async with running_app(template, tmp_path, settings=DEMANDED) as app:
        identity = KeyIdentity("alpha", app.keys["alpha"])
        async with Client(app.issuer, identity=identity, dpop=DpopKey.generate()) as client:
            token = await client.token(TICKETS, ["tickets:comment"])
    assert token.token_type == "DPoP"


async def test_without_the_setting_nobody_is_asked(template: Template, tmp_path: Path) -> None:
    """By default a proof needs no nonce, and one that has any is as good."""
    key = generate_private_key(SECP256R1())
    async with running_app(template, tmp_path) as app:
        for nonce in (None, "any"):
            form = app.form("alpha", resource=TICKETS, scope="tickets:read")
            assert (await app.ask(form, {"DPoP": _proof(app, key, nonce)})).status == 200
