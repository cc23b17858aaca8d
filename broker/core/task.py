"""Tasks: the unit of work that credentials belong to, with a purpose, an end, a ceiling and a budget."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from broker.core.errors import Code, Malformed
from broker.core.visible import is_visible

MAX_PURPOSE: Final = 500
MAX_LABELS: Final = 16
MAX_LABEL: Final = 128
MAX_TASK_DEPTH: Final = 64
"""How many ancestors a task may have: all of them stand in every token of it."""

DEFAULT_TASK_TTL: Final = 3600
"""Seconds that a task is open at most, in a role that does not say."""

TOKENS: Final = "tokens"
LEASES: Final = "leases"
ACTION: Final = "action:"
"""The kinds of what a budget limits: ``tokens``, ``leases``, and ``action:`` with the name of the action."""

_TASK_ID: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:~-]{0,126}[A-Za-z0-9])?")
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:/-]{0,126}[A-Za-z0-9])?")

_INSTRUCTIONS: Final = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b.{0,40}\b(?:instruction|instructions|rule|rules|polic(?:y|ies)|prompt|previous|above)\b"
    r"|\b(?:system|developer)\s+(?:prompt|message)\b"
    r"|\byou\s+(?:are|must|should|will)\b|\b(?:please\s+)?approve\s+(?:this|it|all|immediately|now)\b"
    r"|\bpre-?approved\b|\bdo\s+not\s+(?:ask|check|verify|tell|review)\b|<\s*/?\s*(?:system|assistant|user)\b|https?://",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much a task may use; None is no limit of that kind.

    If ``actions`` is a mapping, an action that is not in it may not be done at all.
    """

    tokens: int | None = None
    leases: int | None = None
    actions: Mapping[str, int] | None = None

    def limits(self) -> dict[str, int]:
        """Return what is limited: the resource (such as ``tokens`` or ``action:refunds:create``) and how many."""
        named = {TOKENS: self.tokens, LEASES: self.leases}
        found = {resource: limit for resource, limit in named.items() if limit is not None}
        return found | {ACTION + name: limit for name, limit in (self.actions or {}).items()}

    def limits_resource(self, resource: str) -> bool:
        """Whether the use of a resource is limited at all."""
        if resource.startswith(ACTION):
            return self.actions is not None
        return (self.tokens if resource == TOKENS else self.leases) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as it was opened; nothing here ever changes. Times are Unix seconds.

    ``owner`` is the id of the agent whose work it is, ``role`` the role under which it was opened. ``scopes`` is the
    ceiling: for each audience the scopes that a token of this task may have (None: whatever its holder's role allows);
    ``secrets`` likewise. ``path`` are its ancestors from the root down. No grant outlives ``deadline``. With an
    ``idle_timeout`` (seconds) the task ends when it was not heard of for so long. ``purpose`` is text from outside: it
    is data, to be shown escaped. ``flagged`` says that it reads like instructions to whoever reads it. ``implicit``
    tasks were made with the defaults of the role for a token whose request named no task.
    """

    id: str
    owner: str
    role: str
    purpose: str
    opened_at: float
    deadline: int
    scopes: Mapping[str, tuple[str, ...]] | None = None
    secrets: tuple[str, ...] | None = None
    budget: Budget = field(default_factory=Budget)
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    path: tuple[str, ...] = ()
    idle_timeout: int | None = None
    flagged: bool = False
    implicit: bool = False

    def allows(self, audience: str, scopes: tuple[str, ...]) -> bool:
        """Whether the ceiling covers a token for ``audience`` with ``scopes``."""
        return self.scopes is None or set(scopes) <= set(self.scopes.get(audience, ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What is left of one resource of a task's budget: ``limit`` = used + reserved for sub-tasks + left."""

    limit: int
    used: int
    reserved: int

    @property
    def left(self) -> int:
        """How many may still be used or reserved."""
        return self.limit - self.used - self.reserved


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskState:
    """A task and what has become of it. ``closed_because`` is ``closed``, ``deadline``, ``idle`` or ``revoked``.

    ``holds_until`` is when the last grant of this very task (its sub-tasks left aside) that was committed expires.
    """

    task: Task
    heartbeat_at: float
    balances: Mapping[str, Balance]
    holds_until: float = 0
    closed_at: float | None = None
    closed_because: str | None = None

    def ended(self, now: float) -> str | None:
        """Return why the task is not open at ``now``, or None if it is."""
        if self.closed_at is not None:
            return self.closed_because
        if self.task.deadline <= now:
            return "deadline"
        idle = self.task.idle_timeout
        return "idle" if idle is not None and self.heartbeat_at + idle <= now else None


def parse_task_id(text: str) -> str:
    """Return ``text`` if it can be a task id: 1 to 128 of A-Z a-z 0-9 ``. _ : ~ -``. Raises ``Malformed``."""
    if _TASK_ID.fullmatch(text) is None:
        msg = "task: 1 to 128 ASCII letters, digits and . _ : ~ - (starting and ending with a letter or digit)"
        raise Malformed(msg, Code.TASK_MALFORMED)
    return text


def check_purpose(text: str) -> str:
    """Return a purpose as it may be stored: 1 to 500 characters, NFC, in one line of printable text.

    Raises ``Malformed`` for anything that could be shown otherwise than it reads: control characters, line breaks,
    invisible and bidirectional formatting characters, private use and unassigned code points.
    """
    purpose = unicodedata.normalize("NFC", text).strip()
    if not 0 < len(purpose) <= MAX_PURPOSE:
        msg = f"purpose: must be 1 to {MAX_PURPOSE} characters"
        raise Malformed(msg, Code.TASK_MALFORMED)
    if not is_visible(purpose):
        msg = "purpose: must be one line of printable text, without control or formatting characters"
        raise Malformed(msg, Code.TASK_MALFORMED)
    return purpose


def looks_like_instructions(purpose: str) -> bool:
    """Whether a purpose reads like instructions to its reader: a hint for people, on which nothing is decided."""
    return _INSTRUCTIONS.search(unicodedata.normalize("NFKC", purpose)) is not None


def check_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Return the labels if they can be stored. Raises ``Malformed``."""
    if len(labels) > MAX_LABELS:
        msg = f"labels: at most {MAX_LABELS}"
        raise Malformed(msg, Code.TASK_MALFORMED)
    for name, value in labels.items():
        if _NAME.fullmatch(name) is None or not 0 < len(value) <= MAX_LABEL or not is_visible(value):
            msg = f"labels: names are ASCII words, values printable text of 1 to {MAX_LABEL} characters"
            raise Malformed(msg, Code.TASK_MALFORMED)
    return labels


def is_action_name(text: str) -> bool:
    """Whether ``text`` can name an action: 1 to 128 of A-Z a-z 0-9 ``. _ : / -``."""
    return _NAME.fullmatch(text) is not None
