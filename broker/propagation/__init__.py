"""Who has applied a rule: verifiers acknowledge, replicas tell of themselves, and revoking waits for all of them."""

from broker.propagation.acknowledging import Acknowledging, Limits
from broker.propagation.conductor import Propagations
from broker.propagation.own_replica import OwnReplica

__all__ = ["Acknowledging", "Limits", "OwnReplica", "Propagations"]
