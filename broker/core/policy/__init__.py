"""The policy: what it says (``model``), whom its lines mean (``matching``), and how a document becomes one."""

from __future__ import annotations

from broker.core.policy.compile import compile_policy
from broker.core.policy.compile_tiers import LONGEST_TTL
from broker.core.policy.document import PolicyError, Problem
from broker.core.policy.model import Policy, Role, Tier
from broker.core.policy.operator_scopes import BROKER, OPERATOR_SCOPES, OPERATOR_TIER

__all__ = [
    "BROKER",
    "LONGEST_TTL",
    "OPERATOR_SCOPES",
    "OPERATOR_TIER",
    "Policy",
    "PolicyError",
    "Problem",
    "Role",
    "Tier",
    "compile_policy",
]
