"""Anchoring: the newest checkpoint of the ledger is placed where the broker cannot take it back, and looked at again.

Nothing here is waited for by whoever is issued a token: each anchor has a task of its own, and its own pace.
"""

from broker.anchoring.conductor import Anchoring, AnchorState, Known, ask
from broker.anchoring.station import Means, Pace

__all__ = ["AnchorState", "Anchoring", "Known", "Means", "Pace", "ask"]
