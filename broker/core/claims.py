"""The claims of the broker's own access tokens (RFC 9068) and the facts that revocation looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, TypeGuard

from broker.core.selector import Fact
from broker.core.status_list import status_claim
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
            payload["act"] = nested_act(self.agents)
        if self.may_act is not None:
            payload["may_act"] = {"sub": self.may_act}
        if self.details:
            payload["authorization_details"] = [dict(element) for element in self.details]
        if self.jkt is not None:
            payload["cnf"] = {"jkt": self.jkt}
        status = status_claim(self.iss, self.jti)
        if status is not None:
            payload["status"] = status
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
    chain, via = _act_chain(payload), _list(private, "via", MAX_ACT_DEPTH)
    if chain and via:
        msg = "act: a token that impersonates names no actors"
        raise ClaimsError(msg)
    claims = AccessClaims(
        iss=_text(payload, "iss"),
        sub=_text(payload, "sub"),
        aud=_text(payload, "aud"),
        client_id=_text(payload, "client_id"),
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
        inherited=_inherited(private),
        jkt=_sole_member(payload, "cnf", "jkt"),
        details=_details(payload),
        may_act=_sole_member(payload, "may_act", "sub"),
        impersonates=bool(via),
    )
    _check_line(claims)
    if payload.get("status") != status_claim(claims.iss, claims.jti):
        msg = "status: must be the place in a status list that the token's id says, if it says one"
        raise ClaimsError(msg)
    return claims


def _check_line(claims: AccessClaims) -> None:
    """Raise :class:`ClaimsError` unless what the claims say of where the token comes from can be true together."""
    acting = claims.agents[0] if claims.agents else claims.sub
    if claims.client_id != acting:
        msg = "act: must name the client as the one who acts now, or nobody if that is the subject"
        raise ClaimsError(msg)
    if any(one == other for one, other in pairwise((*claims.agents, claims.sub))):
        msg = "act: must not name whoever acts already again"
        raise ClaimsError(msg)
    # Each actor exchanged a token: one without the other is a lineage that somebody cut, and rules would miss it.
    if len(claims.agents) > len(claims.parents) or (claims.inherited and not claims.parents):
        msg = "parents: must have a token for each actor"
        raise ClaimsError(msg)
    if claims.jti in claims.parents or claims.task in claims.path:
        msg = "parents, path: must be others than the token and the task themselves"
        raise ClaimsError(msg)


def _text(data: Mapping[str, Any], name: str, limit: int = MAX_TEXT) -> str:
    value = data.get(name)
    if not _is_text(value, limit):
        msg = f"{name}: must be printable text of 1 to {limit} characters"
        raise ClaimsError(msg)
    return value


def _is_text(value: object, limit: int = MAX_TEXT) -> TypeGuard[str]:
    """Whether it is text that a selector can name, so that a rule can find it."""
    return isinstance(value, str) and 0 < len(value) <= limit and value.isprintable()


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


def _list(data: Mapping[str, Any], name: str, most: int) -> tuple[str, ...]:
    """Read a list that is left out when it is empty."""
    if name not in data:
        return ()
    value = data[name]
    if not isinstance(value, list) or not 0 < len(value) <= most or not all(map(_is_text, value)):
        msg = f"{name}: must be a list of 1 to {most} printable texts of at most {MAX_TEXT} characters"
        raise ClaimsError(msg)
    return tuple(value)


def _texts(data: Mapping[str, Any], name: str, most: int = MAX_INHERITED) -> tuple[str, ...]:
    """Read a list of different texts."""
    texts = _list(data, name, most)
    if len(set(texts)) < len(texts):
        msg = f"{name}: must not have a text twice"
        raise ClaimsError(msg)
    return texts


def nested_act(agents: tuple[str, ...]) -> dict[str, Any]:
    """Return the claim ``act`` (RFC 8693, 4.1) of these actors, the one who acts now first."""
    act: dict[str, Any] = {}
    for agent in reversed(agents):
        act = {"sub": agent, "act": act} if act else {"sub": agent}
    return act


def _act_chain(payload: Mapping[str, Any]) -> tuple[str, ...]:
    agents: list[str] = []
    inner = payload
    while "act" in inner:
        inner = inner["act"]
        if not isinstance(inner, Mapping) or len(agents) >= MAX_ACT_DEPTH:
            msg = f"act: must be nested objects, {MAX_ACT_DEPTH} deep at most"
            raise ClaimsError(msg)
        agents.append(_text(inner, "sub"))
    return tuple(agents)


def _by_field(facts: tuple[Fact, ...]) -> dict[str, list[str]]:
    by_field: dict[str, list[str]] = {}
    for name, value in facts:
        by_field.setdefault(name, []).append(value)
    return by_field


def _inherited(private: Mapping[str, Any]) -> tuple[Fact, ...]:
    """Read the facts of ancestors: sorted, without duplicates, each of a kind that is inherited."""
    data = private.get("inherited", {})
    if not isinstance(data, Mapping) or not data.keys() <= INHERITED:
        msg = f"inherited: must be an object with some of {', '.join(sorted(INHERITED))}"
        raise ClaimsError(msg)
    facts = [(name, value) for name in data for value in _texts(data, name)]
    if facts != sorted(set(facts)) or len(facts) > MAX_INHERITED:
        msg = f"inherited: must be sorted, without duplicates, {MAX_INHERITED} facts at most"
        raise ClaimsError(msg)
    return tuple(facts)


def _details(payload: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    if "authorization_details" not in payload:
        return ()
    data = payload["authorization_details"]
    # An empty list would bind a resource server to nothing, and be no bound at all to the broker.
    if not isinstance(data, list) or not data or not all(map(_is_detail, data)):
        msg = "authorization_details: must be a list of objects with a type"
        raise ClaimsError(msg)
    return tuple(data)


def _is_detail(element: object) -> bool:
    return isinstance(element, Mapping) and _is_text(element.get("type"))


def _sole_member(payload: Mapping[str, Any], name: str, member: str) -> str | None:
    """Return the text in a claim that is an object with one member; None if there is no such claim."""
    if name not in payload:
        return None
    value = payload[name]
    if not isinstance(value, Mapping) or len(value) != 1:
        msg = f"{name}: must have exactly one member"
        raise ClaimsError(msg)
    return _text(value, member)
