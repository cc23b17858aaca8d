"""``Secret``: a value that cannot be printed, pickled, compared by accident or JSON-encoded (law 8)."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, NoReturn

_HIDDEN: Final = "Secret(…)"


class Secret:
    """Holds secret bytes. The only way out is :meth:`reveal`, so every release is easy to find by name."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes | str) -> None:
        """Take ``value``; text is held as UTF-8."""
        self._value = value.encode() if isinstance(value, str) else bytes(value)

    def reveal(self) -> bytes:
        """Return the secret itself. Call this only where it is used, never to store, log or format it."""
        return self._value

    def fingerprint(self, key: bytes) -> str:
        """Return a keyed fingerprint (HMAC-SHA-256, hex) that records may hold instead of the secret."""
        return hmac.new(key, self._value, hashlib.sha256).hexdigest()

    def __eq__(self, other: object) -> bool:
        """Compare in constant time, only with another ``Secret``."""
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Never show the value."""
        return _HIDDEN

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        """Never show the value, whatever the format."""
        return _HIDDEN

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied into another process."""
        msg = "a Secret cannot be pickled"
        raise TypeError(msg)

    def __getstate__(self) -> NoReturn:
        """Refuse to hand out the slots, which is what the default would do."""
        msg = "a Secret has no state to show"
        raise TypeError(msg)

    def __bytes__(self) -> NoReturn:
        """Refuse implicit conversion."""
        msg = "use Secret.reveal()"
        raise TypeError(msg)
