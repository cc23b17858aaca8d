"""The ports: what the use cases need from the outside, as small protocols whose docstrings promise semantics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from broker.core.action import ActionState
from broker.core.approval import ApprovalState
from broker.core.change import Change, Guard, Receipt, RegisteredAgent, StoredKey
from broker.core.claims import AccessClaims
from broker.core.erasing import Forgetting
from broker.core.errors import BrokerError, Code
from broker.core.identity import Agent
from broker.core.identity_token import IdentityClaims
from broker.core.inquiry import EntryFilter
from broker.core.lease import Ended, LeaseOrder, LeaseState, LeaseStatus, Taken
from broker.core.personal import Opened
from broker.core.rules import BlockIndex, Rule, RuleIndex
from broker.core.secret import Secret
from broker.core.selector import Selector
from broker.core.soundness import Unsound
from broker.core.story import Story
from broker.core.task import TaskState
from broker.core.tiles import Tile
from broker.core.tree_head import KnownHead
from broker.core.usage import Usage

# --- time and names -------------------------------------------------------------------------------------------------


class Clock(Protocol):
    """The wall clock. A use case reads it once per operation."""

    def now(self) -> float:
        """Unix seconds."""
        ...


class Ids(Protocol):
    """Makes names that nobody can guess and that never repeat."""

    def new(self, prefix: str) -> str:
        """Return ``<prefix>_<ULID>``: sortable by time, with 80 random bits."""
        ...

    def secret(self) -> str:
        """Return 256 random bits as URL-safe text, for one-time codes."""
        ...


# --- the ledger -----------------------------------------------------------------------------------------------------


class Ledger(Protocol):
    """The only store. Changes go in through :meth:`commit`, and nowhere else."""

    async def commit(self, change: Change) -> Receipt:
        """Apply a change in one serialisable transaction, and return once it is durable.

        Concurrent changes are grouped into one transaction; each stands or falls alone. Cancelling the caller does not
        undo a commit. Guards are evaluated against everything committed before.

        Raises ``EpochMoved`` if an ``EpochIs`` guard failed: the rules that moved the epoch are in the shared
        :class:`RuleIndex` by then. Raises ``GuardFailed`` with the guard's code if another guard failed
        (``ASSERTION_REPLAYED``, ``PROOF_REPLAYED``, ``RATE_LIMITED`` with ``retry_after``, ``CONFLICT``,
        ``ENROLLMENT_INVALID``, ``NOT_FOUND``, ``IDEMPOTENCY_KEY_REUSED``, ``TASK_NOT_OPEN``, ``BUDGET_USED_UP``,
        ``APPROVAL_INVALID``). Raises ``Unavailable``
        (``LEDGER_UNAVAILABLE``) if it could not be made durable; then it was not applied, or, if the store broke in the
        middle of the commit, may have been: callers release nothing either way.
        """
        ...


@dataclass(frozen=True, slots=True)
class Idempotent:
    """What an idempotency key was used for."""

    fingerprint: str
    ref: str


@dataclass(frozen=True, slots=True)
class LeaseHits:
    """The leases that a selector covers: those that their backends can end, those that only expire, and when the last.

    ``latest_expiry`` (Unix seconds) is of those that only expire; None if there are none, or if one never does.
    """

    revocable: int = 0
    expires_only: int = 0
    latest_expiry: int | None = None


@dataclass(frozen=True, slots=True)
class Hits:
    """What a selector covers that is alive: counted from the ledger, dead and expired credentials left out."""

    tokens: int
    tasks: int
    agents: int
    latest_expiry: int | None
    leases: LeaseHits = LeaseHits()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseFilter:
    """Which leases to list; None is any. ``below`` is a task with all below it."""

    agent: str | None = None
    below: str | None = None
    status: LeaseStatus | None = None
    secret: str | None = None
    backend: str | None = None
    before: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Record:
    """One ledger entry as stored: its place, its canonical bytes, and its decoded members, the personal ones included.

    ``personal`` are those alone, with their salt; None if it has none, or if they were erased.
    """

    seq: int
    body: bytes
    members: Mapping[str, Any]
    personal: Opened | None = None


@dataclass(frozen=True, slots=True)
class FoundRecords:
    """Entries that were found, the oldest first. ``next`` is the place above which to go on, None at the end."""

    records: Sequence[Record]
    next: int | None


@dataclass(frozen=True, slots=True)
class TreeHead:
    """The Merkle tree over all entries: how many, the RFC 6962 root, and the epoch."""

    size: int
    root: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A tree head that was signed: how many entries, their root, and the checkpoint (C2SP note) that says so."""

    size: int
    root: bytes
    note: str


