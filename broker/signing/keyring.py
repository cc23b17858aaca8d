"""The key ring: the broker's own keys, which of them signs, and which of them verifiers are told about.

The rows are in the ledger; the ring holds them with their private keys open. :meth:`KeyRing.replace` puts a whole new
state in the place of the old one, so a reader never sees half a rotation. The methods that make keys change nothing:
they return rows, which take effect once they are durable and given to :meth:`KeyRing.replace`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from broker.core.change import StoredKey
from broker.core.errors import Code, Unavailable
from broker.core.jwk import KeySet, VerificationKey, public_jwk
from broker.core.key_schedule import (
    CHECKPOINT,
    DEFAULT_LEAD,
    TOKEN,
    Rotation,
    algorithms,
    birth,
    checked_lead,
    is_published,
    next_change,
    revoked,
    signing_key,
    superseded,
)
from broker.signing.private_key import EDDSA, ES256, RS256, SigningKey, new_key, open_key
from broker.signing.sealing import Sealer, SealingError

DEFAULT_ALGORITHM: Final = ES256
"""What access tokens are signed with. RS256 is there for consumers that take nothing else (protocol sheet B.3)."""

_NEEDED: Final = ((TOKEN, ES256), (TOKEN, RS256), (CHECKPOINT, EDDSA))


@dataclass(frozen=True, slots=True)
class _View:
    """What holds from ``since`` until just before ``until`` (Unix seconds): who signs, and what is published."""

    since: float
    until: float
    signing: Mapping[tuple[str, str], SigningKey]
    published: tuple[SigningKey, ...]
    keys: KeySet


@dataclass(slots=True)
class _State:
    """The rows, the private keys that could be opened, and the view that was last made of them."""

    rows: tuple[StoredKey, ...]
    opened: Mapping[str, SigningKey]
    view: _View | None = None


class KeyRing:
    """The broker's keys, open for signing. Reading is safe from any thread; one thread at a time replaces."""

    def __init__(self, rows: Sequence[StoredKey], sealer: Sealer, *, longest_token: int) -> None:
        """Open every row that is not revoked.

        ``longest_token`` is the longest life in seconds that a policy may give a token: old keys are published for as
        long. Raises :class:`SealingError`, which names the key, if a row cannot be opened.
        """
        self._sealer = sealer
        self._longest_token = longest_token
        self._state = _State((), {})
        self.replace(rows)

    def replace(self, rows: Sequence[StoredKey]) -> None:
        """Take these rows as the ring from now on; keys that are open already are not opened again.

        Raises :class:`SealingError` if a row cannot be opened. The others are taken all the same, so that a row that
        was damaged cannot hold up the revocation of another.
        """
        before = {row.kid: row for row in self._state.rows}
        opened: dict[str, SigningKey] = {}
        problems: list[str] = []
        for row in rows:
            if row.revoked:
                continue
            known = before.get(row.kid)
            if known is not None and _same_key(known, row) and row.kid in self._state.opened:
                opened[row.kid] = self._state.opened[row.kid]
                continue
            try:
                opened[row.kid] = open_key(row, self._sealer)
            except SealingError as error:
                problems.append(str(error))
        self._state = _State(tuple(rows), opened)
        if problems:
            raise SealingError("; ".join(problems))

    # --- reading ----------------------------------------------------------------------------------------------------

    def signer(self, now: float, *, use: str = TOKEN, alg: str = DEFAULT_ALGORITHM) -> SigningKey:
        """Return the key that signs at ``now``. Raises ``Unavailable`` (``INTERNAL``) if there is none."""
        key = self._at(now).signing.get((use, alg))
        if key is None:
            raise Unavailable(Code.INTERNAL, "the broker has no key to sign with")
        return key

    def signing_kid(self, now: float) -> str:
        """Return the id of the key that access tokens are signed with at ``now``. Raises ``Unavailable``."""
        return self.signer(now).kid

    def verification_keys(self, now: float) -> KeySet:
        """Return the published keys, to verify with."""
        return self._at(now).keys

    def jwks(self, now: float) -> dict[str, Any]:
        """Return the published keys as a JWKS (RFC 7517): those for access tokens first, the youngest first."""
        return {"keys": [key.published() for key in self._at(now).published]}

    def checkpoint_keys(self) -> tuple[Ed25519PublicKey, ...]:
        """Return every key that checkpoints were ever signed with, as far as it can be opened, the youngest first."""
        state = self._state
        rows = sorted(_usable(state), key=lambda row: -row.created_at)
        return tuple(state.opened[row.kid].ed25519().public_key() for row in rows if row.use == CHECKPOINT)

    # --- making keys ------------------------------------------------------------------------------------------------

    def generate(self, alg: str, use: str, now: float, active_at: float) -> StoredKey:
        """Make a key that signs from ``active_at`` (Unix seconds). Blocks for up to about a second for RS256."""
        key = new_key(alg)
        return StoredKey(
            kid=key.kid,
            use=use,
            alg=alg,
            public_jwk=public_jwk(key.public),
            sealed=key.sealed(self._sealer, use),
            created_at=birth(self._state.rows, now),
            active_at=active_at,
        )

    def missing(self, now: float) -> tuple[StoredKey, ...]:
        """Return new keys, active at once, for what a broker needs and this ring has not: all of them at first."""
        have = {(row.use, row.alg) for row in _usable(self._state) if is_published(row, now)}
        return tuple(self.generate(alg, use, now, now) for use, alg in _NEEDED if (use, alg) not in have)

    def rotated(self, now: float, lead: float = DEFAULT_LEAD) -> Rotation:
        """Return a new key for each algorithm in use, and the old ones with a time to retire.

        The new keys are published at once and sign after ``lead`` seconds. Blocks while keys are made.
        Raises ``Malformed`` if verifiers could not know the new keys in time.
        """
        active_at = now + checked_lead(lead)
        rows = self._state.rows
        made = [self.generate(alg, TOKEN, now, active_at) for alg in algorithms(rows, now)]
        old = [row for key in made for row in superseded(rows, key, self._longest_token)]
        return Rotation((*made, *old))

    def replaced(self, now: float) -> Rotation:
        """Return new keys that sign at once, and every older key as revoked and compromised.

        What the compromised keys have signed is refused by whoever fetches the keys anew; to kill it at once, a rule
        ``{key: ...}`` must be added for each of them. Blocks while keys are made.
        """
        rows = self._state.rows
        made = [self.generate(alg, TOKEN, now, now) for alg in algorithms(rows, now)]
        old = revoked(rows, now)
        return Rotation((*made, *old), tuple(row.kid for row in old))

    # --- inside -----------------------------------------------------------------------------------------------------

    def _at(self, now: float) -> _View:
        # The view belongs to the state it was made of, so a thread that lost a race cannot bring an old one back.
        state = self._state
        view = state.view
        if view is None or not view.since <= now < view.until:
            view = state.view = _seen(state, now)
        return view


def _usable(state: _State) -> tuple[StoredKey, ...]:
    return tuple(row for row in state.rows if row.kid in state.opened)


def _same_key(one: StoredKey, other: StoredKey) -> bool:
    return (one.sealed, one.alg, one.use) == (other.sealed, other.alg, other.use)


def _seen(state: _State, now: float) -> _View:
    rows = _usable(state)
    chosen = [signing_key(rows, use, alg, now) for use, alg in {(row.use, row.alg) for row in rows}]
    signing = {(row.use, row.alg): state.opened[row.kid] for row in chosen if row is not None}
    shown = [row for row in rows if row.use == TOKEN and is_published(row, now)]
    shown.sort(key=lambda row: (row.alg != DEFAULT_ALGORITHM, row.alg, -row.created_at, row.kid))
    published = tuple(state.opened[row.kid] for row in shown)
    since, until = next_change(rows, now)
    return _View(since, until, signing, published, KeySet(_verification_keys(published)))


def _verification_keys(keys: Iterable[SigningKey]) -> tuple[VerificationKey, ...]:
    return tuple(VerificationKey(kid=key.kid, alg=key.alg, key=key.public, thumbprint=key.kid) for key in keys)
