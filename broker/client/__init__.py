"""What an agent uses to get tokens from the broker, keep them fresh, and send them with its requests."""

from broker.client.client import Client
from broker.client.dpop import DpopKey
from broker.client.errors import TaskRefused, TaskUnavailable, TokenPending, TokenRefused, TokenUnavailable
from broker.client.identity import Identity, KeyIdentity, PlatformIdentity
from broker.client.task import OpenTask
from broker.client.token import Token

__all__ = [
    "Client",
    "DpopKey",
    "Identity",
    "KeyIdentity",
    "OpenTask",
    "PlatformIdentity",
    "TaskRefused",
    "TaskUnavailable",
    "Token",
    "TokenPending",
    "TokenRefused",
    "TokenUnavailable",
]
