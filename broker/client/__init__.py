"""What an agent uses to get tokens and secrets from the broker, keep them fresh, and work with them in tasks."""

from broker.client.client import Client
from broker.client.dpop import DpopKey
from broker.client.errors import (
    ApiRefused,
    ApiUnavailable,
    LeaseRefused,
    LeaseUnavailable,
    TaskRefused,
    TaskUnavailable,
    TokenPending,
    TokenRefused,
    TokenUnavailable,
)
from broker.client.identity import Identity, KeyIdentity, PlatformIdentity
from broker.client.leased_secret import LeasedSecret
from broker.client.receipts import Receipt
from broker.client.task import OpenTask
from broker.client.token import Token

__all__ = [
    "ApiRefused",
    "ApiUnavailable",
    "Client",
    "DpopKey",
    "Identity",
    "KeyIdentity",
    "LeaseRefused",
    "LeaseUnavailable",
    "LeasedSecret",
    "OpenTask",
    "PlatformIdentity",
    "Receipt",
    "TaskRefused",
    "TaskUnavailable",
    "Token",
    "TokenPending",
    "TokenRefused",
    "TokenUnavailable",
]
