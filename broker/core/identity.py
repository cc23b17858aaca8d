"""Who an agent is: the verified identity that every decision is made about."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import msgspec

REGISTERED: Final = "registered"
"""The issuer name of agents that were registered with the broker by their own public key."""

MAX_NAME: Final = 128
MAX_ID: Final = 512
"""The longest agent id: what a claim and a selector can hold."""

_sorted_json: Final = msgspec.json.Encoder(order="sorted")
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?")

Attribute = str | int | bool | tuple[str, ...]
"""A verified claim in the shape that the policy can match."""


@dataclass(frozen=True, slots=True)
class Agent:
    """An authenticated workload identity.

    ``id`` is stable and unique: a registered agent's name has no slash; a federated agent's id is
    ``<issuer name>/<path>`` and always has one, so the two can never collide. ``issuer`` is the *policy's name* of who
    vouched (:data:`REGISTERED` for registered keys), ``subject`` the identity in that issuer's own words, and
    ``attributes`` its verified claims, which policy rules match against.
    """

    id: str
    issuer: str
    subject: str
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    def attributes_digest(self) -> str:
        """Return SHA-256 (hex) of the attributes as JSON with sorted members."""
        return hashlib.sha256(_sorted_json.encode(dict(self.attributes))).hexdigest()


def bearer(agent_id: str, issuer: str) -> Agent:
    """Return an agent as a token of ours knows it, by which no line of the policy about subjects or claims may match.

    What an issuer called the agent, and said of it, is not in the token; a registered agent has one name only.
    """
    return Agent(agent_id, issuer, agent_id if issuer == REGISTERED else "")


def is_name(text: str) -> bool:
    """Whether ``text`` can name a registered agent, a role, a tier or an issuer: lower-case, no slash, <= 128."""
    return _NAME.fullmatch(text) is not None


def federated_id(issuer_name: str, *segments: str) -> str:
    """Build a federated agent's id; segments are percent-encoded, so different inputs never give the same id.

    Raises ``ValueError`` if there is no segment (the id would be a registered agent's name), if a segment is empty or
    not Unicode text, or if the id would be longer than :data:`MAX_ID`: no selector could name such an agent.
    """
    if not segments or not all(segments):
        msg = "an identity needs segments, and none may be empty"
        raise ValueError(msg)
    agent_id = "/".join([issuer_name, *(quote(segment, safe="-._~:@") for segment in segments)])
    if len(agent_id) > MAX_ID:
        msg = f"an identity of {len(agent_id)} characters is longer than {MAX_ID}"
        raise ValueError(msg)
    return agent_id
