"""The policy file: read, compiled, and its problems told with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from broker.core.policy import Policy, PolicyError, Problem, compile_policy
from broker.strict_yaml import Parsed, Plain, parse_document, read_document

API_PATH: Final = "/v1"
"""Where the broker's own API is under its issuer; together they are what ``broker`` stands for as an audience."""


def load_policy(path: Path, broker_issuer: str) -> Policy:
    """Read and compile the policy in a YAML file (JSON if it is named ``.json``).

    An issuer's ``jwks_file`` is read as JSON, relative to the policy's folder, and becomes its ``jwks``; so the
    policy's digest covers the keys. Raises :class:`PolicyError`, whose text has a line ``FILE:LINE: key.path: reason``
    for every problem.
    """
    return _compiled(path, read_document(path), broker_issuer)


def compile_text(path: Path, text: str, broker_issuer: str) -> Policy:
    """Compile the text of a policy as if it stood in the file ``path``. Raises what :func:`load_policy` raises."""
    return _compiled(path, parse_document(path, text), broker_issuer)


def _compiled(path: Path, parsed: Parsed, broker_issuer: str) -> Policy:
    document = parsed.value
    if not isinstance(document, dict):
        raise PolicyError((Problem((), "must be a mapping", 1),), str(path))
    try:
        _read_key_files(document, path.parent)
        return compile_policy(document, broker_audience=broker_issuer + API_PATH, broker_issuer=broker_issuer)
    except PolicyError as error:
        raise error.located(str(path), parsed.lines) from error


def _read_key_files(document: dict[str, Plain], folder: Path) -> None:
    """Put the content of each ``jwks_file`` in the place of its name."""
    issuers = document.get("issuers")
    problems: list[Problem] = []
    for name, issuer in issuers.items() if isinstance(issuers, dict) else ():
        if not isinstance(issuer, dict) or "jwks_file" not in issuer or "jwks" in issuer:
            continue
        keys = ("issuers", name, "jwks_file")
        file = issuer["jwks_file"]
        if not isinstance(file, str) or not file.endswith(".json"):
            problems.append(Problem(keys, "must be the path of a .json file"))
            continue
        try:
            issuer["jwks"] = read_document(folder / file).value
            del issuer["jwks_file"]
        except PolicyError as error:
            problems += [Problem(keys, problem.reason) for problem in error.problems]
    if problems:
        raise PolicyError(tuple(problems))
