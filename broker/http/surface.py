"""What the HTTP surface is given: the use cases behind it, and the site it speaks for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final

from broker.actions import Actions
from broker.admission import Admission
from broker.anchoring import Anchoring
from broker.approvals import Approvals
from broker.core.token_check import TokenCheck
from broker.erasure import Erasure
from broker.feed import Feed
from broker.http.paths import API, API_METADATA, TOKEN
from broker.http.pressure import Pressure
from broker.introspection import Introspection
from broker.issuance import IdentityTokens, Issuance
from broker.key_rotation import KeyRotation
from broker.leasing import Holdings, Leasing, Oversight
from broker.metrics import Metrics
from broker.policy_control import PolicyControl
from broker.ports import Clock, Events, Freshness, Ids, Inquiries, Proofs, Records, Revocations
from broker.propagation import Acknowledging, Propagations
from broker.receipts import Receipts
from broker.registration import Registration
from broker.revocation import Revocation
from broker.right_sizing import RightSizing
from broker.status_lists import StatusLists
from broker.tasks import Tasks

Network = IPv4Network | IPv6Network

LOOPBACK: Final[tuple[Network, ...]] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))

MAX_BODY: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The use cases and ports that requests are handed to.

    ``jwks`` returns the published key set at a time (Unix seconds); ``snapshot`` the signed list of live rules; the
    signing side caches both. ``cosigned`` returns the newest checkpoint that a witness has cosigned, with the
    cosignatures. ``nonce`` returns the DPoP nonce of a time, for proofs that must hold one. ``health`` says
    of each thing that readiness depends on what is wrong with it, or None. ``measured`` returns the metrics of all
    workers in the Prometheus text format.
    """

    issuance: Issuance
    identities: IdentityTokens
    admission: Admission
    introspection: Introspection
    revocation: Revocation
    feed: Feed
    propagations: Propagations
    acknowledging: Acknowledging
    registration: Registration
    key_rotation: KeyRotation
    tasks: Tasks
    approvals: Approvals
    actions: Actions
    leasing: Leasing
    holdings: Holdings
    oversight: Oversight
    policy_control: PolicyControl
    right_sizing: RightSizing
    erasure: Erasure
    records: Records
    anchoring: Anchoring
    cosigned: Callable[[], Awaitable[str | None]]
    inquiries: Inquiries
    proofs: Proofs
    receipts: Receipts
    revocations: Revocations
    status_lists: StatusLists
    token_check: TokenCheck
    freshness: Freshness
    jwks: Callable[[float], dict[str, Any]]
    snapshot: Callable[[float], str]
    health: Callable[[], Awaitable[Mapping[str, str | None]]]
    nonce: Callable[[float], str]
    clock: Clock
    ids: Ids
    metrics: Metrics
    measured: Callable[[], Awaitable[bytes]]
    events: Events
    pressure: Pressure


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Under which public URLs the broker is reached, and the limits of one request.

    Every URL that is compared or published comes from ``issuer``, never from what a request says about its host.
    ``body_seconds`` bounds receiving a body, ``request_seconds`` all of a request. ``failures_per_minute`` is how many
    failed attempts without an identity one address (an IPv6 /64) may make before it must wait; addresses in
    ``unlimited`` may make any number: by default this machine's own, where a proxy stands for many.
    ``trusted_proxies`` are believed when they say for whom they speak; by default nobody is. With ``index_in_answers``
    a token's answer says at which place in the ledger it is recorded.
    """

    issuer: str
    body_bytes: int = MAX_BODY
    body_seconds: float = 10.0
    request_seconds: float = 30.0
    failures_per_minute: int = 600
    unlimited: tuple[Network, ...] = LOOPBACK
    trusted_proxies: tuple[Network, ...] = ()
    access_log: bool = True
    index_in_answers: bool = False
    api_audience: str = field(init=False)
    token_endpoint: str = field(init=False)
    resource_metadata: str = field(init=False)

    def __post_init__(self) -> None:
        """Derive the URLs."""
        object.__setattr__(self, "api_audience", self.issuer + API)
        object.__setattr__(self, "token_endpoint", self.issuer + TOKEN)
        object.__setattr__(self, "resource_metadata", self.issuer + API_METADATA)
