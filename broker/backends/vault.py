"""Secrets from HashiCorp Vault and OpenBao (port ``Backend``).

Each secret is read with a token of its own, which is a child of its task's. Vault ends what was made with a token
together with it, so that a lease can be ended by the accessor of its token before anybody knows what it is, and all
leases of a task by the accessor of the task's token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from broker.backends.vault_engines import KV2, LEASE, VaultSecret, certificate, leased, prefix_of, secret_of, static
from broker.backends.vault_failures import needs, reason, refused, unavailable
from broker.backends.vault_http import VaultHttp
from broker.backends.vault_messages import Answer, Ask
from broker.backends.vault_server import VaultServer
from broker.backends.vault_session import OwnToken, VaultSession
from broker.backends.vault_spent_tokens import SpentTokens
from broker.backends.vault_tokens import VaultTokens
from broker.backends.workers import Workers
from broker.core.errors import BackendFailed, Code
from broker.core.lease import Ended, LeaseOrder, Taken
from broker.ports import Clock

READ_SECONDS: Final = 60
"""The life of a token that reads a static value, which needs it no more than once."""

UNSEALED: Final = "unsealed"
STATIC: Final = "static"
CERTIFICATE: Final = "certificate"
"""What a handle is of: nothing that is known yet, a lease of Vault's (``lease``), a static value, a certificate."""

_FORBIDDEN: Final = 403
_LEFT: Final = {
    "lease": "Vault ends what the token for it had made",
    "kv2": "the token that would have read it was revoked",
    "pki": "if a certificate was issued, nobody has its key",
}
_GONE: Final = ("lease not found", "lease expired", "invalid lease")


