"""The scopes of the broker's own API: the built-in audience ``broker`` of every policy."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

BROKER: Final = "broker"
"""What a policy calls the broker's own API; as an audience of tokens it is ``<issuer>/v1``."""

IDENTITY_SCOPE: Final = "identity:issue"
"""What a token must have to be exchanged for an identity token."""

LEASE_SCOPE: Final = "leases:take"
"""What a token must have for leases to be taken with it."""

OPERATOR_TIER: Final = "operator"
"""The built-in tier of these scopes, unless the policy says otherwise."""

OPERATOR_SCOPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tasks:open": "open a task",
        "tasks:read": "read the state of a task",
        "tasks:close": "close a task, which ends every grant of it",
        LEASE_SCOPE: "take, renew and give back leased secrets",
        "leases:read": "list one's own leases",
        IDENTITY_SCOPE: "exchange the token for identity tokens, for clouds, Vault and others",
        "revocations:write": "revoke credentials, block new ones, lift blocks",
        "revocations:read": "follow the live revocation rules and acknowledge them, as verifiers do",
        "operator:read": "see everything an operator sees: rules, blocks, agents, keys, any token and lease",
        "approvals:read": "list pending approvals",
        "approvals:decide": "approve or deny a pending request",
        "actions:reserve": "reserve actions against the budgets of tasks and settle them, as resource servers do",
        "agents:write": "register agents and create enrolment codes",
        "ledger:read": "read the ledger, its checkpoints and proofs",
        "ledger:erase": "erase what is personal in the ledger",
        "keys:write": "rotate the broker's signing keys",
        "policy:write": "have the broker load its policy file again",
    }
)
"""Every scope of the broker's own API, with what its bearer may do."""
