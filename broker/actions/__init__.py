"""Actions: reserved against the budget of a task before they are done, settled with their outcome after."""

from broker.actions.conductor import Actions
from broker.actions.wish import Wish

__all__ = ["Actions", "Wish"]
