"""What is asked for a lease, and what comes back, read strictly: what is not exactly an answer is not used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeGuard

import msgspec

from broker.client.delivery import DeliveryError, DeliveryKey
from broker.client.errors import LeaseUnavailable
from broker.client.pending import is_count
from broker.client.token import Subject
from broker.core.secret import Secret

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseWant:
    """What is asked for. ``ttl`` is a duration such as ``5m``; ``subject`` the token that it is taken with, if any.

    With ``encrypted`` the secret is to come encrypted.
    """

    secret: str
    task: str | None = None
    ttl: str | None = None
    subject: Subject | None = None
    break_glass: str | None = None
    encrypted: bool = False

    def body(self) -> dict[str, Any]:
        """Return it as the body of a request."""
        named = {"secret": self.secret, "task": self.task, "ttl": self.ttl, "break_glass": self.break_glass}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def handed(self) -> str | None:
        """The token that it is taken with, as it is sent."""
        return None if self.subject is None else self.subject.secret.reveal().decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """How long a lease lasts: ``seconds`` from ``asked_at`` on (the client's own clock), which is ``expires_at``.

    ``seconds`` is None if it does not end by itself.
    """

    asked_at: float
    seconds: int | None
    expires_at: datetime | None
    renewable: bool

    @property
    def ends(self) -> float | None:
        """When it ends, by the client's own clock."""
        return None if self.seconds is None else self.asked_at + self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A lease that was taken; ``data`` is the secret, a JSON object."""

    id: str
    task: str | None
    revocable: bool
    term: Term
    data: Secret = field(repr=False)


def is_lease_id(value: object) -> TypeGuard[str]:
    """Whether this can be the id of a lease, and nothing else in a path."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def read_lease(
    answer: Mapping[str, Any], want: LeaseWant, delivery: DeliveryKey | None, asked_at: float
) -> Taken | None:
    """Read what taking a lease brought; None if the secret is not in it: the answer that had it got lost.

    Raises ``LeaseUnavailable`` if it is not exactly what was asked for.
    """
    lease, task = answer.get("lease_id"), answer.get("task")
    if not is_lease_id(lease):
        raise _unusable("lease_id")
    if answer.get("secret") != want.secret:
        raise _unusable("secret")
    data = _data(answer, delivery)
    if data is None:
        return None
    revocable = answer.get("revocable")
    return Taken(
        id=lease,
        task=task if isinstance(task, str) else None,
        revocable=revocable is True,
        term=read_term(answer, asked_at),
        data=data,
    )


def _data(answer: Mapping[str, Any], delivery: DeliveryKey | None) -> Secret | None:
    """Return the secret: a JSON object. None if there is none."""
    data, jwe = answer.get("data"), answer.get("jwe")
    if delivery is None:
        if data is not None and not isinstance(data, dict):
            raise _unusable("data")
        return None if data is None else Secret(msgspec.json.encode(data))
    if data is not None:
        raise LeaseUnavailable("the secret did not come encrypted, as it was asked for")
    if jwe is None:
        return None
    try:
        opened = delivery.open(jwe if isinstance(jwe, str) else "")
        msgspec.json.decode(opened.reveal(), type=dict[str, Any])
    except DeliveryError as error:
        raise LeaseUnavailable(str(error)) from error
    except msgspec.DecodeError as error:
        raise _unusable("data") from error
    return opened


def read_term(answer: Mapping[str, Any], asked_at: float) -> Term:
    """Read how long a lease lasts, as asked at ``asked_at``. Raises ``LeaseUnavailable``."""
    seconds, text, renewable = answer.get("lease_duration"), answer.get("expires_at"), answer.get("renewable")
    if seconds is not None and not (is_count(seconds) and seconds >= 0):
        raise _unusable("lease_duration")
    return Term(
        asked_at=asked_at,
        seconds=seconds,
        expires_at=None if text is None else _moment(text),
        renewable=renewable is True,
    )


def _moment(text: object) -> datetime:
    try:
        moment = datetime.fromisoformat(text if isinstance(text, str) else "")
    except ValueError as error:
        raise _unusable("expires_at") from error
    if moment.tzinfo is None:
        raise _unusable("expires_at")
    return moment


def _unusable(name: str) -> LeaseUnavailable:
    return LeaseUnavailable(f"the broker's answer has no usable {name}")