@dataclass(frozen=True, slots=True)
class Proven:
    """An entry with the RFC 6962 inclusion proof, from the leaf's sibling upwards, that leads to a signed head."""

    record: Record
    path: Sequence[bytes]
    head: SignedHead


class Records(Protocol):
    """Reading the ledger. Reads run beside commits and see only what is durable.

    Every method raises ``Unavailable`` (``LEDGER_UNAVAILABLE``) if the store cannot be read.
    """

    async def registered_agent(self, name: str) -> RegisteredAgent | None:
        """Return a registered agent; cached, and never older than the last commit of this process."""
        ...

    async def registered_agents(self) -> Sequence[RegisteredAgent]:
        """Return all registered agents by name."""
        ...

    async def enrollment(self, code_digest: bytes, now: float) -> str | None:
        """Return the agent name that an unused, unexpired enrolment code is for."""
        ...

    async def keys(self) -> Sequence[StoredKey]:
        """Return every key of the broker's ring, revoked ones included."""
        ...

    async def rules(self, *, before: int | None = None, limit: int = 100) -> Sequence[Rule]:
        """Return committed rules, ended ones included, the youngest first, with numbers below ``before``."""
        ...

    async def rule(self, number: int) -> Rule | None:
        """Return a committed rule by its number."""
        ...

    async def hits(
        self, selector: Selector, now: float, *, before: int | None = None, apart_from: Sequence[Selector] = ()
    ) -> Hits:
        """Count the live credentials that a selector covers; ``before`` leaves out tokens of that epoch or later.

        Without ``before``, those are left out that the selectors in ``apart_from`` cover.
        """
        ...

    async def record(self, seq: int) -> Record | None:
        """Return the entry at a place."""
        ...

    async def record_of(self, ref: str) -> Record | None:
        """Return the oldest entry whose ``ref`` this is: a token id, a refusal id, a rule id."""
        ...

    async def records(self, *, after: int = -1, limit: int = 100) -> Sequence[Record]:
        """Return entries with a place above ``after``, oldest first."""
        ...

    async def recent(self, agent: str, limit: int = 10) -> Sequence[Record]:
        """Return what was recorded of an agent of late, the youngest first; looks at the last 100,000 entries only."""
        ...

    async def latest(self, kind: str) -> Record | None:
        """Return the youngest entry of a kind; looks at the last 100,000 entries only."""
        ...

    async def usage(self, since: float) -> Usage:
        """Count what was used of the policy since a time (Unix seconds). Goes through all entries, some ten times."""
        ...

    async def head(self) -> TreeHead:
        """Return the tree head as of the last commit."""
        ...

    async def checkpoint(self) -> str:
        """Return a signed checkpoint (C2SP note) of the current head, persisted before it was signed."""
        ...

    async def inclusion(self, seq: int, size: int) -> Sequence[bytes]:
        """Return the RFC 6962 inclusion proof of entry ``seq`` in the tree of ``size`` entries.

        Raises ``Refused`` (``NOT_FOUND``) if there is no such entry or tree, or if entries that are needed are gone.
        """
        ...

    async def consistency(self, old: int, new: int) -> Sequence[bytes]:
        """Return the RFC 6962 consistency proof between two tree sizes; raises like :meth:`inclusion`."""
        ...

    async def task(self, task_id: str) -> TaskState | None:
        """Return a stored task as of the last commit."""
        ...

    async def tasks(
        self,
        *,
        owner: str | None = None,
        below: str | None = None,
        open_at: float | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> Sequence[TaskState]:
        """Return stored tasks, the youngest first, with ids below ``before``: of one owner, below one task, or open."""
        ...

    async def due_tasks(self, now: float, limit: int = 100) -> Sequence[TaskState]:
        """Return tasks that were not closed though their deadline or idle time-out has passed, parents first.

        A task below another one that is due is left out: it is closed together with it.
        """
        ...

    async def tree_holds_until(self, task_id: str) -> float:
        """Return when the last grant of a task and of all below it expires (Unix seconds; 0: there never was one)."""
        ...

    async def action(self, action_id: str) -> ActionState | None:
        """Return a reservation."""
        ...

    async def actions(
        self, *, task: str | None = None, agent: str | None = None, before: str | None = None, limit: int = 100
    ) -> Sequence[ActionState]:
        """Return reservations, the youngest first: of one task with all below it, or of one agent."""
        ...

    async def approval(self, approval_id: str) -> ApprovalState | None:
        """Return a request for approval with its votes."""
        ...

    async def pending_approval(self, digest: str, now: float) -> ApprovalState | None:
        """Return the request with this digest that waits for a decision, if there is one."""
        ...

    async def approvals(
        self, *, stored: str | None = None, before: str | None = None, limit: int = 100
    ) -> Sequence[ApprovalState]:
        """Return requests for approval, the youngest first, with ids below ``before``; of one stored state."""
        ...

    async def idempotent(self, key: str) -> Idempotent | None:
        """Return what an idempotency key was used for, if it is remembered."""
        ...


class Proofs(Protocol):
    """What convinces somebody who trusts neither the broker nor its database; like :class:`Records` otherwise.

    The cost is a few rows for each level of the tree, never a pass through the entries.
    """

    async def prove(self, seq: int) -> Proven:
        """Return an entry with its proof under the last signed head that covers it; one is signed if there is none.

        Raises ``Refused`` (``NOT_FOUND``) if there is no such entry, or if entries that are needed are gone, and
        ``Unavailable`` (``LEDGER_CORRUPT``) instead of a proof that does not hold.
        """
        ...

    async def tile(self, tile: Tile) -> bytes:
        """Return the content of a tile or a bundle (C2SP tlog-tiles); it never changes. Raises like :meth:`prove`."""
        ...


class Inquiries(Protocol):
    """Asking the ledger what happened; like :class:`Records` otherwise."""

    async def find(self, wanted: EntryFilter, *, after: int = -1, limit: int = 100) -> FoundRecords:
        """Return entries above a place that are about what is asked.

        Looks through a bounded number of entries: there may be none in the answer, and yet more to come.
        """
        ...

    async def story(self, ref: str) -> Story | None:
        """Return the story of a token, a lease, a task, an approval or a rule; None if nothing is known of it."""
        ...


@dataclass(frozen=True, slots=True)
class Forgettable:
    """Places of entries that can lose their personal members now. ``in_use`` counts those that cannot yet.

    ``last`` is the place up to which was looked; ``more`` says that entries above it may be meant as well.
    """

    places: Sequence[int]
    in_use: int
    last: int
    more: bool


class Erasable(Protocol):
    """What it takes to forget personal data; raises as :class:`Records` does."""

    async def forgettable(self, wanted: Forgetting, now: float, *, after: int, limit: int) -> Forgettable:
        """Return up to ``limit`` entries above a place that are meant and still have personal members.

        What they record must be over: a token or task that lives, a request that waits, a rule in force keep theirs.
        Looks through a bounded number of entries.
        """
        ...

    async def forget_erased(self) -> bool:
        """Make the files hold nothing any more of what was erased; return whether they do not.

        They do for as long as somebody reads an older state of them. Does not wait for that.
        """
        ...


class Examining(Protocol):
    """One examination of the whole ledger, while it goes on being written. Each call may be slow."""

    @property
    def entries(self) -> int:
        """How many entries were gone through."""
        ...

    async def step(self, limit: int) -> int:
        """Go through the next entries, ``limit`` at most; return how many there were: fewer at the end.

        Raises ``Unavailable`` if the ledger cannot be read now.
        """
        ...

    async def finish(self) -> Unsound | None:
        """Go through what is not an entry; return what is wrong. Raises ``Unavailable``."""
        ...


class SelfExamined(Protocol):
    """The ledger in use, as what must be checked again and again."""

    @property
    def unsound(self) -> Unsound | None:
        """Why nothing is written to it any more; None if nothing is known against it."""
        ...

    @property
    def is_remembered(self) -> bool:
        """Whether all that is known against it is what others knew when an earlier process asked them."""
        ...

    async def contradictions(self, known: Mapping[str, KnownHead]) -> Sequence[str]:
        """Return what others know that does not fit, in plain words, but for what an operator accepted.

        Quick: it takes the ledger's own checkpoints at their word. Raises ``Unavailable`` if it cannot be read now.
        """
        ...

    async def examine(self, known: Mapping[str, KnownHead]) -> Examining:
        """Begin to go through all that is there now. Raises ``Unavailable`` if the ledger cannot be read now."""
        ...

    async def passed(self, entries: int) -> None:
        """Take note that everything was found sound, so many entries among it."""
        ...

    async def condemn(self, unsound: Unsound, entries: int) -> None:
        """Write nothing any more, in this process or a later one, until an operator has seen to it.

        Every commit fails with ``LEDGER_CORRUPT`` from now on. What is in force, stays so.
        """
        ...

    async def absolve(self, entries: int) -> None:
        """Forget what is only remembered from an earlier process; anything else stays."""
        ...


class LeaseRecords(Protocol):
    """Reading leases; like :class:`Records` otherwise."""

    async def lease(self, lease_id: str) -> LeaseState | None:
        """Return a lease."""
        ...

    async def leases(self, wanted: LeaseFilter) -> Sequence[LeaseState]:
        """Return leases, the youngest first, with ids below ``before``."""
        ...

    async def running_leases(self, *, after: str = "", limit: int = 1000) -> Sequence[LeaseState]:
        """Return leases that are opening, live, or held although they have ended, by id, with ids above ``after``."""
        ...

    async def over_leases(self, now: float, limit: int = 1000) -> Sequence[LeaseState]:
        """Return live leases whose time is over, the longest ended first."""
        ...

    async def lease_backends(self, now: float) -> Sequence[str]:
        """Return the backends with leases that are to be revoked at ``now``; held ones are left out."""
        ...

    async def lease_work(
        self, backend: str, now: float, limit: int, *, without: frozenset[str] = frozenset()
    ) -> Sequence[LeaseState]:
        """Return the leases of a backend that are to be revoked at ``now``, the longest waiting first.

        Those whose ids are in ``without`` are left out.
        """
        ...

    async def lease_outcomes(self, rule: int) -> Mapping[LeaseStatus, int]:
        """Return how many of the leases that a rule ended are in each state."""
        ...

    async def oldest_lease_end(self) -> float | None:
        """Return since when (Unix seconds) the lease has waited that waits the longest to be confirmed dead."""
        ...

    async def lease_counts(self) -> Mapping[tuple[str, LeaseStatus], int]:
        """Return how many leases there are by backend and state, those that were settled long ago left out."""
        ...


@dataclass(slots=True)
class Revocations:
    """The rules and blocks in force, shared by all use cases of one process; the ledger keeps it current."""

    rules: RuleIndex = field(default_factory=RuleIndex)
    blocks: BlockIndex = field(default_factory=BlockIndex)


# --- who is calling -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UnverifiedAssertion:
    """An assertion as it was presented; nothing about it is known to be true.

    ``spiffe`` says that it was presented as ``client-assertion-type:jwt-spiffe``. ``as_grant`` says that it is the
    ``assertion`` of a ``jwt-bearer`` grant, not a client authentication.
    """

    token: str = field(repr=False)
    spiffe: bool = False
    as_grant: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated:
    """An agent, and how it was authenticated.

    ``method`` is ``private_key_jwt``, ``platform`` or ``spiffe``. ``guards`` must hold in the commit that acts on this
    authentication (single use of an assertion); they are empty for reusable platform tokens. ``digest`` is the SHA-256
    of the assertion (hex), ``assertion_id`` its ``jti``, ``key`` the id of the key that verified it.
    """

    agent: Agent
    method: str
    digest: str
    guards: tuple[Guard, ...] = ()
    assertion_id: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """Who is calling.

    A caller that came by assertion has only what is its own: ``scopes`` are empty, and there are no ``claims``, which
    are those of the access token that another one came with; ``kid`` is the key that signed that.
    """

    agent: Agent
    scopes: frozenset[str] = frozenset()
    claims: AccessClaims | None = None
    kid: str = ""

    def require(self, scope: str) -> None:
        """Raise ``BrokerError`` (``INSUFFICIENT_SCOPE``) unless the caller's token has this scope."""
        if scope not in self.scopes:
            raise BrokerError(Code.INSUFFICIENT_SCOPE, f"this needs the scope {scope}")


class Authenticator(Protocol):
    """Turns an outside identity into an agent."""

    async def authenticate(self, assertion: UnverifiedAssertion, now: float) -> Authenticated:
        """Verify an assertion completely (protocol sheet B.3, every step but revocation and replay).

        Raises ``Refused`` with ``ASSERTION_INVALID`` (the text does not say which issuers or agents exist), or
        ``Unavailable`` with ``ISSUER_UNAVAILABLE`` when the issuer's keys cannot be had.
        """
        ...


# --- signing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Minted:
    """A signed token that was not recorded yet and must not be released. ``kid`` is the signing key's thumbprint."""

    token: str = field(repr=False)
    kid: str


class Signer(Protocol):
    """Signs access tokens with the key that is active now."""

    def kid(self) -> str:
        """The id (RFC 7638 thumbprint) of the key that the next token is signed with."""
        ...

    async def mint_checked(self, claims: AccessClaims, now: float) -> Minted:
        """Sign the claims as an RFC 9068 access token, verify that through the public path, and compare every claim.

        Raises ``Unavailable`` (``INTERNAL``) if it is not exactly what was meant; nothing is released then. Raises
        ``Refused`` (``TOO_LARGE``) if it is more than a token can say.
        """
        ...


class IdentitySigner(Protocol):
    """Signs identity tokens, by which agents prove to others who they are, with the key that is active now."""

    def mint_checked(self, claims: IdentityClaims, now: float) -> Minted:
        """Sign the claims as a JWT of type ``JWT``, verify that, and compare every claim.

        Raises ``Unavailable`` (``INTERNAL``) if it is not exactly what was meant; nothing is released then. Raises
        ``Refused`` (``TOO_LARGE``) if it is more than a token can say.
        """
        ...


# --- secrets of others ----------------------------------------------------------------------------------------------


class Backend(Protocol):
    """Where leased secrets come from: it makes or gives them, renews and ends them.

    A *handle* is text by text, holds no secret, and is all that a later process needs to go on. Every method may be
    cancelled, is bounded in time, and raises ``BackendFailed`` and nothing else; with ``uncertain`` if what was asked
    may have happened all the same. Calls run at the same time, for one lease as well.
    """

    async def prepare(self, order: LeaseOrder) -> Mapping[str, str]:
        """Return the handle with which a secret that :meth:`take` made can be ended although its answer was lost.

        It is recorded, durably, before ``take`` is called with it. What this itself makes holds no secret of its own,
        and ends by itself.
        """
        ...

    async def take(self, order: LeaseOrder, handle: Mapping[str, str]) -> Taken:
        """Make or read the secret. If this raises without ``uncertain``, no secret was made."""
        ...

    async def renew(self, handle: Mapping[str, str], seconds: int) -> int:
        """Let a secret live for ``seconds`` from now; return for how many it does, which may be fewer.

        Raises ``BackendFailed`` with ``LEASE_ENDED`` if there is nothing to renew any more.
        """
        ...

    async def revoke(self, handle: Mapping[str, str]) -> Ended:
        """End a secret, by the handle of a ``prepare`` or of a :class:`Taken`. Returns once the backend says so.

        Ending what has ended, or was never made, succeeds. Doing it twice, at the same time as well, is harmless.
        """
        ...

    async def close(self) -> None:
        """Give back connections and threads. What is still running is left to its time-out."""
        ...


@runtime_checkable
class RevokesPrefixes(Protocol):
    """A backend that can end everything below a path at once, whoever took it."""

    async def revoke_prefix(self, prefix: str) -> None:
        """End every secret below a path. Returns once the backend says so; raises ``BackendFailed``.

        Some may have been ended then.
        """
        ...


class Backends(Protocol):
    """The configured backends, each behind a gate that bounds what goes on at once."""

    def of(self, name: str) -> Backend:
        """Return a backend by its name. Raises ``BackendFailed`` (``BACKEND_REFUSED``) if none is configured so."""
        ...

    async def revoke_prefix(self, name: str, prefix: str) -> None:
        """End everything below a path of a backend; see :class:`RevokesPrefixes`.

        Raises ``BackendFailed`` (``BACKEND_REFUSED``) if there is no such backend, or if it knows no paths.
        """
        ...

    def states(self) -> Mapping[str, str]:
        """Return ``closed``, ``open`` or ``half_open`` for each: an open one is not asked for a while."""
        ...

    def ends_secrets(self, name: str) -> bool:
        """Whether a backend is to be asked to end secrets now, or is left alone for a while."""
        ...


class Envelope(Protocol):
    """Encrypts secrets to agents' own keys."""

    def check(self, jwk: object) -> str:
        """Return the thumbprint (RFC 7638) of a key that can be encrypted to. Raises ``Malformed``."""
        ...

    def seal(self, data: Secret, jwk: object) -> str:
        """Return a compact JWE. Raises ``Malformed`` as :meth:`check` does."""
        ...


# --- anchors --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Placed:
    """An anchor holds a checkpoint, durably. ``receipt`` is what it gave as evidence: where it is, under which lock.

    ``cosignatures`` are signature lines of a witness, each ended by a newline, which may be added to the note.
    """

    receipt: str
    cosignatures: str = ""


Prove = Callable[[int], Awaitable[Sequence[bytes]]]
"""Returns the RFC 6962 consistency proof from a size, 0 to that of the checkpoint which is placed, to the latter."""


class Anchor(Protocol):
    """A place beyond the broker's reach that keeps checkpoints, so that a ledger which was changed later shows.

    Every method may be cancelled, is bounded in time, never takes the event loop's, and raises ``AnchorFailed`` and
    nothing else, but for what a :data:`Prove` raises.
    """

    @property
    def remembers(self) -> bool:
        """Whether :meth:`latest` says what is held; a place that only takes does not."""
        ...

    async def place(self, checkpoint: SignedHead, prove: Prove, /) -> Placed:
        """Keep a checkpoint; returns once it is durable there. What is there already is never changed or removed.

        It is called at least once for each checkpoint that was placed, with sizes that do not fall unless somebody
        tampers with the ledger: doing it twice is harmless. If this raises, the checkpoint may be there all the same.
        Raises ``ANCHOR_INCONSISTENT`` if there is another history already, and ``ANCHOR_LOST``, once, if what was there
        is gone.
        """
        ...

    async def latest(self) -> str | None:
        """Return the youngest note that is held, as it is: the caller believes only what its own key has signed."""
        ...

    async def close(self) -> None:
        """Give back connections and threads, without waiting for what hangs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What was placed where: the checkpoint's size and root, when (Unix seconds), and what came back for it."""

    anchor: str
    size: int
    root: bytes
    at: float
    placed: Placed


class AnchorRecords(Protocol):
    """What anchoring reads of the ledger, and what it notes beside it; like :class:`Records` otherwise."""

    def signed_checkpoint(self) -> SignedHead | None:
        """Return the newest checkpoint that this process has signed, without reading the store; None before any."""
        ...

    async def checkpoint(self) -> str:
        """Sign a checkpoint of the current head, so that :meth:`signed_checkpoint` returns it."""
        ...

    async def consistency(self, old: int, new: int) -> Sequence[bytes]:
        """Return the RFC 6962 consistency proof between two tree sizes."""
        ...

    async def placements(self) -> Sequence[Placement]:
        """Return the youngest placement of each anchor."""
        ...

    async def note_placement(self, placement: Placement) -> None:
        """Keep a placement, durably, and forget all but the last ones of its anchor."""
        ...


class AnchorMeter(Protocol):
    """Measures anchors."""

    def anchor_failed(self, anchor: str, code: str) -> None:
        """Count one attempt that failed."""
        ...

    def anchor_is(
        self, anchor: str, *, lag_seconds: float, lag_entries: int, placed_at: float | None, alarm: bool
    ) -> None:
        """Show how far behind an anchor is, when it last took a checkpoint (Unix seconds), and whether to look."""
        ...


# --- telling others -------------------------------------------------------------------------------------------------


class Meter(Protocol):
    """Counts what happens, with fixed label values."""

    def issued(self, role: str, method: str) -> None:
        """Count one issued token."""
        ...

    def refused(self, code: str) -> None:
        """Count one refusal, of an agent or of a stranger."""
        ...

    def revoked(self, *, durable: bool) -> None:
        """Count one revocation."""
        ...

    def lease(self, event: str, backend: str) -> None:
        """Count what happens to leases: ``taken``, ``renewed``, ``failed``, ``missed``, or the state they end in."""
        ...

    def lease_ended(self, backend: str, seconds: float) -> None:
        """Record how long after its end a backend confirmed that a lease is dead."""
        ...

    def consent(self, event: str) -> None:
        """Count what happens to requests for approval; ``event`` as in :meth:`Notifier.approval`, or ``used``."""
        ...


class Notifier(Protocol):
    """Tells people that somebody waits for them. At least once, in no order, never blocking the caller."""

    def approval(self, state: ApprovalState, event: str) -> None:
        """Announce a request: ``event`` is ``requested``, ``approved``, ``denied``, ``break_glass`` or ``reviewed``.

        Nothing is promised about when; a failure is retried and never reaches the caller.
        """
        ...


class Events(Protocol):
    """Structured operational log. Values are text or numbers; secrets and tokens never go here."""

    def info(self, event: str, **members: Any) -> None:  # noqa: ANN401 - JSON values
        """Something normal that an operator wants to find later."""
        ...

    def error(self, event: str, **members: Any) -> None:  # noqa: ANN401 - JSON values
        """Something an operator must look at."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Where a request came from, for the record: the client's address, the request id, the W3C trace id.

    ``token`` is the id of the token that it came with, ``key`` the thumbprint of the key that this is bound to.
    """

    address: str
    request_id: str
    trace_id: str
    token: str | None = None
    key: str | None = None

    def members(self) -> dict[str, str]:
        """Return what every ledger entry about this request says of where it came from."""
        shown = {"caller_token": self.token, "caller_key": self.key}
        told = {"address": self.address, "request": self.request_id, "trace": self.trace_id}
        return told | {name: value for name, value in shown.items() if value is not None}
