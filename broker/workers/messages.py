"""What the supervisor and its workers ask each other. Both are the same program, so that nothing here has versions."""

from __future__ import annotations

from typing import Final

import msgspec

from broker.core.revoking import Making
from broker.core.used_proofs import ProofUse
from broker.metrics import Family


class Join(msgspec.Struct, frozen=True, tag=True):
    """Worker: I am about to serve; which rules are in force beside the ledger? Answered by ``Unwritten``."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Worker: I serve."""


class UseProof(msgspec.Struct, frozen=True, tag=True):
    """Worker: an agent uses this proof up. Answered by ``Judged``."""

    agent: str
    key: bytes
    expires_at: int
    now: float


class Tell(msgspec.Struct, frozen=True, tag=True):
    """Worker: this rule is in force and could not be written yet. Answered when every other worker has heard it."""

    made: Making


class Settled(msgspec.Struct, frozen=True, tag=True):
    """Worker: this rule needs no memory beside the ledger any more."""

    rule: str


class Gather(msgspec.Struct, frozen=True, tag=True):
    """Worker: what have all of us counted? Answered by ``Measured``."""


class Hear(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: put these rules in force; those to ``adopt`` are yours to write."""

    made: tuple[Making, ...]
    adopt: bool = False


class Forget(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: this rule is written or withdrawn."""

    rule: str


class Measure(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: what have you counted? Answered by ``Measured``."""


class Reload(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: take the certificate from its files; and the policy, for all workers."""

    policy: bool


class Retire(msgspec.Struct, frozen=True, tag=True):
    """Supervisor: another one has taken your place. Answer what comes on your connections, and end."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """It is done, and there is nothing to say about it."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It could not be done; the log of the one who was asked says why."""


class Unwritten(msgspec.Struct, frozen=True, tag=True):
    """Rules that are in force beside the ledger, and those of them that nobody is writing."""

    made: tuple[Making, ...]
    orphans: tuple[Making, ...]


class Judged(msgspec.Struct, frozen=True, tag=True):
    """What became of the use of a proof."""

    use: ProofUse


class Measured(msgspec.Struct, frozen=True, tag=True):
    """What was counted, as families of samples."""

    families: tuple[Family, ...]


Message = (
    Join
    | Ready
    | UseProof
    | Tell
    | Settled
    | Gather
    | Hear
    | Forget
    | Measure
    | Reload
    | Retire
    | Done
    | Failed
    | Unwritten
    | Judged
    | Measured
)

DONE: Final = Done()
