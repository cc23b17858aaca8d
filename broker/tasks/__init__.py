"""Tasks as a use case: opening, showing, keeping alive and closing."""

from broker.tasks.closing import Closed, Ended
from broker.tasks.conductor import TaskFilter, Tasks

__all__ = ["Closed", "Ended", "TaskFilter", "Tasks"]
