"""What a mapping consists of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Control:
    """A requirement, by its number and a short name, and how far the broker bears on it.

    ``does`` is empty where the broker does nothing about it. ``kinds`` are the entries that show it at work;
    ``shown_by`` the files of the project that hold the broker to it.
    """

    requirement: str
    name: str
    does: str
    leaves: str
    kinds: tuple[str, ...] = ()
    shown_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Framework:
    """A set of requirements that somebody published."""

    name: str
    source: str
    controls: tuple[Control, ...]