class VaultBackend:
    """One Vault or OpenBao server. Belongs to one event loop."""

    def __init__(self, name: str, server: VaultServer, *, clock: Clock, own_token: OwnToken) -> None:
        """``name`` is the backend's. ``own_token`` signs an identity token of the broker itself for an audience.

        Nothing is asked before the first secret is. Raises ``OSError`` if the server's ``ca_file`` cannot be read.
        """
        self._name = name
        self._namespace = server.namespace
        self._clock = clock
        self._workers = Workers(name, count=server.concurrency, seconds=2 * server.timeout_seconds)
        self._http = VaultHttp(name, server, self._workers)
        self._session = VaultSession(self._http, server, self._workers, clock=clock, own_token=own_token)
        self._tokens = VaultTokens(self._http, self._session, namespace=server.namespace, clock=clock)
        self._spent = SpentTokens(self._tokens.revoke, lambda: self._ending > 0)
        self._ending = 0

    # --- the port ---------------------------------------------------------------------------------------------------

    async def prepare(self, order: LeaseOrder) -> Mapping[str, str]:
        """Make the token that the secret is read with; its accessor is what ends the secret (see the port)."""
        secret = secret_of(order.settings, self._namespace)
        now = int(self._clock.now())
        if order.ends_by <= now:
            raise refused("the time of the lease is over")
        until = order.ends_by if secret.engine != KV2 else min(order.ends_by, now + READ_SECONDS)
        token = await self._tokens.open(order, until)
        handle = {
            "kind": UNSEALED,
            "engine": secret.engine,
            "path": secret.path,
            "accessor": token.accessor,
            "task_accessor": token.task_accessor,
            "ends": str(token.ends),
        }
        return handle if secret.namespace is None else {**handle, "namespace": secret.namespace}

    async def take(self, order: LeaseOrder, handle: Mapping[str, str]) -> Taken:
        """Make or read the secret with its own token (see the port).

        That token's value is in the memory of the process that prepared it, and nowhere else.
        """
        secret = secret_of(order.settings, self._namespace)
        accessor = _of(handle, "accessor")
        token = self._tokens.hand_out(accessor)
        if token is None:
            raise unavailable(f"{self._name} was prepared for this lease by another process, or too long ago")
        ask = secret.ask(order.ttl)
        try:
            answer = await self._http.send(ask, token=token)
            if not answer.ok:
                raise self._http.refusal(ask, answer)
            return await self._taken(secret, order, handle, answer)
        except BackendFailed as error:
            if not error.uncertain:
                with contextlib.suppress(BackendFailed):  # it ends by itself, too
                    await self._tokens.revoke(accessor)
            raise

    async def renew(self, handle: Mapping[str, str], seconds: int) -> int:
        """Renew a lease of Vault's, not beyond the end of its token (see the port)."""
        if handle.get("kind") != LEASE:
            raise BackendFailed(Code.LEASE_NOT_RENEWABLE, f"what {self._name} gave is not a lease that can be renewed")
        left = self._left(handle)
        if left < 1:
            raise BackendFailed(Code.LEASE_ENDED, f"{self._name} has ended the lease")
        ask = self._lease_ask("renew", handle, increment=min(seconds, left))
        answer = await self._session.send(ask)
        if answer.ok:
            return max(0, min(answer.lease_duration, left))
        if answer.says(*_GONE):
            raise BackendFailed(Code.LEASE_ENDED, f"{self._name} does not know the lease any more")
        if answer.says("not renewable", "cannot renew", "cannot be renewed"):
            raise BackendFailed(Code.LEASE_NOT_RENEWABLE, f"{self._name} does not renew this lease")
        raise self._http.refusal(ask, answer)

    async def revoke(self, handle: Mapping[str, str]) -> Ended:
        """End a secret (see the port).

        A lease is revoked there and then: when this returns, its engine has done it; its token, which is good for
        nothing then, follows when there is time. What is known by its accessor only is ended by Vault soon after, and
        Vault does not forget to.
        """
        match handle.get("kind"):
            case "lease":
                self._ending += 1
                try:
                    return await self._revoke_lease(handle)
                finally:
                    self._ending -= 1
            case "certificate":
                return await self._revoke_certificate(handle)
            case "static":
                await self._tokens.revoke(_of(handle, "accessor"))
                return Ended(revoked=False, note="a static value: it is good until somebody changes it in Vault")
            case _:
                await self._tokens.revoke(_of(handle, "accessor"))
                return Ended(
                    revoked=True, note=f"never handed out; {_LEFT.get(handle.get('engine', ''), _LEFT[LEASE])}"
                )

    async def close(self) -> None:
        """Forget all tokens and give back threads and connections (see the port)."""
        await self._spent.close()
        await self._tokens.close()
        await self._session.close()
        await self._workers.close()
        await self._http.close()

    # --- incidents --------------------------------------------------------------------------------------------------

    async def revoke_task(self, task_accessor: str) -> None:
        """End a task's token, and with it every lease of that task. Vault ends those soon after, one by one.

        Raises ``BackendFailed``. A token that has ended is no failure.
        """
        await self._tokens.revoke_task(task_accessor)

    async def revoke_prefix(self, prefix: str, *, namespace: str | None = None) -> None:
        """End every lease below a path, such as ``database/creds/orders-ro`` or ``database``, whoever took it.

        Vault is told to do it in any case, and then asked to say when it has. Raises ``BackendFailed``:
        ``BACKEND_UNAVAILABLE`` if that takes longer than a request may. Vault goes on then, and asking again tells.
        """
        path = f"sys/leases/revoke-prefix/{prefix_of(prefix)}"
        for sync in (False, True):
            ask = Ask("POST", path, namespace or self._namespace, body={"sync": sync})
            try:
                answer = await self._session.send(ask)
            except BackendFailed as error:
                if sync and error.uncertain:
                    text = f"{self._name} goes on to revoke what is below {prefix}: ask again to hear that it is done"
                    raise unavailable(text, uncertain=True) from error
                raise
            if answer.status == _FORBIDDEN:
                raise refused(f"{self._name} refused: {needs('POST', path, sudo=True)}")
            if not answer.ok:
                raise self._http.refusal(ask, answer)

    # --- taking -----------------------------------------------------------------------------------------------------

    async def _taken(self, secret: VaultSecret, order: LeaseOrder, handle: Mapping[str, str], answer: Answer) -> Taken:
        match secret.engine:
            case "kv2":
                sealed = {**handle, "kind": STATIC}
                data = static(secret, answer)
                return Taken(data=data, handle=sealed, lease_seconds=None, renewable=False, revocable=False)
            case "pki":
                data, issued = certificate(secret, answer)
                expires = str(issued.expires_at)
                sealed = {
                    **handle,
                    "kind": CERTIFICATE,
                    "mount": secret.mount,
                    "serial": issued.serial,
                    "expires_at": expires,
                }
                left = max(0, issued.expires_at - int(self._clock.now()))
                return Taken(data=data, handle=sealed, lease_seconds=left, renewable=False, revocable=True)
            case _:
                data = leased(secret, answer)
                sealed = {**handle, "kind": LEASE, "lease_id": answer.lease_id}
                seconds = await self._shortened(sealed, answer, order.ttl)
                return Taken(
                    data=data, handle=sealed, lease_seconds=seconds, renewable=answer.renewable, revocable=True
                )

    async def _shortened(self, handle: Mapping[str, str], answer: Answer, ttl: int) -> int:
        """Let a lease that is longer than was asked for end in time, if its engine can; return for how long it lives.

        Where it cannot, the lease ends with its token, or when the broker ends it.
        """
        seconds, left = answer.lease_duration, self._left(handle)
        if answer.renewable and seconds > ttl:
            with contextlib.suppress(BackendFailed):
                renewed = await self._session.send(self._lease_ask("renew", handle, increment=ttl))
                seconds = renewed.lease_duration if renewed.ok and renewed.lease_duration > 0 else seconds
        return max(0, min(seconds, left))

    # --- ending -----------------------------------------------------------------------------------------------------

    async def _revoke_lease(self, handle: Mapping[str, str]) -> Ended:
        ask = replace(self._lease_ask("revoke", handle, sync=True), often=True)
        answer = await self._session.send(ask)
        if answer.status == _FORBIDDEN:
            raise self._http.refusal(ask, answer)
        if not answer.ok and not answer.says(*_GONE):
            said = reason(answer.errors) or f"HTTP {answer.status}"
            raise refused(f"{self._name} could not revoke the lease: {said}")
        self._spent.add(_of(handle, "accessor"))
        return Ended(revoked=True)

    async def _revoke_certificate(self, handle: Mapping[str, str]) -> Ended:
        expires_at = int(_of(handle, "expires_at"))
        if expires_at <= self._clock.now():
            return Ended(revoked=True, note="it had expired")
        body = {"serial_number": _of(handle, "serial")}
        ask = Ask("POST", f"{_of(handle, 'mount')}/revoke", handle.get("namespace"), body=body)
        answer = await self._session.send(ask)
        stored = not answer.says("certificate with serial")  # that it was not found; another mount says other words
        if not answer.ok and stored:
            raise self._http.refusal(ask, answer)
        with contextlib.suppress(BackendFailed):
            await self._tokens.revoke(_of(handle, "accessor"))
        if answer.ok:
            return Ended(revoked=True, note="on the revocation list: it counts for whoever asks for that or OCSP")
        note = "Vault does not store this certificate, so it cannot be revoked: see no_store of its role"
        return Ended(revoked=False, expires_at=expires_at, note=note)

    # --- handles ----------------------------------------------------------------------------------------------------

    def _lease_ask(self, verb: str, handle: Mapping[str, str], **more: object) -> Ask:
        body = {"lease_id": _of(handle, "lease_id"), **more}
        return Ask("POST", f"sys/leases/{verb}", handle.get("namespace"), body=body)

    def _left(self, handle: Mapping[str, str]) -> int:
        """Return for how many seconds the token of a lease is good: the lease cannot live longer."""
        return int(_of(handle, "ends")) - int(self._clock.now())


def _of(handle: Mapping[str, str], member: str) -> str:
    value = handle.get(member)
    if not value:
        raise refused("the handle of the lease is not one of Vault's")
    return value
