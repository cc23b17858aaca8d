"""What a resource demands in its refusals (RFC 9110, 11.6.1; RFC 6750, 3; RFC 9470): read strictly, never guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER: Final = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))[ \t]*(?=,|$)')
_SCHEME: Final = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=,|$))")
_TOKEN68: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")
_BETWEEN: Final = re.compile(r"[ \t,]*")
_QUOTED_PAIR: Final = re.compile(r"\\(.)")

_SCHEMES: Final = frozenset({"bearer", "dpop"})
_MORE_SCOPES: Final = "insufficient_scope"
_BETTER_PROOF: Final = "insufficient_user_authentication"


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: its scheme, in lower case, and its parameters, their names in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def challenges(values: Iterable[str]) -> tuple[Challenge, ...]:
    """Return the challenges in ``WWW-Authenticate`` headers; what follows something malformed in one is left out."""
    return tuple(challenge for value in values for challenge in _read(value))


def demanded_scopes(values: Iterable[str]) -> frozenset[str]:
    """Return the scopes that a refused request needs, all of them; empty if more scopes are not what it lacks.

    That is said with ``insufficient_scope`` (RFC 6750, 3.1), or, by a resource that wants somebody to have agreed,
    with ``insufficient_user_authentication`` (RFC 9470, 3).
    """
    wanted = (one for one in challenges(values) if one.scheme in _SCHEMES)
    named = (
        one.parameters.get("scope", "")
        for one in wanted
        if one.parameters.get("error") in {_MORE_SCOPES, _BETTER_PROOF}
    )
    return frozenset(scope for text in named for scope in text.split(" ") if scope)


def demands_nonce(values: Iterable[str]) -> bool:
    """Whether a resource wants its nonce in the proof (RFC 9449, 9)."""
    return any(one.parameters.get("error") == "use_dpop_nonce" for one in challenges(values) if one.scheme == "dpop")


def _read(value: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    place, is_sound = _after(_BETWEEN, value, 0), True
    while is_sound and place < len(value):
        parameter = _PARAMETER.match(value, place)
        scheme = None if parameter is not None else _SCHEME.match(value, place)
        if parameter is not None and found and parameter[1].lower() not in found[-1][1]:
            _, quoted, plain = parameter.groups()
            found[-1][1][parameter[1].lower()] = plain if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)
            place = parameter.end()
        elif scheme is not None:
            found.append((scheme[1].lower(), {}))
            place = scheme.end()
            if _PARAMETER.match(value, place) is None:
                place = _after(_TOKEN68, value, place)
        else:  # malformed, or a parameter said twice: who knows which one counts
            found, is_sound = found[:-1], False
        place = _after(_BETWEEN, value, place)
    return [Challenge(scheme_name, parameters) for scheme_name, parameters in found]


def _after(pattern: re.Pattern[str], value: str, place: int) -> int:
    match = pattern.match(value, place)
    return place if match is None else match.end()
