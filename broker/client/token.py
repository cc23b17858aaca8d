"""What is asked of the broker, and the token that comes back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, get_args

from broker.core.errors import Code, Malformed
from broker.core.secret import Secret

Details = Sequence[Mapping[str, Any]]
"""``authorization_details`` (RFC 9396): objects, each with a ``type``; values are those of JSON, without fractions."""

TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:"
ACCESS_TOKEN_TYPE: Final = TOKEN_TYPE + "access_token"
JWT_TYPE: Final = TOKEN_TYPE + "jwt"
"""What tokens are called where they are exchanged (RFC 8693, 3); an identity token is a ``jwt``."""

SubjectTokenType = Literal["access_token", "id_token", "jwt"]
"""What a token is that is to be exchanged: the broker's own, or one of an issuer that the policy trusts."""

_TOKEN: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Subject:
    """A token that is to be exchanged: told apart by its digest, and never shown. ``token_type`` is its full name."""

    digest: str
    secret: Secret = field(compare=False, repr=False)
    token_type: str = ACCESS_TOKEN_TYPE


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """One kind of token: for which resource, with which scopes (sorted; empty: the agent's default), for which task.

    ``subject`` is the token that this one is to come of (RFC 8693), if any. ``details`` are the
    ``authorization_details`` as JSON text with sorted members; ``may_act`` is the only agent that it may be handed on
    to. ``break_glass`` is the reason to go ahead without the approval that it would need. ``identity`` says that it is
    an identity token, by which others than resource servers know the agent.
    """

    audience: str
    scopes: tuple[str, ...] = ()
    task: str | None = None
    subject: Subject | None = None
    details: str | None = None
    may_act: str | None = None
    break_glass: str | None = None
    identity: bool = False

    def parameters(self) -> dict[str, str]:
        """Return it as parameters of a token request, but for the token that is to be exchanged."""
        named = {
            "audience" if self.identity else "resource": self.audience,
            "requested_token_type": JWT_TYPE if self.identity else None,
            "scope": " ".join(self.scopes) or None,
            "task": self.task,
            "authorization_details": self.details,
            "may_act": self.may_act,
            "break_glass": self.break_glass,
        }
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Token:
    """An access token or an identity token, which cannot be printed, pickled or JSON-encoded: see ``access_token``.

    ``token_type`` is ``Bearer`` or ``DPoP``, or ``N_A`` for an identity token; ``scopes`` and ``details`` are those
    granted; ``expires_in`` is the lifetime that the broker named, in seconds, counted from ``asked_at``, a reading of
    the client's own clock taken before it asked. ``approved`` says that a person had to agree to it.
    ``ledger_index`` is the place of its entry in the broker's ledger, if the broker tells that.
    """

    secret: Secret
    token_type: str
    want: Want
    scopes: tuple[str, ...]
    expires_in: int
    asked_at: float
    approved: bool = False
    details: tuple[Mapping[str, Any], ...] = ()
    ledger_index: int | None = None

    @property
    def access_token(self) -> str:
        """The token itself: whoever holds it has its authority (unless it is bound to a key). Send it, nothing else."""
        return self.secret.reveal().decode()

    @property
    def renews(self) -> bool:
        """Whether another one is got ahead of its end, before anybody needs it.

        Not if a person had to agree, or was passed over (nobody is to be disturbed without need), and not if it came of
        another token: the next one would end with that one as well.
        """
        return not self.approved and self.want.break_glass is None and self.want.subject is None


def want(
    audience: str,
    scopes: Iterable[str],
    task: str | None,
    *,
    subject: Subject | None = None,
    details: Details | None = None,
    may_act: str | None = None,
    break_glass: str | None = None,
) -> Want:
    """Return what a caller asks for; ``scopes`` may also be one text with scopes separated by spaces.

    Raises ``Malformed`` when the audience is empty, the details are not JSON, or a text cannot be sent at all.
    """
    if not audience:
        raise Malformed("audience: name the resource that the token is for", Code.AUDIENCE_REQUIRED)
    names = tuple(scopes.split(" ") if isinstance(scopes, str) else scopes)
    _check_sendable(audience, *names, task or "", may_act or "", break_glass or "")
    return Want(
        audience=audience,
        scopes=tuple(sorted({name for name in names if name})),
        task=task,
        subject=subject,
        details=None if details is None else _json(details),
        may_act=may_act,
        break_glass=break_glass,
    )


def want_identity(audience: str, task: str | None, subject_token: Token | str) -> Want:
    """Return the wish for an identity token that comes of ``subject_token``. Raises ``Malformed`` as :func:`want`."""
    return replace(want(audience, (), task, subject=subject_of(subject_token)), identity=True)


def _check_sendable(*texts: str) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Malformed("a parameter has characters that are none (lone surrogates)") from error


def subject_of(token: Token | str, token_type: SubjectTokenType = "access_token") -> Subject:
    """Return a token that is to be exchanged. Raises ``Malformed`` (``SUBJECT_TOKEN_INVALID``) for what cannot be."""
    if isinstance(token, str) and _TOKEN.fullmatch(token) is None:
        raise Malformed("subject_token: not a token", Code.SUBJECT_TOKEN_INVALID)
    if token_type not in get_args(SubjectTokenType):
        known = ", ".join(get_args(SubjectTokenType))
        raise Malformed(f"subject_token_type: one of {known}", Code.SUBJECT_TOKEN_INVALID)
    secret = token.secret if isinstance(token, Token) else Secret(token)
    return Subject(hashlib.sha256(secret.reveal()).hexdigest(), secret, TOKEN_TYPE + token_type)


def _json(details: Details) -> str:
    """Return details as text: the same for equal ones, so that equal requests are one."""
    try:
        return json.dumps(list(details), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Malformed("details: must be objects of JSON values", Code.DETAILS_INVALID) from error
