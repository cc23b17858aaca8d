"""What a case supposes: the agent as its issuer would vouch for it, and the request that it makes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from broker.core.audience import canonical_audience
from broker.core.details import Element, parse_details
from broker.core.errors import Malformed
from broker.core.grant import Ask
from broker.core.identity import REGISTERED, Agent, Attribute, federated_id
from broker.core.policy import BROKER, Policy, Role
from broker.core.policy.document import Node
from broker.core.scope import is_scope
from broker.core.supposing import Supposed
from broker.core.supposing_leases import SupposedLease

_KEY: Final = "0" * 43
"""Stands for the thumbprint of a key: one that possession was proved of, or one to encrypt to."""

_OF_TOKENS: Final = ("audience", "scopes", "details")
_OF_LEASES: Final = ("secret", "encrypted")
_OF_BOTH: Final = ("proof", "task", "delegated_by", "break_glass")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Terms:
    """What requests for tokens and for leases have in common."""

    jkt: str | None
    task: str | None
    delegated_by: Role | None
    break_glass: bool


def read_agent(node: Node, policy: Policy) -> Agent | None:
    """Return who asks; None if that cannot be said, which is among the problems then."""
    found = node.members("id", "issuer", "subject", "claims")
    identity = found["id"].text() if "id" in found else None
    if "issuer" not in found:
        for name in found.keys() & {"subject", "claims"}:
            found[name].fail("name the issuer that vouches for this")
        if found and "id" not in found:
            node.fail("name an id, or an issuer with subject or claims")
        return None if identity is None else _agent_by_id(found["id"], identity, policy)
    issuer = found["issuer"].reference(policy.issuers, "an issuer")
    subject = found["subject"].text() if "subject" in found else "-"
    claims = _claims(found["claims"]) if "claims" in found else {}
    if issuer is None or subject is None or ("id" in found and identity is None):
        return None
    try:
        return Agent(identity or federated_id(issuer, subject), issuer, subject, claims)
    except ValueError as error:
        found["subject"].fail(str(error))
        return None


def _agent_by_id(node: Node, identity: str, policy: Policy) -> Agent:
    issuer, slash, rest = identity.partition("/")
    if slash and issuer not in policy.issuers:
        node.fail("the part before the slash is not an issuer of this policy")
    return Agent(identity, issuer, rest) if slash else Agent(identity, REGISTERED, identity)


def _claims(node: Node) -> dict[str, Attribute]:
    claims: dict[str, Attribute] = {}
    for name, entry in node.table():
        value = entry.value
        if isinstance(value, str | int):
            claims[name] = value
        elif isinstance(value, list):
            claims[name] = tuple(text for item in entry.items() if (text := item.text()) is not None)
        else:
            entry.fail("must be text, a whole number, true, false, or a list of texts")
    return claims


def read_ask(node: Node, agent: Agent, policy: Policy) -> Supposed | SupposedLease:
    """Return what an agent asks for: a token, or the lease of a secret. What cannot be meant is among the problems."""
    found = node.members(*_OF_TOKENS, *_OF_LEASES, *_OF_BOTH)
    role = found["delegated_by"].reference(policy.roles, "a role") if "delegated_by" in found else None
    terms = _Terms(
        jkt=_KEY if _flag(found, "proof") else None,
        task=found["task"].text(128) if "task" in found else None,
        delegated_by=None if role is None else policy.roles[role],
        break_glass=_flag(found, "break_glass"),
    )
    if "secret" in found:
        return _lease(found, agent, terms, policy)
    if "encrypted" in found:
        found["encrypted"].fail("goes with a secret")
    return _token(found, agent, terms, policy)


def _token(found: Mapping[str, Node], agent: Agent, terms: _Terms, policy: Policy) -> Supposed:
    ask = Ask(
        audience=_audience(found["audience"], policy) if "audience" in found else None,
        scopes=_scopes(found["scopes"]) if "scopes" in found else None,
        task=terms.task,
        jkt=terms.jkt,
        details=_details(found["details"]) if "details" in found else None,
    )
    return Supposed(agent=agent, ask=ask, delegated_by=terms.delegated_by, break_glass=terms.break_glass)


def _lease(found: Mapping[str, Node], agent: Agent, terms: _Terms, policy: Policy) -> SupposedLease:
    for name in _OF_TOKENS:
        if name in found:
            found[name].fail("is for tokens: a case asks for a token or for a secret")
    return SupposedLease(
        agent=agent,
        secret=found["secret"].reference(policy.secrets, "a secret") or "",
        jkt=terms.jkt,
        encrypt_to=_KEY if _flag(found, "encrypted") else None,
        task=terms.task,
        delegated_by=terms.delegated_by,
        break_glass=terms.break_glass,
    )


def _flag(found: Mapping[str, Node], name: str) -> bool:
    return name in found and found[name].flag() is True


def _details(node: Node) -> tuple[Element, ...] | None:
    try:
        return parse_details(json.dumps(node.value))
    except Malformed as error:
        node.fail(error.public.removeprefix("authorization_details: "))
        return None


def _audience(node: Node, policy: Policy) -> str | None:
    text = node.text()
    if text is None or text == BROKER:
        return None if text is None else policy.broker_audience
    try:
        return canonical_audience(text)
    except Malformed as error:
        node.fail(error.public.removeprefix("audience: "))
        return None


def _scopes(node: Node) -> tuple[str, ...]:
    scopes: set[str] = set()
    for item in node.items():
        text = item.text()
        if text is not None and not is_scope(text):
            item.fail("is not a scope")
        scopes |= set() if text is None else {text}
    return tuple(sorted(scopes))
