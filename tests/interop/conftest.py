"""A running broker for the foreign clients, and the agents that they sign in as."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running_broker import RunningBroker

POLICY = """
version: 1
audiences:
  https://tickets.internal:
    scopes:
      "tickets:read": {tier: read}
      "tickets:list": {tier: read}
      "tickets:comment": {tier: write}
    status_list: true
  https://payments.internal:
    scopes: {"refunds:create": {tier: sensitive}}
tiers:
  read: {max_ttl: 15m}
  write: {max_ttl: 10m, proof_of_possession: required}
  sensitive: {max_ttl: 5m, approval: {approvers: operators, quorum: 1, expires: 10m}}
roles:
  support:
    members: [{agent: alpha}]
    allow:
      - {audience: https://tickets.internal, scopes: ["tickets:read", "tickets:list", "tickets:comment"]}
      - {audience: https://payments.internal, scopes: ["refunds:create"]}
    may_delegate_to: [helpers]
  helpers:
    members: [{agent: beta}]
    allow:
      - {audience: https://tickets.internal, scopes: ["tickets:read"]}
  operators:
    members: [{agent: operator}]
    allow:
      - audience: broker
        scopes: ["operator:read", "revocations:write", "agents:write", "approvals:read", "approvals:decide"]
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """A running broker."""
    running = RunningBroker(tmp_path_factory.mktemp("broker"), POLICY)
    running.initialise()
    running.start()
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def key(broker: RunningBroker) -> Path:
    """The private key of the registered agent ``alpha``."""
    return broker.agent("alpha")


@pytest.fixture(scope="module")
def helper_key(broker: RunningBroker) -> Path:
    """The private key of the registered agent ``beta``, to which ``alpha`` may hand tokens on."""
    return broker.agent("beta")
