"""Policy cases: what a policy must grant or deny, written down and tried out (``broker policy test``)."""

from __future__ import annotations

from broker.policy_cases.cases import Case, Expected, Result, load_cases, run_cases

__all__ = ["Case", "Expected", "Result", "load_cases", "run_cases"]
