"""GitHub Actions: the token of one job.

The agent is built from ids that nobody can take over: ``<issuer>/<repository_id>/environment:<name>`` for a job in an
environment, else ``<issuer>/<repository_id>/ref:<ref>``. Names of repositories and owners change hands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from broker.authenticators.claim_sheet import ClaimSheet, required_text
from broker.authenticators.preset import Preset
from broker.core.identity import Agent, federated_id
from broker.core.issuer import TrustedIssuer
from broker.core.jwt import PLATFORM_TOKEN, Audience, InvalidToken

_IDS: Final = ("repository_id", "repository_owner_id")

_SHEET: Final = ClaimSheet(
    required=frozenset({"repository_id", "repository_owner_id", "ref"}),
    exposed=frozenset(
        {
            "actor",
            "actor_id",
            "base_ref",
            "check_run_id",
            "enterprise",
            "enterprise_id",
            "environment",
            "environment_node_id",
            "event_name",
            "head_ref",
            "issuer_scope",
            "job_workflow_ref",
            "job_workflow_sha",
            "ref_protected",
            "ref_type",
            "repository",
            "repository_owner",
            "repository_visibility",
            "run_attempt",
            "run_id",
            "run_number",
            "runner_environment",
            "sha",
            "workflow",
            "workflow_ref",
            "workflow_sha",
        }
    ),
)


def _identify(claims: Mapping[str, Any], issuer: TrustedIssuer) -> Agent:
    """Make the agent."""
    attributes = _SHEET.attributes(claims)
    repository, owner = (required_text(claims, name) for name in _IDS)
    if not (_is_id(repository) and _is_id(owner)):
        raise InvalidToken("claims")
    if "environment" in claims:
        context = f"environment:{required_text(claims, 'environment')}"
    else:
        context = f"ref:{required_text(claims, 'ref')}"
    return Agent(federated_id(issuer.name, repository, context), issuer.name, claims["sub"], attributes)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit()


GITHUB_ACTIONS: Final = Preset(row=replace(PLATFORM_TOKEN, audience=Audience.SOLE), sheet=_SHEET, identify=_identify)
