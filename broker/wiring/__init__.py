"""The composition root: the only place that names every adapter. It has no logic of its own."""

from broker.wiring.ground import master_key_source
from broker.wiring.opening import Broker, open_broker
from broker.wiring.place import ALONE, Place

__all__ = ["ALONE", "Broker", "Place", "master_key_source", "open_broker"]
