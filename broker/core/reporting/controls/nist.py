"""NIST AI Risk Management Framework 1.0: the outcomes that the broker bears on. It is voluntary and no checklist."""

from __future__ import annotations

from typing import Final

from broker.core.reporting.controls.control import Control, Framework

NIST: Final = Framework(
    "NIST AI Risk Management Framework",
    "NIST AI 100-1, January 2023; outcomes that are not named here are not the broker's",
    (
        Control(
            "GOVERN 1.6",
            "an inventory of AI systems",
            "Registered agents are listed, and every agent that got or was refused a credential is in the ledger.",
            "Agents that never ask the broker; what each agent is for beyond the purpose that its tasks state.",
            ("agent.registered", "agent.removed", "token.issued"),
            ("docs/reference/cli.md",),
        ),
        Control(
            "GOVERN 1.7",
            "decommissioning",
            "Removing an agent, or one rule with a block, ends all its credentials and refuses new ones.",
            "Stopping the agent itself, and what it left elsewhere.",
            ("agent.removed", "rule.added"),
            ("tests/laws/test_law_03_one_rule.py", "docs/how-to/respond-to-a-hijacked-agent.md"),
        ),
        Control(
            "GOVERN 2.1",
            "roles and responsibilities are documented",
            "The policy says which role may have what, and who may approve; its digest is in every entry it decided.",
            "Who in the organisation answers for which role.",
            ("policy.loaded",),
            ("docs/reference/policy.md",),
        ),
        Control(
            "GOVERN 3.2, MAP 3.5",
            "human oversight of AI systems",
            "Tiers can demand that people approve exactly one request, others than those whose request it is.",
            "Which actions need a person, and whether people look closely.",
            ("approval.requested", "approval.voted", "approval.reviewed"),
            ("docs/decisions/0009-approvals-are-bound-to-a-digest.md", "docs/how-to/approve-requests.md"),
        ),
        Control(
            "MEASURE 2.4",
            "behaviour is monitored in production",
            "Each credential, refusal and reserved action is recorded when it happens, and can be followed.",
            "What agents do with credentials at services that do not reserve actions; judging any of it.",
            ("token.issued", "token.refused", "action.reserved"),
            ("tests/laws/test_law_01_recorded_before_released.py",),
        ),
        Control(
            "MEASURE 2.7",
            "security and resilience are evaluated",
            "The broker's laws are tests, with faults injected and processes killed; this report has measured times.",
            "Evaluating the agents and their models.",
            (),
            ("docs/explanation/threat-model.md", "tests/faults/test_ledger_faults.py"),
        ),
        Control(
            "MEASURE 2.8",
            "transparency and accountability",
            "Who, what, why and by which line of the policy, for each decision, in a record that shows changes.",
            "Why a model wanted it.",
            ("token.issued", "token.refused", "lease.sealed"),
            ("docs/verify_ledger.py",),
        ),
        Control(
            "MANAGE 2.4",
            "systems can be disengaged or deactivated",
            "One call ends any set of credentials; it works while the ledger cannot be written.",
            "Work that needs no credential of the broker, and secrets that their backend cannot revoke.",
            ("rule.added", "lease.settled"),
            ("tests/laws/test_law_02_no_stale_rules.py", "tests/laws/test_law_06_honest_outcomes.py"),
        ),
        Control(
            "MANAGE 4.1, MANAGE 4.3",
            "monitoring, incident response, and telling of incidents",
            "Rules carry an incident's name; the story of a token, lease or task is told as a tree.",
            "The plan, the people, and telling those concerned.",
            ("rule.added", "block.lifted"),
            ("docs/how-to/respond-to-a-hijacked-agent.md",),
        ),
    ),
)
