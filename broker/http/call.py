"""One call: a request together with who makes it, which route it took, and what answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import Enum, auto

from aiohttp import web

from broker.core.errors import BrokerError, Code
from broker.http.surface import Services, Site
from broker.http.urgency import Urgency
from broker.ports import Admitted, Caller


class Access(Enum):
    """How a route that needs no scope is guarded. There is no default: every route says one, or names its scope."""

    PUBLIC = auto()
    """Anybody may call it."""

    HOLDER = auto()
    """Whoever has an access token for this API, with whatever scope: it is about the caller itself."""

    CLIENT = auto()
    """An OAuth endpoint: its handler authenticates the client by the form."""


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the route table. ``access`` is the scope that a caller's token needs, or an :class:`Access`.

    ``deep`` says that the last variable part of the path may have slashes in it.
    ``revokes`` says that it ends credentials, which must work even when the rules in force cannot be read.
    ``protected`` says of an OAuth endpoint that whoever is not admitted gets 401 and a challenge (RFC 7662, 2.1).
    """

    method: str
    path: str
    access: Access | str
    handler: Handler
    urgency: Urgency = Urgency.TELLING
    revokes: bool = False
    protected: bool = False
    deep: bool = False

    @property
    def pattern(self) -> str:
        """The path as the router wants it."""
        return f"{self.path.removesuffix('}')}:.+}}" if self.deep else self.path

    @property
    def speaks_oauth(self) -> bool:
        """Whether its errors are OAuth error answers (RFC 6749, 5.2) instead of problem details."""
        return self.access is Access.CLIENT


@dataclass(slots=True)
class Call:
    """A request on its way. ``agent`` is set once it is known who calls; the access log names it.

    ``as_grant`` says that the assertion in it is a grant, so that a bad one is ``invalid_grant``; ``used_basic`` that
    the client tried HTTP Basic, ``used_token`` that it came with an access token: the challenge must fit. ``code`` is
    why the call was refused.
    """

    request: web.Request
    services: Services
    site: Site
    caller: Caller
    traceparent: str
    route: Route | None
    admitted: Admitted | None = None
    agent: str | None = None
    as_grant: bool = False
    used_basic: bool = False
    used_token: bool = False
    code: Code | None = None

    def admit(self, admitted: Admitted) -> None:
        """Note who is calling, and by which token."""
        self.admitted, self.agent = admitted, admitted.agent.id
        if admitted.claims is not None:
            self.caller = replace(self.caller, token=admitted.claims.jti, key=admitted.claims.jkt)

    @property
    def operator(self) -> Admitted:
        """Who was admitted by a token. Only handlers of routes that need one may ask."""
        if self.admitted is None:
            msg = "nobody was admitted to this call"
            raise BrokerError(Code.INTERNAL, "internal error") from RuntimeError(msg)
        return self.admitted

    def path_value(self, name: str) -> str:
        """Return a variable part of the path."""
        return self.request.match_info[name]


Handler = Callable[[Call], Awaitable[web.StreamResponse]]
