"""A reader of Token Status Lists written from the standard alone: it knows nothing of rules, and shares no code."""

from __future__ import annotations

import base64
import json
import time
import urllib.parse
import zlib
from typing import Any

import aiohttp
import jwt


class Unusable(Exception):
    """What was fetched says nothing of the token: it must be refused."""


async def fetch(http: aiohttp.ClientSession, uri: str) -> str:
    """Fetch a Status List Token as the standard says that a Relying Party does."""
    async with http.get(uri, headers={"Accept": "application/statuslist+jwt"}) as reply:
        if reply.status != 200 or reply.content_type != "application/statuslist+jwt":
            raise Unusable(f"answered {reply.status} {reply.content_type}")
        return await reply.text()


async def keys(http: aiohttp.ClientSession, issuer: str) -> dict[str, jwt.PyJWK]:
    """Fetch the keys of an issuer."""
    async with http.get(f"{issuer}/oauth2/jwks.json") as reply:
        return {key.key_id: key for key in jwt.PyJWKSet.from_dict(await reply.json()).keys if key.key_id}


def bits_of(status_list: str, uri: str, known: dict[str, jwt.PyJWK]) -> tuple[int, bytes]:
    """Validate a Status List Token; return how many bits a status has, and all of them."""
    header = jwt.get_unverified_header(status_list)
    if header.get("typ") != "statuslist+jwt":
        raise Unusable("is no status list")
    required = ["sub", "iat", "exp", "ttl", "status_list"]
    options: Any = {"require": required, "verify_aud": False}
    claims = jwt.decode(status_list, known[header["kid"]], algorithms=["ES256"], options=options)
    if claims["sub"] != uri or claims["iat"] > time.time() + 5 or claims["ttl"] <= 0:
        raise Unusable("is another list, or of another time")
    return claims["status_list"]["bits"], decoded(claims["status_list"]["lst"])


def decoded(lst: str) -> bytes:
    """Return the bits in a member ``lst``."""
    return zlib.decompress(base64.urlsafe_b64decode(lst + "=" * (-len(lst) % 4)))


def status_at(bits: int, data: bytes, index: int) -> int:
    """Return the status at an index."""
    place = index * bits
    if place // 8 >= len(data):
        raise Unusable("has no such index")
    return (data[place // 8] >> (place % 8)) & ((1 << bits) - 1)


async def status_of(http: aiohttp.ClientSession, issuer: str, token: str) -> int:
    """Return the status of an access token: 0 is valid, 1 is not. Raises :class:`Unusable`."""
    payload = token.split(".")[1]
    reference = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["status"]["status_list"]
    if urllib.parse.urlsplit(reference["uri"]).netloc != urllib.parse.urlsplit(issuer).netloc:
        raise Unusable("is somebody else's list")
    known = await keys(http, issuer)
    bits, data = bits_of(await fetch(http, reference["uri"]), reference["uri"], known)
    return status_at(bits, data, reference["idx"])
