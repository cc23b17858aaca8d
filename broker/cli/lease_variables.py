"""Leased secrets as environment variables: which secret goes into which, and what stands in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from broker.cli.outcome import ExitCode, Failure, unusable

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_IN_NAMES: Final = re.compile(r"[^A-Z0-9_]")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A secret, and the variable that it goes into, or that holds the path of the file which it goes into."""

    secret: str
    variable: str
    as_file: bool = False


def deliveries(leases: Sequence[str], files: Sequence[str]) -> tuple[Delivery, ...]:
    """Read ``NAME[=ENVVAR]`` of the options ``--lease`` and ``--file``. Raises ``Failure``."""
    found = (*(delivery("--lease", text) for text in leases), *(delivery("--file", text) for text in files))
    taken: set[str] = set()
    for each in found:
        if each.variable in taken:
            raise unusable(f"{each.variable}: two secrets cannot go into one variable")
        taken.add(each.variable)
    return found


def delivery(option: str, text: str) -> Delivery:
    """Read one ``NAME[=ENVVAR]``; without a variable, it is named after the secret. Raises ``Failure``."""
    secret, equals, variable = text.partition("=")
    named = variable if equals else variable_of(secret)
    if not secret or _VARIABLE.fullmatch(named) is None:
        raise unusable(f"{option}: write NAME or NAME=ENVVAR, with letters, digits and _ in the variable")
    return Delivery(secret, named, as_file=option == "--file")


def variable_of(secret: str) -> str:
    """Return the variable that is named after a secret: ``orders-db`` is ``ORDERS_DB``."""
    return _NOT_IN_NAMES.sub("_", secret.upper())


def variables(variable: str, data: Mapping[str, Any]) -> dict[str, str]:
    """Return a secret as variables: one member is ``variable``, each of several ``variable``, ``_`` and its name.

    What is not text is JSON. Raises ``Failure`` if it cannot be an environment; the text holds nothing of the secret.
    """
    if len(data) == 1:
        named = [(variable, value) for value in data.values()]
    else:
        named = [(f"{variable}_{variable_of(member)}", value) for member, value in data.items()]
    return merged({name: _text(variable, value)} for name, value in named)


def merged(environments: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return environments as one. Raises ``Failure`` if two name the same variable."""
    whole: dict[str, str] = {}
    for environment in environments:
        for name, value in environment.items():
            if name in whole:
                raise _unfit(f"two parts of the secrets would go into the variable {name}; name others, or use --file")
            whole[name] = value
    return whole


def _text(variable: str, value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if "\0" in text or _has_surrogates(text):
        raise _unfit(f"the secret for {variable} has characters that no variable can hold; use --file")
    return text


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _unfit(text: str) -> Failure:
    return Failure(ExitCode.REFUSED, "secret_unfit", text)
