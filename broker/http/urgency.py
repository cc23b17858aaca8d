"""What a request is for, which says in which order requests are turned away."""

from __future__ import annotations

from enum import Enum


class Urgency(Enum):
    """What becomes of a request when more is asked than this process can do."""

    REVOKING = "revoking"
    """Revoking, and responding to what happens: never turned away."""

    SIGNING_IN = "signing_in"
    """Asking for a token for the broker's own API, without which nobody can revoke: has a few places of its own."""

    TELLING = "telling"
    """Reading and introspecting: turned away when turning away what issues was not enough."""

    ISSUING = "issuing"
    """Giving out authority: turned away first."""
