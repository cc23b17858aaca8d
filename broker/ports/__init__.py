"""The ports: what the use cases need from the outside, as small protocols whose docstrings promise semantics."""

from broker.ports.anchors import Anchor, AnchorMeter, AnchorRecords, Placed, Placement, Prove
from broker.ports.callers import Admitted, Authenticated, Authenticator, Caller, UnverifiedAssertion
from broker.ports.clock import Clock, Ids
from broker.ports.evidence import Erasable, Examining, Forgettable, Proofs, Proven, SelfExamined, SignedHead
from broker.ports.leases import Backend, Backends, Envelope, LeaseFilter, LeaseRecords, RevokesPrefixes
from broker.ports.ledger import Freshness, Ledger, Revocations
from broker.ports.places import Place, Server, beside
from broker.ports.presence import Acknowledged, Left, Presence, PresenceMeter
from broker.ports.records import FoundRecords, Hits, Idempotent, Inquiries, LeaseHits, Record, Records, TreeHead
from broker.ports.siblings import Leadership, ProofMemory, Siblings
from broker.ports.signing import IdentitySigner, Minted, Signer, Statements
from broker.ports.status_lists import Listed, StatusRecords
from broker.ports.telling import Events, FeedMeter, Meter, Notifier

__all__ = [
    "Acknowledged",
    "Admitted",
    "Anchor",
    "AnchorMeter",
    "AnchorRecords",
    "Authenticated",
    "Authenticator",
    "Backend",
    "Backends",
    "Caller",
    "Clock",
    "Envelope",
    "Erasable",
    "Events",
    "Examining",
    "FeedMeter",
    "Forgettable",
    "FoundRecords",
    "Freshness",
    "Hits",
    "Idempotent",
    "IdentitySigner",
    "Ids",
    "Inquiries",
    "Leadership",
    "LeaseFilter",
    "LeaseHits",
    "LeaseRecords",
    "Ledger",
    "Left",
    "Listed",
    "Meter",
    "Minted",
    "Notifier",
    "Place",
    "Placed",
    "Placement",
    "Presence",
    "PresenceMeter",
    "ProofMemory",
    "Proofs",
    "Prove",
    "Proven",
    "Record",
    "Records",
    "Revocations",
    "RevokesPrefixes",
    "SelfExamined",
    "Server",
    "Siblings",
    "SignedHead",
    "Signer",
    "Statements",
    "StatusRecords",
    "TreeHead",
    "UnverifiedAssertion",
    "beside",
]
