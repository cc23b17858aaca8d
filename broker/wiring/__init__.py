"""The composition root: the only place that names every adapter. It has no logic of its own."""

from broker.wiring.ground import master_key_source
from broker.wiring.opening import Broker, open_broker

__all__ = ["Broker", "master_key_source", "open_broker"]
