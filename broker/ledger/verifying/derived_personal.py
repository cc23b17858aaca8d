"""Personal members beside their entries: what the leaf promises is there, or an entry says that it was erased."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from typing import Any, Final

from broker.core.entry import Kind, encode
from broker.core.personal import MEMBER, merged, read_personal

_MOST_TOLD: Final = 20


class DerivedPersonal:
    """Follows the entries in their order; what is gone must be gone by word of a later entry."""

    def __init__(self) -> None:
        """Nothing is recorded yet."""
        self._gone = array("q")

    def miss(self, seq: int) -> None:
        """Take up that an entry lacks its personal members."""
        self._gone.append(seq)

    def take(self, seq: int, members: Mapping[str, Any]) -> None:
        """Take up an entry, which may say of earlier ones that their personal members were erased."""
        if members["kind"] == Kind.PERSONAL_ERASED:
            self._forgive(seq, members.get("places"))

    def compare(self) -> Iterator[str]:
        """Yield which entries lost their personal members although no entry says so."""
        for seq in self._gone[:_MOST_TOLD]:
            yield f"entry {seq}: its personal members are gone, and no entry says that they were erased"
        if (more := len(self._gone) - _MOST_TOLD) > 0:
            yield f"{more} more entries lost their personal members, and no entry says that they were erased"

    def _forgive(self, seq: int, places: object) -> None:
        for place in places if isinstance(places, list) else ():
            match place:
                case [int(first), int(last)]:
                    del self._gone[bisect_left(self._gone, first) : bisect_right(self._gone, min(last, seq))]
                case _:
                    pass


def opened(leaf: Mapping[str, Any], stored: object) -> Mapping[str, Any]:
    """Return all members of an entry. Raises ``ValueError`` if the ``stored`` personal ones are not those promised."""
    if stored is None:
        return merged(leaf, None)
    if not isinstance(stored, bytes):
        raise ValueError("its personal members are not bytes")  # noqa: TRY004 - a stored value, not an argument
    personal = read_personal(stored, leaf.get(MEMBER))
    if encode(dict(personal.members)) != stored[len(personal.salt) :]:
        raise ValueError("its personal members are not in the canonical encoding")
    return merged(leaf, personal.members)
