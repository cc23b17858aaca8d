"""What is asked of the broker, and the token that comes back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from broker.core.errors import Code, Malformed
from broker.core.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """One kind of token: for which resource, with which scopes (sorted; empty: the agent's default), for which task.

    ``subject_token`` is the token that this one is to come of (RFC 8693), if any. ``details`` are the
    ``authorization_details`` (RFC 9396) as JSON text; ``may_act`` is the only agent that it may be handed on to.
    ``break_glass`` is the reason to go ahead without the approval that it would need.
    """

    audience: str
    scopes: tuple[str, ...] = ()
    task: str | None = None
    subject_token: str | None = field(default=None, repr=False)
    details: str | None = None
    may_act: str | None = None
    break_glass: str | None = None

    def parameters(self) -> dict[str, str]:
        """Return it as parameters of a token request."""
        named = {
            "resource": self.audience,
            "scope": " ".join(self.scopes) or None,
            "task": self.task,
            "authorization_details": self.details,
            "may_act": self.may_act,
            "break_glass": self.break_glass,
        }
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Token:
    """An access token. The token itself cannot be printed, pickled or JSON-encoded; ``access_token`` reveals it.

    ``token_type`` is ``Bearer`` or ``DPoP``; ``scopes`` are those granted; ``expires_in`` is the lifetime that the
    broker named, in seconds, counted from ``asked_at``, a reading of the client's own clock taken before it asked.
    ``approved`` says that a person had to agree to it: another one is not asked for before it is needed.
    """

    secret: Secret
    token_type: str
    want: Want
    scopes: tuple[str, ...]
    expires_in: int
    asked_at: float
    approved: bool = False

    @property
    def access_token(self) -> str:
        """The token itself: whoever holds it has its authority (unless it is bound to a key). Send it, nothing else."""
        return self.secret.reveal().decode()


def want(audience: str, scopes: Iterable[str], task: str | None, **more: str | None) -> Want:
    """Return what a caller asks for; ``scopes`` may also be one text with scopes separated by spaces.

    ``more`` are other members of :class:`Want`.

    Raises ``Malformed`` when the audience is empty.
    """
    if not audience:
        raise Malformed("audience: name the resource that the token is for", Code.AUDIENCE_REQUIRED)
    names = scopes.split(" ") if isinstance(scopes, str) else scopes
    return Want(audience=audience, scopes=tuple(sorted({name for name in names if name})), task=task, **more)
