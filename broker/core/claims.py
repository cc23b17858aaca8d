"""The claims of the broker's own access tokens (RFC 9068) and the facts that revocation looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from broker.core.selector import Fact
from broker.core.task import MAX_TASK_DEPTH

PRIVATE_CLAIM: Final = "broker"
"""The one private claim: epoch, task, lineage, role, tier, issuer."""

MAX_TEXT: Final = 512
MAX_SCOPE_TEXT: Final = 8192
"""The longest list of scopes in characters: the rest of a token of 16 KiB (protocol sheet B.3) fits beside it."""

MAX_ACT_DEPTH: Final = 16

MAX_PARENTS: Final = 16
"""How many tokens one can descend from."""

INHERITED: Final = frozenset({"agent", "issuer", "key", "role", "scope", "tier", "audience", "task"})
"""The fields of which a token can have facts from its ancestors; their token ids are its ``parents``."""

MAX_INHERITED: Final = 256


class ClaimsError(ValueError):
    """The payload is not one of the broker's access tokens; the text names the claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessClaims:
    """What an access token says. Times are Unix seconds; ``scopes`` is sorted and without duplicates.

    ``epoch`` is the epoch at which the grant was committed; ``path`` are the ancestors of ``task`` from the root down;
    ``jkt`` is the thumbprint of the key that the token is bound to (RFC 9449); ``details`` are its
    ``authorization_details`` (RFC 9396).

    A token that was exchanged (RFC 8693) keeps ``sub``, on whose behalf it is. ``agents`` are then the actors, the one
    who acts now (``client_id``) first; ``act`` shows them, unless ``impersonates``. ``parents`` are the ids of the
    tokens that it descends from, the first one first. ``inherited`` are the facts of those tokens that it does not have
    of itself: by them it dies with each. ``may_act`` is the only agent that it may be handed on to, if it names one.
    """

    iss: str
    sub: str
    aud: str
    client_id: str
    iat: int
    exp: int
    jti: str
    scopes: tuple[str, ...]
    epoch: int
    task: str
    role: str
    tier: str
    issuer: str
    path: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    inherited: tuple[Fact, ...] = ()
    jkt: str | None = None
    details: tuple[Mapping[str, Any], ...] = ()
    may_act: str | None = None
    impersonates: bool = False

    def to_payload(self) -> dict[str, Any]:
        """Return the JWT payload (``nbf`` equals ``iat``)."""
        private: dict[str, Any] = {"epoch": self.epoch, "task": self.task, "role": self.role, "tier": self.tier}
        private["issuer"] = self.issuer
        if self.path:
            private["path"] = list(self.path)
        if self.parents:
            private["parents"] = list(self.parents)
        if self.inherited:
            private["inherited"] = _by_field(self.inherited)
        if self.impersonates:
            private["via"] = list(self.agents)
        payload: dict[str, Any] = {
            "iss": self.iss,
            "sub": self.sub,
            "aud": self.aud,
            "client_id": self.client_id,
            "iat": self.iat,
            "nbf": self.iat,
            "exp": self.exp,
            "jti": self.jti,
            "scope": " ".join(self.scopes),
            PRIVATE_CLAIM: private,
        }
        if self.agents and not self.impersonates:
            payload["act"] = _nested_act(self.agents)
        if self.may_act is not None:
            payload["may_act"] = {"sub": self.may_act}
        if self.details:
            payload["authorization_details"] = [dict(element) for element in self.details]
        if self.jkt is not None:
            payload["cnf"] = {"jkt": self.jkt}
        return payload

    def facts(self, kid: str) -> frozenset[Fact]:
        """Return the facts that selectors match; ``kid`` is the thumbprint of the key that signed the token."""
        return frozenset(
            {
                *(("token", jti) for jti in (self.jti, *self.parents)),
                *(("task", task) for task in (self.task, *self.path)),
                *(("agent", agent) for agent in (self.sub, self.client_id, *self.agents)),
                *self.inherited,
                *(("scope", scope) for scope in self.scopes),
                *(("key", key) for key in (kid, self.jkt) if key is not None),
                ("role", self.role),
                ("audience", self.aud),
                ("tier", self.tier),
                ("issuer", self.issuer),
            }
        )


