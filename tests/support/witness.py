"""A witness as C2SP tlog-witness has it: a small real server that checks what it is told, and cosigns it.

It shares nothing with the broker's own code but the arithmetic of proofs: notes are taken apart and signed here anew.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from broker.core.merkle import EMPTY_ROOT, verify_consistency

NAME = "witness.example/w1"
Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


@dataclass
class Witness:
    """Cosigns for one log. ``before`` may answer instead of the witness, or change what it knows."""

    log_vkey: str
    known: bool = True
    clock: Callable[[], float] = time.time
    size: int = 0
    root: bytes = EMPTY_ROOT
    asked: list[str] = field(default_factory=list)
    cosigned: list[int] = field(default_factory=list)
    before: Behaviour | None = None
    url: str = ""
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    _runner: web.AppRunner | None = None

    @property
    def vkey(self) -> str:
        """The verifier key of the witness, of type 0x04."""
        data = b"\x04" + self.key.public_key().public_bytes_raw()
        return f"{NAME}+{_key_id(NAME, data).hex()}+{base64.b64encode(data).decode()}"

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post("/add-checkpoint", self._add)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def line(self, text: str, *, at: int | None = None, name: str = NAME) -> str:
        """Return a cosignature line for the text of a checkpoint."""
        at = int(self.clock()) if at is None else at
        signature = self.key.sign(f"cosignature/v1\ntime {at}\n{text}".encode())
        key_id = _key_id(name, b"\x04" + self.key.public_key().public_bytes_raw())
        return f"— {name} {base64.b64encode(key_id + at.to_bytes(8, 'big') + signature).decode()}\n"

    async def _add(self, request: web.Request) -> web.StreamResponse:
        body = (await request.read()).decode()
        self.asked.append(body)
        if self.before is not None and (answer := await self.before(request)) is not None:
            return answer
        head, _, note = body.partition("\n\n")
        first, *proof = head.split("\n")
        text = note.rpartition("\n\n")[0] + "\n"
        _, size, root = text.splitlines()[:3]
        return self._judge(int(first.removeprefix("old ")), proof, note, text, (int(size), base64.b64decode(root)))

    def _judge(self, old: int, proof: list[str], note: str, text: str, new: tuple[int, bytes]) -> web.Response:
        """Go through the checks in the order of the specification."""
        size, root = new
        told = f"{self.size}\n".encode()
        conflict = web.Response(status=409, body=told, content_type="text/x.tlog.size")
        hashes = [base64.b64decode(line, validate=True) for line in proof]
        checks = (
            (self.known, web.Response(status=404)),
            (_signed_by(note, text, self.log_vkey), web.Response(status=403)),
            (old <= size, web.Response(status=400)),
            (old == self.size and (old != size or root == self.root), conflict),
            (
                not proof if old == 0 else verify_consistency(old, self.root, size, root, hashes),
                web.Response(status=422),
            ),
        )
        for holds, refusal in checks:
            if not holds:
                return refusal
        self.size, self.root = size, root
        self.cosigned.append(size)
        return web.Response(body=self.line(text).encode())


def _signed_by(note: str, text: str, vkey: str) -> bool:
    name, _, encoded = vkey.split("+", 2)
    data = base64.b64decode(encoded)
    for line in note.rpartition("\n\n")[2].splitlines():
        _, signer, value = line.split(" ")
        raw = base64.b64decode(value)
        if signer == name and raw[:4] == _key_id(name, data):
            try:
                Ed25519PublicKey.from_public_bytes(data[1:]).verify(raw[4:], text.encode())
            except InvalidSignature:
                return False
            return True
    return False


def _key_id(name: str, data: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + data).digest()[:4]
