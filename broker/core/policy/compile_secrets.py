"""Compiling secrets: from which backend, which of its secrets, and how sensitive it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from broker.core.policy.document import Node
from broker.core.policy.model import SecretRef, Tier

LEAVE: Final = "leave"
ROTATE: Final = "rotate"

ENGINES: Final = ("lease", "kv2", "pki")
"""What a path of Vault is: one that makes leases, a static value with versions, or certificates."""

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_VAULT_PATH: Final = re.compile(r"[A-Za-z0-9._~@:+-]+(?:/[A-Za-z0-9._~@:+-]+)+")
_ROLE_ARN: Final = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,512}")
_REGION: Final = re.compile(r"[a-z]{2,3}(?:-[a-z]+){1,3}-[0-9]{1,2}")
_MAX_POLICY: Final = 2048
_MAX_BYTES: Final = 1024
_MOST_VERSION: Final = 2**31

Read = Callable[[Node], object]


def compile_secrets(node: Node, tiers: Mapping[str, Tier]) -> dict[str, SecretRef]:
    """Compile ``secrets``."""
    secrets = ((name, _secret(name, entry, tiers)) for name, entry in node.names("a secret"))
    return {name: secret for name, secret in secrets if secret is not None}


def _secret(name: str, node: Node, tiers: Mapping[str, Tier]) -> SecretRef | None:
    chosen = node.value.get("backend") if isinstance(node.value, Mapping) else None
    kind, slash, instance = chosen.partition("/") if isinstance(chosen, str) else ("", "", "")
    if not isinstance(chosen, str) or kind not in _MEMBERS or (slash and _NAME.fullmatch(instance) is None):
        every = {member for required, optional in _MEMBERS.values() for member in (*required, *optional)}
        found = node.members(*sorted(every), required=("backend", "tier"))
        if "backend" in found:
            kinds = ", ".join(_MEMBERS)
            found["backend"].fail(f"must be one of: {kinds}; perhaps with a slash and the name of one of several")
        return None
    required, optional = _MEMBERS[kind]
    found = node.members(*optional, required=("backend", "tier", *required))
    tier = found["tier"].reference(tiers, "a tier") if "tier" in found else None
    read = {key: reader(found[key]) for key, reader in {**required, **optional}.items() if key in found}
    _check_together(kind, read, node)
    if tier is None:
        return None
    settings = {key: value for key, value in read.items() if value is not None}
    return SecretRef(name=name, backend=chosen, tier=tiers[tier], settings=MappingProxyType(settings))


def _check_together(kind: str, read: Mapping[str, object], node: Node) -> None:
    engine = read.get("engine", "lease")
    if kind == "vault" and engine != "kv2":
        for key in ("version", "key"):
            if key in read:
                node.fail(f"{key} is for secrets with engine: kv2 only")
    if kind == "vault" and engine == "pki" and "parameters" not in read:
        node.fail("engine: pki needs parameters, such as {common_name: agent.internal}")
    if kind == "local" and ("generate" in read) == ("stored" in read):
        node.fail("give exactly one of generate, stored")


def _text(node: Node) -> object:
    return node.text()


def _matching(pattern: re.Pattern[str], what: str) -> Read:
    def read(node: Node) -> object:
        text = node.text()
        if text is not None and pattern.fullmatch(text) is None:
            node.fail(f"must be {what}")
        return text

    return read


def _choice(*options: str) -> Read:
    return lambda node: node.choice(options)


def _number(low: int, high: int) -> Read:
    return lambda node: node.number(low, high)


def _texts(node: Node) -> object:
    """Read a mapping from names to text."""
    return MappingProxyType({name: value.text() for name, value in node.table()})


def _list(node: Node) -> object:
    return tuple(item.text() for item in node.items())


def _session_policy(node: Node) -> object:
    """Read an IAM policy document: a mapping, as the policy writes it."""
    if not isinstance(node.value, Mapping) or not isinstance(node.value.get("Statement"), list | tuple):
        node.fail("must be an IAM policy document: a mapping with Version and a list of Statement")
        return None
    if len(str(node.value)) > _MAX_POLICY:
        node.fail(f"must be at most {_MAX_POLICY} characters: AWS takes no more")
    return node.value


_region: Final = _matching(_REGION, "a region, such as eu-central-1")

_MEMBERS: Final[Mapping[str, tuple[Mapping[str, Read], Mapping[str, Read]]]] = {
    "vault": (
        {"path": _matching(_VAULT_PATH, "the path of a secret, such as database/creds/orders-ro")},
        {
            "engine": _choice(*ENGINES),
            "namespace": _text,
            "parameters": _texts,
            "version": _number(1, _MOST_VERSION),
            "key": _text,
        },
    ),
    "aws-secrets-manager": (
        {"secret_id": _text},
        {"key": _text, "region": _region, "version_stage": _text, "on_revoke": _choice(ROTATE, LEAVE)},
    ),
    "aws-sts": (
        {"role_arn": _matching(_ROLE_ARN, "the ARN of an IAM role")},
        {
            "region": _region,
            "session_policy": _session_policy,
            "policy_arns": _list,
            "web_identity": lambda node: node.flag(),
        },
    ),
    "local": ({}, {"generate": _number(16, _MAX_BYTES), "stored": _text, "on_revoke": _choice(ROTATE, LEAVE)}),
}
"""The kinds of backends: their required and their optional members, and how each is read."""

KINDS: Final = tuple(_MEMBERS)
"""The kinds of backends."""