def parse_claims(payload: Mapping[str, Any]) -> AccessClaims:
    """Read the payload of a token whose signature was verified. Raises :class:`ClaimsError`."""
    private = payload.get(PRIVATE_CLAIM)
    if not isinstance(private, Mapping):
        msg = f"{PRIVATE_CLAIM}: missing"
        raise ClaimsError(msg)
    client_id = _text(payload, "client_id")
    chain, via = _act_chain(payload.get("act")), _texts(private, "via", MAX_ACT_DEPTH)
    if chain and via:
        msg = "act: a token that impersonates names no actors"
        raise ClaimsError(msg)
    if (chain or via)[:1] not in ((), (client_id,)):
        msg = "act: must name the client as the one who acts now"
        raise ClaimsError(msg)
    return AccessClaims(
        iss=_text(payload, "iss"),
        sub=_text(payload, "sub"),
        aud=_text(payload, "aud"),
        client_id=client_id,
        iat=_number(payload, "iat"),
        exp=_number(payload, "exp"),
        jti=_text(payload, "jti"),
        scopes=_scopes(payload),
        epoch=_number(private, "epoch"),
        task=_text(private, "task"),
        role=_text(private, "role"),
        tier=_text(private, "tier"),
        issuer=_text(private, "issuer"),
        path=_texts(private, "path", MAX_TASK_DEPTH),
        parents=_texts(private, "parents", MAX_PARENTS),
        agents=chain or via,
        inherited=_inherited(private.get("inherited", {})),
        jkt=_bound_key(payload.get("cnf")),
        details=_details(payload.get("authorization_details", [])),
        may_act=_permitted_actor(payload.get("may_act")),
        impersonates=bool(via),
    )


def _text(data: Mapping[str, Any], name: str, limit: int = MAX_TEXT) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= limit:
        msg = f"{name}: must be text of 1 to {limit} characters"
        raise ClaimsError(msg)
    return value


def _scopes(payload: Mapping[str, Any]) -> tuple[str, ...]:
    scopes = tuple(_text(payload, "scope", limit=MAX_SCOPE_TEXT).split(" "))
    if not all(scopes) or list(scopes) != sorted(set(scopes)):
        msg = "scope: must be sorted, without duplicates, with one space between"
        raise ClaimsError(msg)
    return scopes


def _number(data: Mapping[str, Any], name: str) -> int:
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        msg = f"{name}: must be a whole number"
        raise ClaimsError(msg)
    return value


def _texts(data: Mapping[str, Any], name: str, most: int = MAX_INHERITED) -> tuple[str, ...]:
    value = data.get(name, [])
    if not isinstance(value, list) or any(not isinstance(item, str) or not item for item in value):
        msg = f"{name}: must be a list of texts"
        raise ClaimsError(msg)
    if len(value) > most or len(set(value)) < len(value):
        msg = f"{name}: must be a list of {most} different texts at most"
        raise ClaimsError(msg)
    return tuple(value)


def _nested_act(agents: tuple[str, ...]) -> dict[str, Any]:
    act: dict[str, Any] = {}
    for agent in reversed(agents):
        act = {"sub": agent, "act": act} if act else {"sub": agent}
    return act


def _act_chain(act: object) -> tuple[str, ...]:
    agents: list[str] = []
    while act is not None:
        if not isinstance(act, Mapping) or len(agents) >= MAX_ACT_DEPTH:
            msg = f"act: must be nested objects, {MAX_ACT_DEPTH} deep at most"
            raise ClaimsError(msg)
        agents.append(_text(act, "sub"))
        act = act.get("act")
    return tuple(agents)


def _by_field(facts: tuple[Fact, ...]) -> dict[str, list[str]]:
    by_field: dict[str, list[str]] = {}
    for name, value in facts:
        by_field.setdefault(name, []).append(value)
    return by_field


def _inherited(data: object) -> tuple[Fact, ...]:
    """Read the facts of ancestors: sorted, without duplicates, each of a kind that is inherited."""
    if not isinstance(data, Mapping) or not data.keys() <= INHERITED:
        msg = f"inherited: must be an object with some of {', '.join(sorted(INHERITED))}"
        raise ClaimsError(msg)
    facts = [(name, value) for name in data for value in _texts(data, name)]
    if facts != sorted(set(facts)) or len(facts) > MAX_INHERITED:
        msg = f"inherited: must be sorted, without duplicates, {MAX_INHERITED} facts at most"
        raise ClaimsError(msg)
    return tuple(facts)


def _details(data: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(data, list) or not all(isinstance(element, Mapping) and element for element in data):
        msg = "authorization_details: must be a list of objects"
        raise ClaimsError(msg)
    return tuple(data)


def _permitted_actor(may_act: object) -> str | None:
    if may_act is None:
        return None
    if not isinstance(may_act, Mapping) or len(may_act) != 1:
        msg = "may_act: must have exactly one member"
        raise ClaimsError(msg)
    return _text(may_act, "sub")


def _bound_key(cnf: object) -> str | None:
    if cnf is None:
        return None
    if not isinstance(cnf, Mapping) or len(cnf) != 1:
        msg = "cnf: must have exactly one member"
        raise ClaimsError(msg)
    return _text(cnf, "jkt")
