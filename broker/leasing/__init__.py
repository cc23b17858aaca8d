"""Leasing: secrets from backends, for a task, with an end, and never an unknown one left behind (law 5)."""

from broker.leasing.conductor import Leasing
from broker.leasing.holding import Holdings
from broker.leasing.oversight import Oversight
from broker.leasing.wish import Leased, LeaseWish

__all__ = ["Holdings", "LeaseWish", "Leased", "Leasing", "Oversight"]
