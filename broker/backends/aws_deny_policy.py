"""Denied sessions of an IAM role: an inline policy that takes every permission from some of its sessions.

AWS has no call that ends one session. But it evaluates the role's policies at every request, and an explicit deny wins
over whatever allows (IAM user guide, "Disabling permissions for temporary security credentials").
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from broker.backends.aws_failures import MISSING, AwsFailed, refused, unavailable
from broker.backends.aws_session import AwsSession
from broker.ports import Clock

MAX_CHARACTERS: Final = 10_240
"""All inline policies of a role together have at most so many, white space not counted (IAM quotas)."""

PERIOD: Final = 1800
"""Seconds. Sessions that expire within the same period are denied by one statement, and dropped together after it."""

REQUESTS: Final = 10
"""How many requests :meth:`DeniedSessions.settle` makes at most, those that it waits for included."""

_PAUSES: Final = (0.0, 0.2, 0.8)


class Match(Enum):
    """What a session is known by: the tag ``lease`` that its caller gave it, or the name of the session.

    A tag is transitive: it stays when the session assumes its own role again. Names are in ``aws:userid`` after a
    colon, which no name contains.
    """

    TAG = "Tag", "StringEquals", "aws:PrincipalTag/lease", ""
    NAME = "Name", "StringLike", "aws:userid", "*:"

    def __init__(self, word: str, operator: str, key: str, prefix: str) -> None:
        """``word`` stands in the ids of statements; the rest is IAM's condition."""
        self.word = word
        self.operator = operator
        self.key = key
        self.prefix = prefix


@dataclass(frozen=True, slots=True)
class Denied:
    """A session to be denied. ``value`` is its tag or name, ``until`` (Unix seconds) when it has expired for sure."""

    match: Match
    value: str
    until: int

    @property
    def period(self) -> int:
        """The end of the period in which it expires (Unix seconds)."""
        return -(-self.until // PERIOD) * PERIOD


Held = dict[tuple[Match, str], int]
"""Denied sessions, with the end of their periods."""


class DeniedSessions:
    """The sessions of one role that are denied. Thread-safe; belongs to one backend, as its policy does.

    The policy is read, changed and written back as a whole, by one thread at a time, which does it for all that wait.
    IAM is eventually consistent: what was written may be missing from what is read next, so that what this process
    wrote is remembered. Nothing else is: the ids of the statements say when they can be dropped.

    Names never repeat, so sessions are denied whenever they were issued: also by a request that was still under way.
    """

    def __init__(self, session: AwsSession, role_arn: str, *, clock: Clock) -> None:
        """``role_arn`` must be of the account that the session is in: IAM is told no more than the role's name."""
        self._session = session
        self._arn = role_arn
        self._clock = clock
        self._role = role_arn.rpartition("/")[2]
        self._policy = "broker-revoked-" + re.sub(r"[^A-Za-z0-9+=,.@_-]", "-", session.name)
        self._waiting: set[Denied] = set()
        self._settled: set[Denied] = set()
        self._written: Held = {}
        self._mutex = threading.Lock()
        self._writing = threading.Lock()

    def ask(self, denied: Denied) -> None:
        """Have a session denied together with others, by whoever is next in :meth:`settle`."""
        with self._mutex:
            self._waiting.add(denied)

    def settle(self, denied: Denied) -> None:
        """Return once a policy that denies the session was read back. Raises ``AwsFailed``."""
        with self._writing:
            if denied in self._settled:
                self._settled.discard(denied)
                return
            with self._mutex:
                batch = {denied, *self._waiting}
                self._waiting.clear()
            self._deny(denied, batch)

    # --- by one thread at a time ---

    def _deny(self, denied: Denied, batch: Iterable[Denied]) -> None:
        """Deny sessions, as far as there is room. Raises ``AwsFailed`` if there is none for ``denied``."""
        now = self._clock.now()
        listed = self._read()
        held = {key: end for key, end in {**listed, **self._written}.items() if end > now}
        placed = {each for each in (denied, *batch) if _add(held, each)}
        if any(listed.get(key, 0) < end for key, end in held.items()):
            self._write(held)
        self._settled = {each for each in {*self._settled, *placed} if each.period > now} - {denied}
        if denied not in placed:
            raise self._full(held)

    def _read(self) -> Held:
        parameters = {"RoleName": self._role, "PolicyName": self._policy}
        try:
            answer = self._session.request("iam:GetRolePolicy", self._arn, parameters, effect=False)
        except AwsFailed as failed:
            if failed.error in MISSING:
                return {}
            raise
        held = _parsed(answer.get("PolicyDocument"))
        if held is None:
            text = f"the policy {self._policy} of {self._arn} was changed by somebody: remove it, then retry"
            raise refused(f"{self._session.name}: {text}")
        return held

    def _write(self, held: Held) -> None:
        """Write the policy and read it back. Raises ``AwsFailed``, uncertain if it may be there all the same."""
        parameters = {"RoleName": self._role, "PolicyName": self._policy, "PolicyDocument": _text(held)}
        try:
            self._session.request("iam:PutRolePolicy", self._arn, parameters)
        except AwsFailed as failed:
            raise self._full(held) if failed.error == "LimitExceeded" else failed from None
        self._written = held
        for pause in _PAUSES:
            time.sleep(pause)
            if held.keys() <= self._read().keys():
                return
        text = f"{self._session.name}: the policy {self._policy} was written, but IAM does not show it yet"
        raise unavailable(text, uncertain=True)

    def _full(self, held: Held) -> AwsFailed:
        text = (
            f"{self._session.name}: the inline policies of {self._arn} have no room for more denied sessions until "
            "some expire; all sessions of a role can be revoked in the IAM console"
        )
        now = self._clock.now()
        return refused(text, retry_after=max(1, int(min(held.values(), default=now) - now) + 1))


def _add(held: Held, denied: Denied) -> bool:
    """Add a session, if it is not there and there is room; return whether it is there now."""
    key = (denied.match, denied.value)
    before = held.get(key, 0)
    held[key] = max(before, denied.period)
    if len(_text(held)) <= MAX_CHARACTERS:
        return True
    if before:
        held[key] = before
    else:
        del held[key]
    return bool(before)


# --- the document ---------------------------------------------------------------------------------------------------


def _text(held: Held) -> str:
    """Return the policy, without white space."""
    groups: defaultdict[tuple[Match, int], list[str]] = defaultdict(list)
    for (match, value), end in held.items():
        groups[match, end].append(match.prefix + value)
    statements = [
        {
            "Sid": f"{match.word}Until{end}",
            "Effect": "Deny",
            "Action": "*",
            "Resource": "*",
            "Condition": {match.operator: {match.key: sorted(values)}},
        }
        for (match, end), values in sorted(groups.items(), key=lambda item: (item[0][1], item[0][0].word))
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


def _parsed(document: Any) -> Held | None:  # noqa: ANN401 - whatever stands there
    """Return what a policy denies, or None if this broker did not write it so."""
    held: Held = {}
    try:
        for statement in document["Statement"]:
            word, _, end = statement["Sid"].partition("Until")
            match = next(match for match in Match if match.word == word)
            for value in statement["Condition"][match.operator][match.key]:
                held[match, value.removeprefix(match.prefix)] = int(end)
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError):
        return None
    return held if document == json.loads(_text(held)) else None
